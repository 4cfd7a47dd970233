"""Which requests a device could run now."""

from __future__ import annotations

from shunter.envs.sim.compiled import inlined
from shunter.envs.state.state import State


@inlined
def claimable(s: State, i: int, d: int) -> bool:
    """Whether device d may run the request in slot i now: nobody runs it and its KV is here or nowhere."""
    r = s.slot[i]
    return bool(r.owner < 0 and (r.home < 0 or r.home == d))


@inlined
def claimable_count(s: State, d: int, m: int) -> int:
    """How many requests of a model a device may run now."""
    return int(s.model[m].unassigned + s.place[d, m].held)
