"""Serves where the first token comes soonest, by estimates of load and queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.agents.base import Scores, is_, value
from shunter.agents.heuristics.rules import compose, idle_first, runs, second_copy, top_level
from shunter.agents.parameters import Heuristic, number


@dataclass(frozen=True)
class StartupGreedy(Heuristic):
    """Takes the model whose requests start soonest here, the time that they waited taken off.

    A second copy of a model is loaded only where that takes less than waiting for the device that holds it.
    Room is made by evicting what nobody waits for and is quickest to bring back.

    Args:
        age_weight: How much time until the start one unit of waiting makes up for.
        queue_weight: Weight of the time until another device could have started it.

    Source:
        ServerlessLLM's startup-time-optimised scheduling: for each request the server with the least
        estimated startup time (queue of loads, load from memory or disk; also migrating what runs there) is
        taken: Fu et al., OSDI 2024, https://arxiv.org/abs/2401.14351. Simplified: no live migration;
        requests stay unassigned until a device asks.
    """

    name = "startup-greedy"
    age_weight: float = number(1.0, 0.03, 30.0)
    queue_weight: float = number(1.0, 0.1, 10.0)

    def scores(self, candidates: NDArray[Any], context: NDArray[Any], mask: NDArray[np.bool_]) -> Scores:
        """Waited time, weighted, minus the time until the start."""
        load_time = value(candidates, "swap_time")
        until_start = load_time + value(candidates, "join_time")
        wanted = is_(candidates, "load") & (value(candidates, "requests") > 0) & mask
        new = top_level(candidates, wanted & (value(candidates, "resident_here") == 0))
        elsewhere = self.queue_weight * value(candidates, "startup_elsewhere")
        new = new & (~second_copy(candidates) | (load_time < elsewhere))
        waited = self.age_weight * value(candidates, "oldest_age")
        serve = 1e7 + np.clip(waited - until_start, -1e7, 1e7)
        return compose(
            candidates,
            serve,
            runs(candidates) | new,
            idle_first(candidates) - value(candidates, "preempt_time"),
        )
