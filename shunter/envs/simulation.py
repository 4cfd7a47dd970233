"""The simulated world: runs the shared rules with predicted durations from one decision to the next."""

from __future__ import annotations

from shunter.envs.compiled import jit
from shunter.envs.durations import fill_times
from shunter.envs.dynamics import admit, apply, complete, next_idle, wake_waiting
from shunter.envs.state import IDLE, RUN, WAIT, Requests, State, Tables

__all__ = ["FAR_NS", "advance", "finished", "take"]

FAR_NS = 1 << 62
"""Later than anything."""


@jit
def finished(s: State, r: Requests) -> bool:
    """Whether every request of the episode has arrived and left."""
    return bool(s.arrived[0] == r.arrival_ns.shape[0] and s.in_system[0] == 0)


@jit
def next_event_ns(s: State, r: Requests) -> int:
    """Time of the next completion, end of a wait, or arrival."""
    soonest = FAR_NS
    if s.arrived[0] < r.arrival_ns.shape[0]:
        soonest = r.arrival_ns[s.arrived[0]]
    for d in range(s.op_kind.shape[0]):
        if s.op_kind[d] != IDLE:
            soonest = min(soonest, s.op_end_ns[d])
    return int(soonest)


@jit
def advance(s: State, r: Requests) -> int:
    """Lets time pass until a device asks for a decision; returns it, or -1 once the episode is over."""
    while not finished(s, r):
        device = next_idle(s)
        if device >= 0:
            return int(device)
        now = max(next_event_ns(s, r), s.now_ns[0])
        admit(s, r, now)
        for d in range(s.op_kind.shape[0]):
            if s.op_kind[d] >= RUN and s.op_end_ns[d] <= now:
                complete(s, r, d)
        wake_waiting(s)
    return -1


@jit
def take(t: Tables, s: State, r: Requests, d: int, action: int) -> int:
    """Carries out a legal action of device d and advances; returns the device that asks next, or -1."""
    if apply(t, s, d, action) and s.op_kind[d] != WAIT:
        fill_times(t, s, r, d)
    return int(advance(s, r))
