"""A policy that serves the model with most requests: the smallest thing that ``shunter eval`` can compare.

Install the package, and its name works wherever shunter takes a policy::

    pip install ./examples/shunter-policy-example
    shunter eval --scenario laptop --policy cost-greedy --policy longest-queue:patience=4
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.agents.base import Scores, is_, value
from shunter.agents.parameters import Heuristic, number

__all__ = ["LongestQueue"]


@dataclass(frozen=True)
class LongestQueue(Heuristic):
    """Runs or loads the model with most requests; evicts the one with fewest; waits if there are none.

    Args:
        patience: How many requests a load must be ahead of what is resident by.
    """

    name = "longest-queue"
    patience: float = number(2.0, 0.5, 20.0)

    def scores(self, candidates: NDArray[Any], context: NDArray[Any], mask: NDArray[np.bool_]) -> Scores:
        """Requests, less the patience where it must be loaded; evictions before other loads, waiting last."""
        requests = value(candidates, "requests")
        serves = requests - self.patience * is_(candidates, "load")
        scores = np.where(requests > 0, serves, -1e6)  # nothing is loaded before somebody asks
        scores = np.where(is_(candidates, "evict"), -1e3 - requests, scores)
        return np.where(is_(candidates, "wait"), -1e5, scores)
