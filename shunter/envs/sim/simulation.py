"""Simulation: runs the shared rules with predicted durations from one decision to the next."""

from __future__ import annotations

from shunter.envs.rules.durations import fill_times
from shunter.envs.rules.dynamics import admit, apply, complete, next_idle, wake_waiting
from shunter.envs.rules.expiry import next_expiry_ns
from shunter.envs.rules.serving import is_draining, join_first, look_at_servers, serve_all
from shunter.envs.sim.compiled import entry, inlined
from shunter.envs.state.queues import due, finished, next_arrival_ns, overdue
from shunter.envs.state.records import FAR_NS
from shunter.envs.state.state import IDLE, LOAD, RUN, WAIT, State
from shunter.envs.state.tables import Tables

__all__ = ["STALLED", "advance", "begin", "predict"]

STALLED = -2
"""Returned instead of a device while the ring must be filled, or the pool of slots grown, to go on."""


@inlined
def next_event_ns(t: Tables, s: State) -> int:
    """Time of the next completion, end of a wait, arrival, or end of an idle model's time."""
    soonest = min(next_arrival_ns(s), next_expiry_ns(t, s))
    for d in range(s.device.shape[0]):
        if s.device[d].op_kind != IDLE:
            soonest = min(soonest, s.device[d].op_end_ns)
        if s.device[d].serving_end_ns >= 0:
            soonest = min(soonest, s.device[d].serving_end_ns)
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
        drains = t.limits[0].drain != 0
        if drains and c.stalled == 0 and not overdue(s):
            serve_all(t, s)
        now = c.now_ns if c.stalled == 1 else next_event_ns(t, s)
        admit(t, s, now)
        c.stalled = 1 if due(s, now) else 0
        if c.stalled == 1:
            return STALLED
        if drains:
            look_at_servers(t, s, now)
        for d in range(s.device.shape[0]):
            if s.device[d].op_kind >= RUN and s.device[d].op_end_ns <= now:
                is_load = s.device[d].op_kind == LOAD
                complete(s, d)
                if drains and is_load:
                    join_first(t, s, d)
        wake_waiting(s)
    return -1


@entry
def predict(t: Tables, s: State, d: int) -> None:
    """Fills in the times of device d's new operation; what must drain first ends nobody knows when."""
    fill_times(t, s, d)
    if t.limits[0].drain != 0 and is_draining(s, d):
        s.device[d].op_end_ns = FAR_NS


@inlined
def begin(t: Tables, s: State, d: int, action: int) -> None:
    """Carries out a legal action of device d: what becomes of it is known at once, its end lies ahead."""
    if apply(t, s, d, action) and s.device[d].op_kind != WAIT:
        predict(t, s, d)
