"""Shortest job first: the request that can be done soonest, its load counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.agents.base import Scores, is_, value
from shunter.agents.heuristics.rules import compose, idle_first, runs, second_copy
from shunter.agents.parameters import Heuristic, number


@dataclass(frozen=True)
class Sjf(Heuristic):
    """Takes the candidate whose first request is predicted to be done soonest.

    How many wait does not count. Room is made by evicting what nobody waits for and is quickest to bring
    back.

    Args:
        load_weight: Weight of loading in that time: above 1 it swaps less.

    Source:
        Shortest (remaining) processing time first minimises the mean response of one server without set-up
        times: Schrage 1968, Operations Research 16(3). Remaining lengths are expected ones, from the tokens
        generated so far.
    """

    name = "sjf"
    load_weight: float = number(1.0, 0.1, 30.0)

    def scores(self, candidates: NDArray[Any], context: NDArray[Any], mask: NDArray[np.bool_]) -> Scores:
        """Minus the time until a request is done."""
        time = self.load_weight * value(candidates, "swap_time")
        time = time + value(candidates, "join_time") + value(candidates, "first_time")
        new = is_(candidates, "load") & (value(candidates, "requests") > 0) & ~second_copy(candidates)
        serve = 2e7 - np.minimum(time, 2e7)
        evict = idle_first(candidates) - value(candidates, "preempt_time")
        return compose(candidates, serve, runs(candidates) | new, evict)


@dataclass(frozen=True)
class SjfOracle(Sjf):
    """As ``sjf``, with the true remaining lengths, which no server knows.

    Args:
        load_weight: Weight of loading in the time until a request is done: above 1 it swaps less.
    """

    name = "sjf-oracle"
    oracle = True
