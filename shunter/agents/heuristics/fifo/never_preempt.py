"""What was started is finished before the device turns to another model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.agents.base import Scores, value
from shunter.agents.heuristics.rules import compose, fifo, idle_first, joins, runs
from shunter.agents.parameters import Heuristic


@dataclass(frozen=True)
class NeverPreempt(Heuristic):
    """Serves in order of arrival, a model with started requests before all others.

    Requests that arrive meanwhile join its batch, so under a steady stream it stays for long. Room is made by
    evicting what nobody waits for, the least recently used first.

    Source:
        How single-model servers are shared without preemption, the other arm of the seed paper's question
        whether preemption pays: https://arxiv.org/abs/2605.19593
    """

    name = "never-preempt"

    def scores(self, candidates: NDArray[Any], context: NDArray[Any], mask: NDArray[np.bool_]) -> Scores:
        """Residents with started requests, those turned to last first; then the oldest request."""
        resident = runs(candidates)
        started = resident & (value(candidates, "started") > 0)
        last = started & (value(candidates, "turned_to_last") > 0)
        evict = idle_first(candidates) + value(candidates, "unused_time")
        served = resident | joins(candidates, mask)
        return compose(candidates, fifo(candidates) + 2e7 * started + 2e7 * last, served, evict)
