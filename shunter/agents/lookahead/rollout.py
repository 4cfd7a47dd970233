"""Playing on: compiled cost-greedy takes a copied state from one decision to the end."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shunter.agents.episodes import Observed, play_on
from shunter.agents.heuristics.cost_greedy import greedy_choice
from shunter.envs.sim.compiled import inlined, jit
from shunter.envs.sim.simulation import begin
from shunter.envs.state.state import Bools, State
from shunter.envs.state.tables import Tables

__all__ = ["play_out"]

Features = NDArray[np.float32]

MAX_DECISIONS = 100_000
"""Stops a rollout that does not end."""


@inlined
def choose_greedily(p: Features, candidates: Features, context: Features, mask: Bools, w: Observed) -> int:
    """``greedy_choice`` for ``shunter.agents.episodes``; needs no numbers and no room."""
    return greedy_choice(candidates, mask)


@jit
def play_out(t: Tables, s: State, d: int, action: int, w: Observed) -> float:
    """Lets device d take a legal action, then cost-greedy decides until everyone has been served.

    Args:
        t: Tables of the scenario, whose ``max_time_ns`` cuts nothing off.
        s: State, spoilt.
        d: The asking device.
        action: The candidate that the device takes.
        w: Room for observations, overwritten.

    Returns:
        Request-seconds from now on. Whoever is left after ``MAX_DECISIONS`` counts as staying as long again
        as the rollout took.
    """
    c, start_ns = s.clock[0], s.clock[0].now_ns
    cost_ns = c.cost_ns
    begin(t, s, d, action)
    play_on(choose_greedily, t, s, w.context, w, MAX_DECISIONS)
    left_ns = c.in_system * (c.now_ns - start_ns)
    return float((c.cost_ns - cost_ns + left_ns) * 1e-9)
