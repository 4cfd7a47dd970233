"""On how many devices a model may be at once.

A model is on a device that holds it, loads it, is about to, or unloads it, and as long as KV of its requests
is there: who is tied to a device can be served nowhere else, so a device that a model is on may always load
it.
"""

from __future__ import annotations

from shunter.envs.sim.compiled import inlined
from shunter.envs.state.state import LOAD, State
from shunter.envs.state.tables import Tables


@inlined
def is_on(s: State, d: int, m: int) -> bool:
    """Whether model m, or KV of its requests, is on device d, or about to be."""
    place, device = s.place[d, m], s.device[d]
    held = place.resident >= 0 or place.evicting >= 0 or place.held > 0
    loads = device.op_kind == LOAD and device.op_model == m
    return bool(held or loads or device.pending_model == m)


@inlined
def may_hold(t: Tables, s: State, d: int, m: int) -> bool:
    """Whether device d may hold model m beside the devices that the model is on."""
    devices, others = s.device.shape[0], 0
    if t.model[m].replicas_max >= devices:
        return True
    for e in range(devices):
        if is_on(s, e, m):
            if e == d:
                return True
            others += 1
    return bool(others < t.model[m].replicas_max)
