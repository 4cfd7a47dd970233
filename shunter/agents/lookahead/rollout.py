"""Playing on: compiled cost-greedy takes a copied state from one decision to the end."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shunter.agents.heuristics.cost_greedy import greedy_choice
from shunter.envs.observation.observe import observe
from shunter.envs.sim.compiled import jit
from shunter.envs.sim.simulation import advance, begin
from shunter.envs.state.state import Bools, State
from shunter.envs.state.tables import Tables

__all__ = ["play_out"]

Features = NDArray[np.float32]


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
        t: Tables of the scenario.
        s: State, spoilt.
        d: The asking device.
        action: The candidate that the device takes.
        candidates: (A, F) room for the features of candidates, overwritten.
        context: (G,) room for the features of the context, overwritten.
        mask: (A,) room for which candidates are legal, overwritten.
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
