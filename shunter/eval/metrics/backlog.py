"""Whether requests pile up: growth of the backlog, and what so many arrivals allow to say of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shunter.eval.metrics.metrics import Served
from shunter.uncertainty import CONFIDENCE, Interval

SATURATED = 0.1
"""Growth above which a queue amplifies every error of a prediction."""

_FEWEST_ARRIVALS = 4


def first_half(requests: int) -> int:
    """Arrivals of the first half; the second half may have one less."""
    return requests - requests // 2


def growth(held_middle: ArrayLike, held_last: ArrayLike, requests: int) -> NDArray[np.float64]:
    """How much of what arrives in the second half of a run piles up; negative where the backlog shrinks.

    Args:
        held_middle: Requests in the system at the last arrival of the first half; shape (n_runs,) or ().
        held_last: Requests in the system at the last arrival of all, in the same shape.
        requests: Arrivals of a run.
    """
    grown = np.asarray(held_last, np.float64) - np.asarray(held_middle, np.float64)
    return np.asarray(grown / (requests - first_half(requests)), np.float64)


def growth_of(run: Served) -> float:
    """Growth of a run's backlog; NaN with fewer than four arrivals."""
    requests = run.requests.dropna(subset=["arrival_s"])
    arrival_s = np.sort(requests["arrival_s"].to_numpy(np.float64))
    if len(arrival_s) < _FEWEST_ARRIVALS:
        return math.nan
    left_s = np.sort(requests["finish_s"].dropna().to_numpy(np.float64))
    ends = (first_half(len(arrival_s)), len(arrival_s))
    middle, last = (arrived - np.searchsorted(left_s, arrival_s[arrived - 1], "right") for arrived in ends)
    return float(growth(middle, last, len(arrival_s)))


def growth_interval(runs: Sequence[Served]) -> Interval:
    """Mean growth over request sequences, with what chance makes of a queue at its capacity.

    There arrivals and departures are each nearly a Poisson process, so that over N arrivals the backlog moves
    by 0 on average, with a variance of 2 N: growth has a standard deviation of sqrt(2 / N). Since it is at
    most 1, fewer than 8 arrivals in second halves (16 requests) can show nothing, and as little as 0.1 needs
    some 770. Sequences that differ by more, as bursts make them, widen the interval to Student's.

    Args:
        runs: One policy's, one or several of each seed; repeats of a seed are averaged.

    Source: Cox and Lewis, The Statistical Analysis of Series of Events, 1966, section 9.2 (difference of two
    Poisson counts).
    """
    from scipy.stats import norm, t

    seeds = sorted({run.seed for run in runs})
    of_seed = [[run for run in runs if run.seed == seed] for seed in seeds]
    grown = np.array([np.mean([growth_of(run) for run in each]) for each in of_seed])
    counts = [int(each[0].requests["arrival_s"].notna().sum()) for each in of_seed]
    arrivals = sum(count - first_half(count) for count in counts)
    if not arrivals or np.isnan(grown).any():
        return Interval(math.nan, math.nan, math.nan)
    tail = (1 + CONFIDENCE) / 2
    half = float(norm.ppf(tail)) * math.sqrt(2 / arrivals)
    if len(grown) > 1:
        spread = float(grown.std(ddof=1)) / math.sqrt(len(grown))
        half = max(half, float(t.ppf(tail, len(grown) - 1)) * spread)
    mean = float(grown.mean())
    return Interval(mean, mean - half, mean + half)


def is_saturated(found: Interval) -> bool:
    """Whether a backlog is shown to grow, and by more than ``SATURATED`` of what arrives."""
    return found.sign > 0 and found.value > SATURATED
