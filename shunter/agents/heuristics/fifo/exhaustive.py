"""Serves a model until its queue is empty, then turns to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.agents.base import Scores, value
from shunter.agents.heuristics.rules import compose, fifo, joins, runs
from shunter.agents.parameters import Heuristic, choice


@dataclass(frozen=True)
class Exhaustive(Heuristic):
    """Stays with the model that the device turned to last while that has requests.

    Room is made by evicting the least recently used.

    Args:
        then: What it turns to: the model of the ``oldest`` request, or the one with the ``longest`` queue.

    Source:
        Exhaustive service in polling systems with set-up times, which keeps them to a minimum: Levy and Sidi
        1990, IEEE Transactions on Communications 38(10); the longest queue next: Liu, Nain and Towsley 1992,
        Queueing Systems 11.
    """

    name = "exhaustive"
    then: str = choice("oldest", "longest")

    def scores(self, candidates: NDArray[Any], context: NDArray[Any], mask: NDArray[np.bool_]) -> Scores:
        """The model of the last turn, then by the rule."""
        resident = runs(candidates)
        stays = resident & (value(candidates, "turned_to_last") > 0)
        rule = fifo(candidates)
        if self.then == "longest":
            rule = value(candidates, "requests") + 1e-7 * np.minimum(rule, 1e6)
        served = resident | joins(candidates, mask)
        return compose(candidates, rule + 2e7 * stays, served, value(candidates, "unused_time"))
