"""Most requests per second of load and work: the strongest simple heuristic of our prototypes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.agents.base import Scores, ScoringPolicy, is_, value

__all__ = ["CostGreedy", "eviction_loss", "greedy_rate"]


def greedy_rate(candidates: NDArray[Any]) -> Scores:
    """Waiting requests per time scale of swapping, prefilling and decoding until the first one finishes.

    Args:
        candidates: (..., A, F).

    Returns:
        (..., A), at least 0; 0 for evictions and waiting.
    """
    time = value(candidates, "swap_time") + value(candidates, "join_time") + value(candidates, "first_time")
    serves = is_(candidates, "run") | is_(candidates, "load")
    return np.where(serves, value(candidates, "requests") / (time + 1e-3), 0.0)


def eviction_loss(candidates: NDArray[Any]) -> Scores:
    """What evicting a resident costs: its waiting requests, and bringing it back over the time it lay unused.

    Args:
        candidates: (..., A, F).

    Returns:
        (..., A), at least 0; meaningful for evictions.
    """
    unused = value(candidates, "unused_time")
    return value(candidates, "requests") + value(candidates, "preempt_time") / (unused + 1.0)


class CostGreedy(ScoringPolicy):
    """Takes the model that serves most waiting requests per second, its load counted.

    Room is made by evicting the resident with the least ``eviction_loss``.
    """

    name = "cost-greedy"

    def scores(self, candidates: NDArray[Any], context: NDArray[Any], mask: NDArray[np.bool_]) -> Scores:
        """The rate of every candidate; waiting beats loading what nobody asked for."""
        rate = greedy_rate(candidates)
        scores = np.where(rate > 0, rate, np.where(is_(candidates, "wait"), 0.0, -1e9))
        return np.where(is_(candidates, "evict"), -1.0 - eviction_loss(candidates), scores)
