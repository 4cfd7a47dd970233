"""How long a model lies idle on a device before it is evicted: ``models.ttl_s``, as a rule of what is legal.

A device that may choose freely, and holds a model that nobody it could serve waits for and that was last used
so long ago, may only evict it; one that waits is asked at that moment. So policies, logs and engines see an
eviction like any other.
"""

from __future__ import annotations

from shunter.envs.rules.claims import claimable_count
from shunter.envs.sim.compiled import entry, inlined, internal
from shunter.envs.state.records import FAR_NS
from shunter.envs.state.state import WAIT, State
from shunter.envs.state.tables import Tables

__all__ = ["next_expiry_ns"]


@inlined
def expiry_ns(t: Tables, s: State, d: int, m: int) -> int:
    """When model m will have lain idle on device d for too long, as things stand; FAR_NS if never."""
    place, ttl_ns = s.place[d, m], t.model[m].ttl_ns
    if place.resident < 0 or ttl_ns == FAR_NS or claimable_count(s, d, m) > 0:
        return FAR_NS
    return int(place.last_used_ns + ttl_ns)


@internal
def expired_model(t: Tables, s: State, d: int) -> int:
    """The model that device d, which has no load pending, must evict now because it lay idle, or -1.

    Of several the one whose time was over first; of equals the largest.
    """
    if t.limits[0].least_ttl_ns == FAR_NS or s.device[d].pending_model >= 0:
        return -1
    chosen, over_ns, size = -1, s.clock[0].now_ns, -1.0
    for m in range(s.model.shape[0]):
        at_ns = expiry_ns(t, s, d, m)
        if at_ns > over_ns:
            continue
        own = t.level[d, m, s.place[d, m].resident].footprint_bytes
        if at_ns < over_ns or own > size:
            chosen, over_ns, size = m, at_ns, own
    return chosen


@entry
def next_expiry_ns(t: Tables, s: State) -> int:
    """When next a device that waits holds a model that lay idle for too long; FAR_NS if none does.

    Idle devices are asked in any case: that must not wake those that wait a second time.
    """
    soonest = FAR_NS
    if t.limits[0].least_ttl_ns == FAR_NS:
        return soonest
    for d in range(s.device.shape[0]):
        if s.device[d].op_kind == WAIT:
            for m in range(s.model.shape[0]):
                soonest = min(soonest, expiry_ns(t, s, d, m))
    return int(soonest)
