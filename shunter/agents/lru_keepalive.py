"""Keep models loaded until the room is needed, then drop the one unused for longest; never preempt."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.agents.base import Scores, ScoringPolicy, is_, value

__all__ = ["LruKeepalive"]


class LruKeepalive(ScoringPolicy):
    """Serves in order of arrival without stopping what runs.

    The model of the oldest request is served next. If it is not resident it is loaded at the highest level
    that fits beside the others (partial offload rather than eviction); only if none fits is the least
    recently used resident without started requests evicted. While every resident has started requests,
    those are finished first.

    Source:
        How Ollama's scheduler behaves: loaded models stay for a keep-alive time, a new one is offloaded
        partially or waits until an idle runner can be unloaded. https://github.com/ollama/ollama
    """

    name = "lru-keepalive"

    def scores(self, candidates: NDArray[Any], context: NDArray[Any], mask: NDArray[np.bool_]) -> Scores:
        """Tiers by the rules above; within a tier the oldest request first."""
        age = value(candidates, "oldest_age")
        share = value(candidates, "gpu_share")
        started = value(candidates, "started") > 0
        run, load, evict = is_(candidates, "run"), is_(candidates, "load"), is_(candidates, "evict")
        wanted = value(candidates, "requests") > 0
        # A started resident forbids evictions on this device until it is done.
        busy = np.any(run & started & mask, axis=-1, keepdims=True)
        fits = value(candidates, "shortage") <= 0
        new = load & wanted & (value(candidates, "resident_here") == 0)
        # Fitting levels beat levels that need room; among those that need room, the highest.
        serve = 1e3 + age + 1e-3 * np.where(run, 3.0, np.where(fits, 1.0, 0.0)) + 1e-4 * share
        scores = np.full(age.shape, -1e6)
        scores = np.where(is_(candidates, "wait"), 0.0, scores)
        scores = np.where(run, serve, scores)
        scores = np.where(new & (fits | ~busy), serve, scores)
        return np.where(evict, -1e9 - 1e8 * started + value(candidates, "unused_time"), scores)
