"""At most so many residents; one more makes the least recently used go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.agents.base import Scores, is_, value
from shunter.agents.heuristics.rules import best, compose, fifo, idle_first, joins, runs
from shunter.agents.parameters import Heuristic, whole


@dataclass(frozen=True)
class CountLru(Heuristic):
    """Serves in order of arrival and keeps at most so many residents on a device.

    Before one more is loaded, the least recently used that nobody waits for goes, otherwise the least
    recently used. If memory does not suffice, more go in the same order.

    Args:
        most: Residents on a device.

    Source:
        llama.cpp's server in router mode, ``--models-max`` (4 by default): ``unload_lru`` stops the least
        recently used instance; busy ones are spared in newer versions, which wait instead.
        https://github.com/ggml-org/llama.cpp, tools/server/server-models.cpp. Simplified: it does not know
        what fits, ours makes room by the same order; requests wait by age, not by connection.
    """

    name = "count-lru"
    most: int = whole(4, 1, 8)

    def scores(self, candidates: NDArray[Any], context: NDArray[Any], mask: NDArray[np.bool_]) -> Scores:
        """The oldest request first; if it needs one resident more than there may be, an eviction."""
        serve, new = fifo(candidates), joins(candidates, mask)
        gone = is_(candidates, "evict") & (value(candidates, "resident_here") > 0) & mask
        full = gone.sum(axis=-1, keepdims=True) >= self.most
        order = self.eviction_order(candidates)
        scores = compose(candidates, serve, runs(candidates) | (new & ~full), order)
        first = gone & full & (order >= best(order, gone))
        return np.where(first, np.maximum(scores, 1.0 + best(serve, new)), scores)

    def eviction_order(self, candidates: NDArray[Any]) -> Scores:
        """Which resident goes first, the highest."""
        return idle_first(candidates) + value(candidates, "unused_time")
