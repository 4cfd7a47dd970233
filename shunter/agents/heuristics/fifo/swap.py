"""First come, first served, one model at a time: swap to whichever model the oldest request wants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.agents.base import Scores, value
from shunter.agents.heuristics.rules import compose, fifo, joins, runs
from shunter.agents.parameters import Heuristic


@dataclass(frozen=True)
class FifoSwap(Heuristic):
    """Serves the model of the oldest request, at its highest level, and swaps whenever that changes.

    Room is made by evicting the least recently used. Loads nothing that nobody asked for, and no model that
    another device holds.

    Source:
        llama-swap as it was for long: requests are proxied in order, and one for another model stops the
        running one. Ours is kinder: others stay resident while they fit, and KV is saved.
        https://github.com/mostlygeek/llama-swap
    """

    name = "fifo-swap"

    def scores(self, candidates: NDArray[Any], context: NDArray[Any], mask: NDArray[np.bool_]) -> Scores:
        """Age of the oldest request; ties go to what is resident."""
        served = runs(candidates) | joins(candidates, mask)
        return compose(candidates, fifo(candidates), served, value(candidates, "unused_time"))
