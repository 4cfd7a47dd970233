"""Intervals by resampling, and what an interval allows to say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CONFIDENCE",
    "FEWEST_ROUNDS",
    "FEWEST_SEQUENCES",
    "RESAMPLES",
    "UNDECIDED",
    "Interval",
    "bootstrap",
    "paired_mean_change",
    "ratio_of_sums",
    "said",
    "sign_of",
]

CONFIDENCE = 0.95
RESAMPLES = 4000
BATCH = 1000  # resamples at once: all of them would be a copy of every unit 4000 times
UNDECIDED = "undecided"

FEWEST_SEQUENCES = 5
"""Request sequences from which a bootstrap over them is worth something."""

FEWEST_ROUNDS = 3
"""Rounds of real runs from which Student's interval says something: that of two is 13 errors wide."""

Array = NDArray[np.float64]
Statistic = Callable[[NDArray[Any]], Any]


class Interval(NamedTuple):
    """A figure and the ends of its 95 % interval; NaN ends: too little to resample."""

    value: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval is above or below 0; 0: undecided."""
        return sign_of(self.low, self.high)


def sign_of(low: float | None, high: float | None) -> int:
    """The sign that an interval of a difference shows.

    Args:
        low: Lower end; None or NaN where there is no interval.
        high: Upper end; None or NaN where there is no interval.

    Returns:
        1 or -1 where the whole interval is above or below 0, otherwise 0: the sign is undecided. No interval
        shows that there is no difference.
    """
    if low is None or high is None:
        return 0
    return int(low > 0) - int(high < 0)


def said(low: float | None, high: float | None, *, above: str, below: str, undecided: str = UNDECIDED) -> str:
    """What an interval of a difference allows to say: the only place where one becomes a claim.

    Args:
        low: Lower end; None or NaN where there is no interval.
        high: Upper end; None or NaN where there is no interval.
        above: The words for an interval above 0.
        below: Those for one below 0.
        undecided: Those for one that holds 0, and for none.
    """
    return {1: above, -1: below, 0: undecided}[sign_of(low, high)]


def bootstrap(
    units: NDArray[Any], statistic: Statistic, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """A statistic of resampled units, with its 95 % percentile interval.

    What belongs together is resampled together: columns are paired. Resamples that have no such figure, as
    Kendall's tau of equal means, are left out.

    Args:
        units: (units, columns); what is resampled.
        statistic: Maps resampled units, (resamples, units, columns), to their figures, (resamples,).
        seed: Seed of the resampling; draws are those of ``scipy.stats.bootstrap``.
        resamples: How many.

    Source:
        Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3.
    """
    value = float(np.asarray(statistic(units[None]))[0])
    if len(units) < 2:
        return Interval(value, float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    sizes = [min(BATCH, resamples - at) for at in range(0, resamples, BATCH)]
    drawn = np.concatenate([statistic(units[rng.integers(0, len(units), (n, len(units)))]) for n in sizes])
    if np.isnan(drawn).all():
        return Interval(value, float("nan"), float("nan"))
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.nanpercentile(drawn, [tail, 100 - tail])
    return Interval(value, float(low), float(high))


def ratio_of_sums(drawn: Array) -> Array:
    """The first column's sum over the second's, of (resamples, units, 2): a statistic for ``bootstrap``."""
    totals: Array = drawn.sum(axis=1)
    return totals[:, 0] / totals[:, 1]


def paired_mean_change(mine: Array, theirs: Array, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Relative change of a mean between two that were given the same, with its paired bootstrap interval.

    A unit, such as the seed of a request sequence, counts in all worlds at once, since its requests are alike
    in them; what is NaN for one of the two, as an unfinished episode, counts for neither.

    Args:
        mine: (units,), or (worlds, units); the one's values.
        theirs: The other's values of the same units, in the shape of ``mine``.
        seed: Seed of the bootstrap.
        resamples: How many.

    Returns:
        Geometric mean over worlds of the ratio of means, less 1 (-0.1 is 10 % lower); NaN if nothing
        compares, and NaN ends with fewer than two units. All are 0 where the two are equal unit by unit.
    """
    mine, theirs = np.atleast_2d(mine), np.atleast_2d(theirs)
    both = ~(np.isnan(mine) | np.isnan(theirs))
    if not both.any():
        return Interval(np.nan, np.nan, np.nan)
    some = np.ix_(both.any(axis=1), both.any(axis=0))
    mine, theirs = np.where(both, mine, 0.0)[some], np.where(both, theirs, 0.0)[some]
    if np.array_equal(mine, theirs):
        return Interval(0.0, 0.0, 0.0)

    def statistic(drawn: NDArray[np.int64]) -> Array:
        chosen = drawn[..., 0]
        with np.errstate(invalid="ignore"):  # a resample may miss a world's only finished episodes
            ratios = np.log(mine[:, chosen].sum(axis=-1) / theirs[:, chosen].sum(axis=-1))
        return np.asarray(np.expm1(np.nanmean(ratios, axis=0)), np.float64)

    return bootstrap(np.arange(mine.shape[1])[:, None], statistic, seed, resamples)
