"""First come, first served, but whoever asks for a loaded model goes before a swap, within a bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.agents.base import Scores, value
from shunter.agents.heuristics.rules import compose, fifo, joins, runs
from shunter.agents.parameters import Heuristic, time_scales


@dataclass(frozen=True)
class FifoCollated(Heuristic):
    """Serves residents in order of arrival, and swaps when they have no requests left, A B A B as A A B B.

    A request that waited longer than the bound goes first, swap or not; several such in order of arrival.
    Room is made by evicting the least recently used.

    Args:
        max_wait: The bound, in time scales; ``max_wait_s`` gives it in seconds.

    Source:
        llama-swap's FIFO scheduler: what a running model can serve is served at once, and swaps wait until
        the model to be stopped has finished its requests (internal/router/scheduler/fifo.go). It has no
        bound: a steady stream to one model starves the others; it would correspond to a very large one.
        Simplified: no priorities, and a swap beyond the bound preempts instead of holding newer requests
        back. https://github.com/mostlygeek/llama-swap
    """

    name = "fifo-collated"
    max_wait: float = time_scales(10.0, 0.3, 300.0)

    def scores(self, candidates: NDArray[Any], context: NDArray[Any], mask: NDArray[np.bool_]) -> Scores:
        """Tiers: overdue, resident, to be loaded; within a tier the oldest request first."""
        return compose(
            candidates,
            self.tiers(candidates),
            self.served(candidates, mask),
            value(candidates, "unused_time"),
        )

    def tiers(self, candidates: NDArray[Any]) -> Scores:
        """Scores of serving."""
        overdue = value(candidates, "oldest_age") > self.max_wait
        return fifo(candidates) + np.where(overdue, 4e7, np.where(runs(candidates), 2e7, 0.0))

    def served(self, candidates: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """What may be served."""
        return runs(candidates) | joins(candidates, mask)
