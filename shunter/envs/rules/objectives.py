"""What a schedule costs, as it accrues: the same functions in the simulator and in the real executor.

Mean response is counted in whole request-nanoseconds by the clock itself (``shunter.envs.state.queues``).
The other objectives are counted in ``cost``: by a rate that holds from one event to the next, and by misses
of the SLO as soon as they are certain, except that a running quantum is not looked into before it ends.
"""

from __future__ import annotations

import numpy as np

from shunter.envs.rules.durations import interpolate, locate, on_piece
from shunter.envs.sim.compiled import entry, inlined, internal, jit
from shunter.envs.state.records import FAR_NS
from shunter.envs.state.state import Floats, State
from shunter.envs.state.tables import MEAN_RESPONSE, PRICED, SLO, SLOWDOWN, Tables

__all__ = ["accrued", "alone_s", "charge_unserved"]


@inlined
def steps_s(first: int, count: int, grid: Floats, values: Floats) -> float:
    """Seconds of so many decode steps whose context grows by one each, from ``first`` on."""
    total, x, left = 0.0, first, count
    while left > 0:
        piece = locate(float(x), grid)
        ahead = left
        if piece < grid.shape[0] - 1:
            ahead = max(1, min(left, int(np.floor(grid[piece])) - x + 1))
        total += ahead * on_piece(x + 0.5 * (ahead - 1), piece, grid, values)
        x += ahead
        left -= ahead
    return total


@jit
def alone_s(t: Tables, m: int, prompt_tokens: int, decode_tokens: int) -> float:
    """Response of a request of model m alone on whichever device and level is best, loaded and idle."""
    best = np.inf
    for d in range(t.level.shape[0]):
        for level in range(t.level.shape[2]):
            if t.level[d, m, level].level_ok != 0:
                took_s = interpolate(float(prompt_tokens), t.prefill_tokens, t.prefill_s[d, m, level])
                values = t.step_s[d, m, level, 0]
                took_s += steps_s(prompt_tokens + 1, decode_tokens - 1, t.context_tokens, values)
                best = min(best, took_s)
    return float(best)


@internal
def open_accounts(t: Tables, s: State) -> None:
    """How an episode begins: nothing accrued, all devices idle."""
    c, limits = s.clock[0], t.limits[0]
    c.objective = limits.objective
    c.ttft_ns = limits.ttft_ns
    c.tpot_ns = limits.tpot_ns
    c.check_ns = FAR_NS
    c.missed = 0
    c.cost = 0.0
    c.cost_per_s = 0.0
    for d in range(s.device.shape[0]):
        c.cost_per_s += t.device[d].idle_rate
        s.device[d].busy_per_s = t.device[d].busy_rate - t.device[d].idle_rate


@inlined
def begin_busy(s: State, d: int) -> None:
    """Device d begins to load, run or evict."""
    s.clock[0].cost_per_s += s.device[d].busy_per_s


@inlined
def end_busy(s: State, d: int) -> None:
    """Device d is done with loading, running or evicting."""
    s.clock[0].cost_per_s -= s.device[d].busy_per_s


@internal
def start_accruing(t: Tables, s: State, i: int) -> None:
    """What the request in slot i, just admitted, costs while it is there, and when its SLO is missed."""
    c, r = s.clock[0], s.slot[i]
    weight = 0.0
    if c.objective == SLOWDOWN:
        weight = 1.0 / alone_s(t, r.model, r.prompt_tokens, r.decode_tokens)
    elif c.objective == PRICED:
        weight = t.limits[0].waiting_price
    elif c.objective == SLO:
        r.limit_ns = FAR_NS if c.ttft_ns == FAR_NS else r.arrival_ns + c.ttft_ns
        c.check_ns = min(c.check_ns, r.limit_ns)
    r.missed = 0
    r.weight = weight
    c.cost_per_s += weight
    c.cost += weight * (c.now_ns - r.arrival_ns) * 1e-9


@inlined
def stop_accruing(s: State, i: int, finish_ns: int) -> None:
    """The request in slot i leaves; what accrued since it finished is given back."""
    c, r = s.clock[0], s.slot[i]
    c.cost_per_s -= r.weight
    c.cost -= r.weight * (c.now_ns - finish_ns) * 1e-9
    c.missed -= r.missed


@inlined
def miss(s: State, i: int) -> None:
    """The request in slot i has missed its SLO."""
    s.slot[i].missed = 1
    s.clock[0].missed += 1
    s.clock[0].cost += 1.0


@internal
def judge_quantum(s: State, i: int, finish_ns: int) -> None:
    """Whether the request in slot i kept the SLO in a quantum that is over; finish_ns is -1 if it goes on."""
    c, r = s.clock[0], s.slot[i]
    if r.missed != 0:
        return
    late = r.first_token_ns - r.arrival_ns > c.ttft_ns
    r.limit_ns = FAR_NS
    if c.tpot_ns != FAR_NS:
        r.limit_ns = r.first_token_ns + c.tpot_ns * (r.decode_tokens - 1)
    if late or finish_ns > r.limit_ns:
        miss(s, i)
    else:
        c.check_ns = min(c.check_ns, r.limit_ns)


@internal
def miss_late(s: State) -> None:
    """Counts the requests outside a running quantum that can no longer keep the SLO."""
    c = s.clock[0]
    if c.now_ns <= c.check_ns:
        return
    c.check_ns = FAR_NS
    for m in range(s.model.shape[0]):
        i = s.model[m].head
        while i >= 0:
            r = s.slot[i]
            if r.missed == 0 and r.owner < 0:
                if r.limit_ns < c.now_ns:
                    miss(s, i)
                else:
                    c.check_ns = min(c.check_ns, r.limit_ns)
            i = r.next


@entry
def charge_unserved(s: State) -> None:
    """An episode is cut off: whoever is still there has missed the SLO."""
    c = s.clock[0]
    if c.objective == SLO:
        c.cost += c.in_system - c.missed


@inlined
def reward(s: State, from_cost_ns: int, from_cost: float, scale_s: float) -> float:
    """The reward of a step: minus what the objective accrued in it.

    Args:
        s: State at the step's end.
        from_cost_ns: ``cost_ns`` of the clock at the step's beginning.
        from_cost: ``cost`` of the clock at the step's beginning.
        scale_s: The scenario's time scale, the unit of request-seconds.
    """
    c = s.clock[0]
    if c.objective == MEAN_RESPONSE:
        return float(-((c.cost_ns - from_cost_ns) * 1e-9) / scale_s)
    return float(-(c.cost - from_cost))


def accrued(s: State) -> float:
    """What an episode's objective accrued so far, in its own unit; request-seconds for mean response."""
    c = s.clock[0]
    return float(c["cost_ns"] * 1e-9 if c["objective"] == MEAN_RESPONSE else c["cost"])
