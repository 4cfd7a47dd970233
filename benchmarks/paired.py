"""Paired comparisons of mean responses: bootstrap over seeds, and Holm's correction for many cells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Paired", "holm", "holm_levels", "paired", "seed_counts"]

RESAMPLES = 20_000
"""Enough for the tails that Holm's correction over some fifty cells asks for."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Paired:
    """A relative change and what resampling makes of it; −0.1 is 10 % lower.

    Attributes:
        change: The observed change.
        draws: (R,) changes in resampled seeds, ascending.
    """

    change: float
    draws: Floats

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The percentile interval that covers so much."""
        low, high = np.quantile(self.draws, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    @property
    def p(self) -> float:
        """Two-sided probability of no change."""
        below, above = int((self.draws <= 0).sum()), int((self.draws >= 0).sum())
        return min(1.0, 2 * (min(below, above) + 1) / (len(self.draws) + 1))


@cache
def seed_counts(seeds: int, seed: int = 0, resamples: int = RESAMPLES) -> Floats:
    """(R, S) how often each seed is drawn in each resample."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples).astype(np.float64)


def paired(mine: Floats, theirs: Floats, seed: int = 0) -> Paired:
    """Geometric mean over cells of the ratio of mean responses, less 1.

    A seed is drawn in all cells at once, since its requests are alike in them.

    Args:
        mine: (cells, seeds) mean responses of the policy, all finite.
        theirs: (cells, seeds) mean responses of the other policy on the same requests, all finite.
        seed: Seed of the bootstrap.
    """
    counts = seed_counts(mine.shape[1], seed)
    ratios = np.log((mine @ counts.T) / (theirs @ counts.T)).mean(axis=0)
    change = np.log(mine.mean(axis=1) / theirs.mean(axis=1)).mean()
    return Paired(float(np.expm1(change)), np.sort(np.expm1(ratios)))


def holm(p: ArrayLike) -> Floats:
    """Adjusted p values: below 0.05 means significant at 5 % over the whole family.

    Source:
        Holm 1979, Scandinavian Journal of Statistics 6(2).
    """
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, steps)
    return adjusted


def holm_levels(p: ArrayLike, alpha: float = 0.05) -> Floats:
    """Coverage of each one's interval at which Holm compares it: the least p with the strictest."""
    values = np.asarray(p, np.float64)
    levels = np.empty_like(values)
    levels[np.argsort(values, kind="stable")] = 1 - alpha / np.arange(len(values), 0, -1)
    return levels
