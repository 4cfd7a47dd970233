"""Most requests per second of load and work: the strongest simple heuristic of our prototypes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.agents.base import Scores, is_, value
from shunter.agents.heuristics.rules import second_copy
from shunter.agents.parameters import Heuristic, number

__all__ = ["CostGreedy", "eviction_loss", "greedy_rate"]


def greedy_rate(candidates: NDArray[Any], load_weight: float = 1.0) -> Scores:
    """Waiting requests per time scale of swapping, prefilling and decoding until the first one finishes.

    Args:
        candidates: (..., A, F).
        load_weight: Weight of swapping in that time.

    Returns:
        (..., A), at least 0; 0 for evictions and waiting.
    """
    swap = value(candidates, "swap_time")
    swap = swap if load_weight == 1.0 else load_weight * swap
    time = swap + value(candidates, "join_time") + value(candidates, "first_time")
    serves = is_(candidates, "run") | is_(candidates, "load")
    return np.where(serves, value(candidates, "requests") / (time + 1e-3), 0.0)


def eviction_loss(candidates: NDArray[Any], reload_weight: float = 1.0) -> Scores:
    """What evicting a resident costs: its waiting requests, and bringing it back over the time it lay unused.

    Args:
        candidates: (..., A, F).
        reload_weight: Weight of bringing it back.

    Returns:
        (..., A), at least 0; meaningful for evictions.
    """
    unused = value(candidates, "unused_time")
    back = value(candidates, "preempt_time") / (unused + 1.0)
    return value(candidates, "requests") + (back if reload_weight == 1.0 else reload_weight * back)


@dataclass(frozen=True)
class CostGreedy(Heuristic):
    """Takes the model that serves most waiting requests per second, its load counted.

    Room is made by evicting the resident with the least ``eviction_loss``.

    Args:
        load_weight: Weight of swapping in the time that serving takes: above 1 it swaps less.
        reload_weight: Weight of bringing a resident back against its waiting requests.
        copy_share: What a second copy of a model counts, relative to a first one; 1: as much.
    """

    name = "cost-greedy"
    load_weight: float = number(1.0, 0.1, 10.0)
    reload_weight: float = number(1.0, 0.01, 100.0)
    copy_share: float = number(1.0, 0.01, 1.0)

    def scores(self, candidates: NDArray[Any], context: NDArray[Any], mask: NDArray[np.bool_]) -> Scores:
        """The rate of every candidate; waiting beats loading what nobody asked for."""
        rate = greedy_rate(candidates, self.load_weight)
        if self.copy_share != 1.0:
            rate = np.where(second_copy(candidates), self.copy_share * rate, rate)
        scores = np.where(rate > 0, rate, np.where(is_(candidates, "wait"), 0.0, -1e9))
        loss = eviction_loss(candidates, self.reload_weight)
        return np.where(is_(candidates, "evict"), -1.0 - loss, scores)
