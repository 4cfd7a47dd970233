"""Which models' weights the host holds: what was loaded once stays there while the node's memory lasts.

The real executor keeps the same books: it believes that the page cache holds what these rules say. What
engines keep there that sleep at level 1 (``rules.asleep``) comes first, and is no page cache.
"""

from __future__ import annotations

from shunter.envs.sim.compiled import inlined, internal, jit
from shunter.envs.state.state import State
from shunter.envs.state.tables import Tables


@internal
def cached_bytes(t: Tables, s: State) -> float:
    """What the weights in the host's memory take."""
    total = 0.0
    for m in range(s.model.shape[0]):
        if s.model[m].cached != 0:
            total += t.weight_bytes[m]
    return total


@jit
def fill_cache(t: Tables, s: State) -> None:
    """How an episode begins: models are in the host's memory in the order listed, as far as it goes."""
    total = 0.0
    for m in range(s.model.shape[0]):
        model = s.model[m]
        total += t.weight_bytes[m]
        model.cached = 1 if total <= t.limits[0].host_bytes else 0
        model.cached_at = 0


@inlined
def cache(s: State, m: int, cached: int) -> None:
    """Notes whether the host's memory holds model m: what its candidates show changes everywhere."""
    s.model[m].cached = cached
    for d in range(s.place.shape[0]):
        s.place[d, m].changed = 1


@inlined
def host_bytes_of(t: Tables, s: State, d: int, m: int) -> float:
    """Host memory that model m keeps asleep on device d: at level 1 what of its weights was there."""
    level = s.place[d, m].asleep
    if level < 0 or t.limits[0].sleep != 1:
        return 0.0
    return float(t.weight_bytes[m] * t.level[d, m, level].gpu_share)


@internal
def asleep_host_bytes(t: Tables, s: State) -> float:
    """Host memory that all sleepers keep."""
    total = 0.0
    if t.limits[0].sleep == 1:
        for d in range(s.place.shape[0]):
            for m in range(s.place.shape[1]):
                total += host_bytes_of(t, s, d, m)
    return total


@internal
def make_host_room(t: Tables, s: State, newest: int) -> None:
    """Drops weights from the page cache until it has its room, the least recently used first, newest last."""
    while cached_bytes(t, s) + asleep_host_bytes(t, s) > t.limits[0].host_bytes:
        oldest = newest
        for other in range(s.model.shape[0]):
            model = s.model[other]
            if other == newest or model.cached == 0:
                continue
            if oldest == newest or model.cached_at < s.model[oldest].cached_at:
                oldest = other
        if oldest < 0 or s.model[oldest].cached == 0:
            return
        cache(s, oldest, 0)


@internal
def fetch_weights(t: Tables, s: State, m: int) -> int:
    """Brings a model's weights into the host's memory; the least recently used ones make room.

    Returns:
        1 if they had to be read from disk, else 0. One that is larger than the memory never stays.
    """
    cold = 1 - s.model[m].cached
    cache(s, m, 1)
    s.model[m].cached_at = s.counts[0].swaps
    make_host_room(t, s, m)
    return int(cold)
