"""Anything that serves somebody, all alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.agents.base import Scores, is_, value
from shunter.agents.heuristics.rules import compose, runs
from shunter.agents.parameters import Heuristic, whole
from shunter.envs.sim.randomness import GOLDEN, spread


@dataclass(frozen=True)
class Random(Heuristic):
    """Takes any candidate that serves somebody, and evicts anything to make room.

    The choice is a function of the seed and the observation alone: the same in every run, and whatever the
    order of candidates.

    Args:
        seed: Another gives other choices.

    Source:
        The floor that a policy must beat, and that learned schedulers have been reported to lose to.
    """

    name = "random"
    seed: int = whole(1, 1, 1)

    def scores(self, candidates: NDArray[Any], context: NDArray[Any], mask: NDArray[np.bool_]) -> Scores:
        """A hash of each candidate's features and the context."""
        seen = hashed(candidates) ^ hashed(context)[..., None]
        luck = spread(seen ^ spread(np.full(1, self.seed, np.uint64))) / 2.0**64
        new = is_(candidates, "load") & (value(candidates, "requests") > 0)
        return compose(candidates, luck, runs(candidates) | new, luck)


def hashed(features: NDArray[Any]) -> NDArray[np.uint64]:
    """A hash of the last axis."""
    bits = np.ascontiguousarray(features, np.float32).view(np.uint32).astype(np.uint64)
    place = np.arange(1, bits.shape[-1] + 1, dtype=np.uint64) * GOLDEN
    return np.asarray(np.bitwise_xor.reduce(spread(bits + place), axis=-1))
