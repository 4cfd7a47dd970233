"""Asleep: a state of residency between loaded and gone, where engines can sleep (``limits.sleep``).

A model that is evicted falls asleep where it was: its engine lives on and keeps some of the device's memory,
and at level 1 the weights in the host's. A load at the same layers on the same device wakes it, in less time
than a load from nothing; evicting it once more ends it, as does loading it there at other layers. A sleeper
serves nobody and is no copy (``rules.copies``), and what is pinned never sleeps.

The host's memory for weights (``limits.host_memory_gb``) is the sleepers' first and the page cache's for the
rest. Who would fall asleep at level 1 without room there makes the least recently used sleepers of its own
device end; where those would not do, it is unloaded instead. Who makes room on the device is the policy's to
say, except that no sleeper is ended where a resident must go in any case (``candidates.spares_sleepers``).
"""

from __future__ import annotations

import numpy as np

from shunter.envs.rules.host_cache import asleep_host_bytes, host_bytes_of, make_host_room
from shunter.envs.sim.compiled import inlined, internal
from shunter.envs.state.state import State
from shunter.envs.state.tables import Tables


@inlined
def kept_bytes(t: Tables, s: State, d: int, m: int) -> float:
    """Device memory that model m keeps on device d asleep, or about to be; 0 if it is neither."""
    level = s.place[d, m].asleep
    return float(t.asleep[d, m, level].asleep_bytes) if level >= 0 else 0.0


@inlined
def loading_s(t: Tables, d: int, m: int, level: int, cold: int, wakes: int) -> float:
    """Seconds of a load on device d: from nothing or of a sleeper, with or without the disk."""
    at = t.level[d, m, level]
    load_s = at.cold_load_s if cold != 0 else at.load_s
    if wakes != 0:
        # What level 2 reads again may be on the disk; level 1 needs nothing from there.
        from_disk_s = max(0.0, at.cold_load_s - at.load_s) if cold != 0 and t.limits[0].sleep == 2 else 0.0
        load_s = t.asleep[d, m, level].wake_s + from_disk_s
    return float(load_s)


@inlined
def expected_load_s(t: Tables, s: State, d: int, m: int, level: int) -> float:
    """Seconds of a load on device d, as things stand."""
    cold = 1 if s.model[m].cached == 0 else 0
    return loading_s(t, d, m, level, cold, 1 if s.place[d, m].asleep == level else 0)


@inlined
def leaving_s(t: Tables, s: State, d: int, m: int) -> float:
    """Seconds that what device d is evicting of model m takes: to unload, or to fall asleep."""
    place = s.place[d, m]
    if place.asleep >= 0:
        return float(t.asleep[d, m, place.evicting].fall_asleep_s)
    return float(t.level[d, m, place.evicting].unload_s)


@inlined
def end_sleeper(s: State, d: int, m: int) -> None:
    """Marks what sleeps for unloading by the device's next operation."""
    place = s.place[d, m]
    place.evicting = place.asleep
    place.asleep = -1
    place.changed = 1


@internal
def least_used_sleeper(s: State, d: int, besides: int) -> int:
    """The sleeper of device d that was used least recently, or -1; never the one that it is to wake."""
    chosen = -1
    for m in range(s.model.shape[0]):
        if s.place[d, m].asleep < 0 or m == besides or m == s.device[d].pending_model:
            continue
        if chosen < 0 or s.place[d, m].last_used_ns < s.place[d, chosen].last_used_ns:
            chosen = m
    return chosen


@internal
def fall_asleep(t: Tables, s: State, d: int, m: int) -> None:
    """What device d evicts falls asleep, if the host has room for what it keeps there."""
    place = s.place[d, m]
    place.asleep = place.evicting
    if t.limits[0].sleep != 1 or np.isinf(t.limits[0].host_bytes):
        return
    stays = 0.0
    for e in range(s.place.shape[0]):
        for other in range(s.place.shape[1]):
            if e != d or other == m or other == s.device[d].pending_model:
                stays += host_bytes_of(t, s, e, other)
    if stays > t.limits[0].host_bytes:
        place.asleep = -1
        return
    other = least_used_sleeper(s, d, m)
    while other >= 0 and asleep_host_bytes(t, s) > t.limits[0].host_bytes:
        s.counts[0].evictions += 1
        end_sleeper(s, d, other)
        other = least_used_sleeper(s, d, m)
    make_host_room(t, s, -1)
