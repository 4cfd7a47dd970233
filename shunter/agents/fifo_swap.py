"""First come, first served, one model at a time: swap to whichever model the oldest request wants."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.agents.base import Scores, ScoringPolicy, is_, value

__all__ = ["FifoSwap"]


class FifoSwap(ScoringPolicy):
    """Serves the model of the oldest request, at its highest level, and swaps whenever that changes.

    Room is made by evicting the least recently used. Loads nothing that nobody asked for.

    Source:
        llama-swap proxies requests in order, and a request for another model stops the running one. Ours
        is kinder: others stay resident while they fit, and KV is saved. https://github.com/mostlygeek/llama-swap
    """

    name = "fifo-swap"

    def scores(self, candidates: NDArray[Any], context: NDArray[Any], mask: NDArray[np.bool_]) -> Scores:
        """Age of the oldest request; ties go to what is resident, then to more layers on the device."""
        run, load, evict = is_(candidates, "run"), is_(candidates, "load"), is_(candidates, "evict")
        wanted = (run | load) & (value(candidates, "requests") > 0)
        serve = 1.0 + value(candidates, "oldest_age") + 1e-6 * run + 1e-7 * value(candidates, "gpu_share")
        scores = np.where(wanted, serve, np.where(is_(candidates, "wait"), 0.0, -1e9))
        return np.where(evict, -1e7 + value(candidates, "unused_time"), scores)
