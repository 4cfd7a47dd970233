"""Memory goes to the models with most demand for each byte that they take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.agents.base import Scores, is_, value
from shunter.agents.heuristics.rules import best, compose, fifo, idle_first, joins, runs
from shunter.agents.parameters import Heuristic, number, time_scales


@dataclass(frozen=True)
class PressureGreedy(Heuristic):
    """Swaps a model in when its pressure is well above that of every resident that is waited for.

    Pressure is the rate of requests, those that wait spread over a horizon, per share of the device's memory
    that the model takes. What fits is loaded at once, the highest pressure first; residents are served in
    order of arrival; a device whose residents have no requests loads whatever is wanted. Room is made by
    evicting what nobody waits for, the least pressure first.

    Args:
        horizon: Time scales over which waiting requests count as a rate; ``horizon_s``: seconds.
        threshold: Ratio of pressures from which on a swap pays.

    Source:
        Prism's KV pressure ratio, weighted request rate over the memory that models share, by which it places
        models and evicts idle ones, moving a model only beyond a threshold: Yu et al. 2025,
        https://arxiv.org/abs/2505.04021. Simplified: KV memory is part of a model's fixed footprint here, and
        without latency targets its slack-aware admission is order of arrival.
    """

    name = "pressure-greedy"
    horizon: float = time_scales(10.0, 0.3, 300.0)
    threshold: float = number(1.5, 1.0, 30.0)

    def scores(self, candidates: NDArray[Any], context: NDArray[Any], mask: NDArray[np.bool_]) -> Scores:
        """Loads that pay first, then residents by age."""
        demand = value(candidates, "arrivals") + value(candidates, "requests") / max(self.horizon, 1e-3)
        pressure = np.minimum(demand / (value(candidates, "footprint") + 1e-3), 1e6)
        new, resident = joins(candidates, mask), runs(candidates) & mask
        # Above all of them, not one: what goes may be another than the least, and would come back at once.
        highest = np.maximum(best(pressure, resident), 0.0)
        pays = (value(candidates, "shortage") <= 0) | (pressure > self.threshold * highest)
        serve = np.where(is_(candidates, "load"), 2e7 + pressure, fifo(candidates))
        # Where nobody asks for either, the least recently used.
        unused = np.minimum(value(candidates, "unused_time"), 1e3)
        evict = idle_first(candidates) - pressure + 1e-3 * unused
        return compose(candidates, serve, resident | (new & pays), evict)
