"""Simulation: runs the shared rules with predicted durations from one decision to the next."""

from __future__ import annotations

from shunter.envs.rules.durations import fill_times
from shunter.envs.rules.dynamics import admit, apply, complete, next_idle, wake_waiting
from shunter.envs.sim.compiled import entry, inlined
from shunter.envs.state.queues import due, finished, next_arrival_ns, overdue
from shunter.envs.state.state import IDLE, RUN, WAIT, State
from shunter.envs.state.tables import Tables

__all__ = ["STALLED", "advance", "begin"]

STALLED = -2
"""Returned instead of a device while the ring must be filled, or the pool of slots grown, to go on."""


@inlined
def next_event_ns(s: State) -> int:
    """Time of the next completion, end of a wait, or arrival."""
    soonest = next_arrival_ns(s)
    for d in range(s.device.shape[0]):
        if s.device[d].op_kind != IDLE:
            soonest = min(soonest, s.device[d].op_end_ns)
    return int(max(soonest, s.clock[0].now_ns))


@entry
def advance(t: Tables, s: State) -> int:
    """Lets time pass until a device asks for a decision.

    Returns:
        The device; -1 once the episode is over; ``STALLED`` if called again it goes on where it stopped.
    """
    c = s.clock[0]
    while not finished(s):
        device = next_idle(s)
        if device >= 0 and c.stalled == 0 and not overdue(s):
            return int(device)
        if c.stalled == 0 and c.taken >= c.filled and c.taken < c.last:
            return STALLED
        now = c.now_ns if c.stalled == 1 else next_event_ns(s)
        admit(t, s, now)
        c.stalled = 1 if due(s, now) else 0
        if c.stalled == 1:
            return STALLED
        for d in range(s.device.shape[0]):
            if s.device[d].op_kind >= RUN and s.device[d].op_end_ns <= now:
                complete(s, d)
        wake_waiting(s)
    return -1


@inlined
def begin(t: Tables, s: State, d: int, action: int) -> None:
    """Carries out a legal action of device d: what becomes of it is known at once, its end lies ahead."""
    if apply(t, s, d, action) and s.device[d].op_kind != WAIT:
        fill_times(t, s, d)
