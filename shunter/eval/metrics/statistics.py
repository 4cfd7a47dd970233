"""Statistics of few runs: the aggregates that are robust to odd ones.

The few functions of ``rliable`` that are needed, with their sources; that package pins old dependencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]


def iqm(values: ArrayLike, axis: int = 0) -> Any:
    """Interquartile mean: the mean of the middle half, as robust as a median and far less noisy.

    Args:
        values: Scores, the independent ones along ``axis``.
        axis: The axis that is averaged over.

    Source:
        Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
        https://arxiv.org/abs/2108.13264, section 4.3.
    """
    return stats.trim_mean(np.asarray(values, np.float64), 0.25, axis=axis)


def probability_of_improvement(mine: Sequence[ArrayLike], theirs: Sequence[ArrayLike]) -> float:
    """Probability that a run of one policy is better (lower) than one of another on the same requests.

    Args:
        mine: For each request sequence, the scores of one policy's runs on it.
        theirs: For each request sequence, the scores of the other policy's runs on it.

    Returns:
        The mean over sequences of the share of pairs in which mine is lower; ties count half.

    Source:
        Agarwal et al. 2021, https://arxiv.org/abs/2108.13264, section 4.3 (there: higher is better).
    """
    shares = []
    for a, b in zip(mine, theirs, strict=True):
        difference = np.subtract.outer(np.asarray(a, np.float64), np.asarray(b, np.float64))
        shares.append(float((difference < 0).mean() + 0.5 * (difference == 0).mean()))
    return float(np.mean(shares))


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> Array:
    """Share of runs whose score is at most each threshold: a policy's whole distribution, not one figure.

    Args:
        scores: (n,), lower is better.
        thresholds: (t,).

    Returns:
        (t,) shares.

    Source:
        Dolan and Moré 2002, https://doi.org/10.1007/s101070100263; Agarwal et al. 2021, section 4.2.
    """
    return np.asarray(
        (np.asarray(scores, np.float64)[:, None] <= np.asarray(thresholds, np.float64)).mean(axis=0),
        np.float64,
    )


def kendall_tau(one: ArrayLike, other: ArrayLike) -> Any:
    """Kendall's tau-b of two orders, along the last axis; NaN where either is constant.

    ``scipy.stats.kendalltau`` without its loop over pairs, so that thousands of resamples cost nothing.

    Source:
        Kendall 1945, https://doi.org/10.1093/biomet/33.3.239.
    """
    a, b = (_signs(np.asarray(values, np.float64)) for values in (one, other))
    with np.errstate(invalid="ignore"):
        return (a * b).sum(axis=(-1, -2)) / np.sqrt((a**2).sum(axis=(-1, -2)) * (b**2).sum(axis=(-1, -2)))


def _signs(values: Array) -> Array:
    return np.sign(values[..., :, None] - values[..., None, :])
