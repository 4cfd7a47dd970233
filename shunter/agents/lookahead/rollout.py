"""Playing on: compiled cost-greedy takes a copied state from one decision to the end."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shunter.envs.observation.features import feature
from shunter.envs.observation.observe import observe
from shunter.envs.sim.compiled import jit
from shunter.envs.sim.simulation import advance, begin
from shunter.envs.state.state import Bools, State
from shunter.envs.state.tables import Tables

__all__ = ["greedy_choice", "greedy_score", "play_out"]

Features = NDArray[np.float32]

IS_EVICT, IS_LOAD, IS_WAIT = feature("is_evict"), feature("is_load"), feature("is_wait")
REQUESTS, HELD, ELSEWHERE = feature("requests"), feature("held"), feature("elsewhere")
SWAP, JOIN, FIRST = feature("swap_time"), feature("join_time"), feature("first_time")
UNUSED, PREEMPT = feature("unused_time"), feature("preempt_time")


@jit
def greedy_score(
    c: NDArray[np.float32], load_weight: float = 1.0, reload_weight: float = 1.0, copy_share: float = 1.0
) -> float:
    """What ``shunter.agents.heuristics.cost_greedy.CostGreedy`` gives a legal candidate.

    Args:
        c: (F,) its features.
        load_weight: As of ``CostGreedy``.
        reload_weight: Likewise.
        copy_share: Likewise.
    """
    requests = np.float64(c[REQUESTS])
    if c[IS_EVICT] > 0:
        back = np.float64(c[PREEMPT]) / (np.float64(c[UNUSED]) + 1.0)
        return -1.0 - float(requests + reload_weight * back)
    if c[IS_WAIT] > 0:
        return 0.0
    if requests > 0:
        time = load_weight * np.float64(c[SWAP]) + np.float64(c[JOIN]) + np.float64(c[FIRST])
        second = c[IS_LOAD] > 0 and c[ELSEWHERE] > 0 and c[HELD] == 0
        return float((copy_share if second else 1.0) * (requests / (time + 1e-3)))
    return -1e9


@jit
def greedy_choice(
    candidates: Features,
    mask: Bools,
    load_weight: float = 1.0,
    reload_weight: float = 1.0,
    copy_share: float = 1.0,
) -> int:
    """The candidate that cost-greedy takes.

    Args:
        candidates: (A, F).
        mask: (A,).
        load_weight: As of ``CostGreedy``.
        reload_weight: Likewise.
        copy_share: Likewise.
    """
    best, top = 0, -np.inf
    for a in range(mask.shape[0]):
        if mask[a]:
            score = greedy_score(candidates[a], load_weight, reload_weight, copy_share)
            if score > top:
                best, top = a, score
    return best


@jit
def play_out(
    t: Tables,
    s: State,
    d: int,
    action: int,
    candidates: Features,
    context: Features,
    mask: Bools,
    max_decisions: int,
) -> float:
    """Lets device d take a legal action, then cost-greedy decides until everyone has been served.

    Args:
        t: Tables.
        s: State, spoilt.
        d: The asking device.
        action: Of its candidates.
        candidates: (A, F), overwritten.
        context: (G,), overwritten.
        mask: (A,), overwritten.
        max_decisions: Stops a rollout that does not end; whoever is left then counts as staying as long
            again as the rollout took.

    Returns:
        Request-seconds from now on.
    """
    c, start_ns = s.clock[0], s.clock[0].now_ns
    cost_ns = c.cost_ns
    begin(t, s, d, action)
    for _ in range(max_decisions):
        device = advance(t, s)
        if device < 0:
            break
        observe(t, s, device, candidates, context, mask)
        begin(t, s, device, greedy_choice(candidates, mask))
    left_ns = c.in_system * (c.now_ns - start_ns)
    return float((c.cost_ns - cost_ns + left_ns) * 1e-9)
