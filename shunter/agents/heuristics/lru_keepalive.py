"""Keep models loaded until the room is needed, then drop the one unused for longest; hardly ever preempt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.agents.base import Scores, is_, value
from shunter.agents.heuristics.rules import NEVER, second_copy, top_level
from shunter.agents.parameters import Heuristic, choice, time_scales


@dataclass(frozen=True)
class LruKeepalive(Heuristic):
    """Serves in order of arrival without stopping what runs.

    The model of the oldest request is served next. If it is not resident it is loaded with as many layers as
    the device can hold, and the least recently used resident without started requests is evicted if it does
    not fit beside the others. While a resident has started requests, nothing is evicted, unless the request
    has waited longer than ``patience``.

    Args:
        patience: Time scales that a request waits before it may stop what runs; ``patience_s``: seconds.
        partial: Whether layers are left on the host only where a model does not fit on the device
            ``alone``, or also to fit ``beside`` others rather than evict them.

    Source:
        How Ollama's scheduler behaves: loaded models stay for a keep-alive time; a new one that does not fit
        beside them waits until an idle one can be unloaded, and layers are offloaded where it does not fit
        alone (server/sched.go). While it waits, all later requests wait too, so that what runs comes to its
        end; ours cannot hold requests of a resident back, hence ``patience``. Simplified: room is made by
        least recent use, Ollama's order is the shortest keep-alive. https://github.com/ollama/ollama
    """

    name = "lru-keepalive"
    patience: float = time_scales(10.0, 0.3, 300.0)
    partial: str = choice("alone", "beside")

    def scores(self, candidates: NDArray[Any], context: NDArray[Any], mask: NDArray[np.bool_]) -> Scores:
        """Tiers by the rules above; within a tier the oldest request first."""
        age = value(candidates, "oldest_age")
        started = value(candidates, "started") > 0
        run = is_(candidates, "run")
        # A started resident forbids evictions on this device until it is done.
        busy = np.any(run & started & mask, axis=-1, keepdims=True)
        fits = value(candidates, "shortage") <= 0
        new = is_(candidates, "load") & (value(candidates, "requests") > 0) & ~second_copy(candidates)
        new = new & (value(candidates, "resident_here") == 0)
        if self.partial == "alone":
            new = top_level(candidates, new & mask)
        # Fitting levels beat levels that need room; among those that need room, the highest.
        serve = 1e3 + age + 1e-3 * np.where(run, 3.0, np.where(fits, 1.0, 0.0))
        serve = serve + 1e-4 * value(candidates, "gpu_share")
        scores = np.where(is_(candidates, "wait"), 0.0, NEVER)
        scores = np.where(run, serve, scores)
        scores = np.where(new & (fits | ~busy | (age > self.patience)), serve, scores)
        evict = -1e9 - 1e8 * started + value(candidates, "unused_time")
        return np.where(is_(candidates, "evict"), evict, scores)
