"""Calibrates a synthetic twin of a trace, and says how alike the two are.

The twin is fitted to the first half of the trace and judged on the second, beside what the first half itself
would reach there: no twin can be expected to do better than that. Where the rate changes over the trace, its
halves are unlike: then the changes are fitted first (``rates``), and all this is of arrivals without them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.stats import ks_2samp

from shunter.envs.scenario.workload import Arrivals, Bursts
from shunter.envs.workload.arrivals import arrival_times
from shunter.envs.workload.rates import RateChange, rate_change
from shunter.errors import InputError

__all__ = ["SCALES_S", "Fit", "dispersion", "fit_arrivals"]

Array = NDArray[np.float64]

SCALES_S = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Window lengths at which burstiness is compared."""
_LEAST_REQUESTS = 200
_LEAST_REQUESTS_A_CYCLE = 0.01
"""Bursts that come and go a hundred times between two requests leave no trace, and take for ever to draw."""

_LEAST_WINDOWS = 8


@dataclass(frozen=True)
class Likeness:
    """How alike two sets of arrivals are.

    Attributes:
        gaps_ks: Kolmogorov-Smirnov distance of the gaps, each over its mean.
        dispersion: Index of dispersion of the first set over that of the second, by window length in s.
    """

    gaps_ks: float
    dispersion: dict[float, float]

    @property
    def score(self) -> float:
        """The distance of gaps plus the mean distance of dispersions on a logarithmic scale; 0: the same."""
        ratios = [abs(np.log(ratio)) for ratio in self.dispersion.values()]
        return self.gaps_ks + (float(np.mean(ratios)) if ratios else 0.0)


@dataclass(frozen=True)
class Fit:
    """A twin's arrivals.

    Attributes:
        name: Name of the kind of process.
        arrivals: The arrivals as a workload states them.
        rate_per_s: Mean rate of the whole trace.
        seen: Likeness of the twin to the first half, which chose it.
        held_out: Likeness of the twin to the second half.
        floor: Likeness of the first half to the second.
        others: Scores on the first half of the kinds that were not chosen, by name.
        change: Whether the rate is steady, and what it does instead.
    """

    name: str
    arrivals: Arrivals
    rate_per_s: float
    seen: Likeness
    held_out: Likeness
    floor: Likeness
    others: dict[str, float]
    change: RateChange


def dispersion(arrivals_s: Array, window_s: float) -> float:
    """Variance over mean of the arrivals per window; 1 for Poisson. NaN with fewer than eight windows."""
    span_s = arrivals_s[-1] - arrivals_s[0]
    windows = int(span_s // window_s)
    if windows < _LEAST_WINDOWS:
        return float("nan")
    at = (arrivals_s - arrivals_s[0]) // window_s
    # Of windows that hold nothing there may be very many.
    counts = np.unique(at[at < windows], return_counts=True)[1].astype(np.float64)
    mean = counts.sum() / windows
    return max(0.0, float((counts @ counts / windows - mean**2) / mean))


def likeness(first_s: Array, second_s: Array) -> Likeness:
    """Compares two ascending arrays of arrivals."""
    gaps = [np.diff(times) / np.diff(times).mean() for times in (first_s, second_s)]
    pairs = {scale: (dispersion(first_s, scale), dispersion(second_s, scale)) for scale in SCALES_S}
    ratios = {scale: a / b for scale, (a, b) in pairs.items() if np.isfinite(a) and np.isfinite(b) and a * b}
    return Likeness(float(ks_2samp(*gaps, method="asymp").statistic), ratios)


def fit_arrivals(frame: pd.DataFrame, *, seed: int = 0) -> Fit:
    """Chooses and calibrates the process that looks most like a trace's first half, or has its changing rate.

    Args:
        frame: ``TRACE_COLUMNS``.
        seed: Seed of the twins that are drawn for the comparison.

    Raises:
        InputError: The trace is too short, or its halves span no time.
    """
    times_s = frame["arrival_s"].to_numpy(dtype=np.float64)
    times_s = times_s - times_s[:1]  # clocks count from far away: small gaps would be lost beside that
    if len(times_s) < _LEAST_REQUESTS:
        raise InputError("trace", f"hold at least {_LEAST_REQUESTS} requests to fit a twin", len(times_s))
    if min(np.ptp(half_s) for half_s in np.array_split(times_s, 2)) <= 0:
        raise InputError("trace", "span some time in each half", "all at once")
    change = rate_change(times_s)
    if change.curve is None:
        return _fit_steady(times_s, change, _KINDS, seed)
    fit = _fit_steady(change.curve.operational_s(times_s), change, _GAPS, seed)
    changing = change.curve.arrivals.model_dump(exclude_unset=True)
    arrivals = Arrivals.model_validate({**fit.arrivals.model_dump(exclude_unset=True), **changing})
    return replace(fit, name=f"{change.kind}, {fit.name}", arrivals=arrivals, rate_per_s=_rate_per_s(times_s))


def _fit_steady(
    times_s: Array, change: RateChange, kinds: Mapping[str, Callable[[Array], Arrivals | None]], seed: int
) -> Fit:
    first_s, second_s = np.array_split(times_s, 2)
    drawn = {
        name: (spec, _draw(spec, first_s, seed))
        for name, make in kinds.items()
        if (spec := make(first_s)) is not None
    }
    seen = {name: likeness(twin_s, first_s) for name, (_, twin_s) in drawn.items()}
    best = min(seen, key=lambda name: seen[name].score)
    spec, twin_s = drawn[best]
    return Fit(
        name=best,
        arrivals=spec,
        rate_per_s=_rate_per_s(times_s),
        seen=seen[best],
        held_out=likeness(twin_s, second_s),
        floor=likeness(first_s, second_s),
        others={name: found.score for name, found in seen.items() if name != best},
        change=change,
    )


def _rate_per_s(times_s: Array) -> float:
    """Mean rate of arrivals, ascending."""
    return float((len(times_s) - 1) / np.ptp(times_s))


def _draw(spec: Arrivals, like_s: Array, seed: int) -> Array:
    chunks = arrival_times(spec, _rate_per_s(like_s), np.random.default_rng(seed))
    count = -(-len(like_s) // 4096)
    return np.concatenate(list(islice(chunks, count)))[: len(like_s)]


def _of_gaps(gaps: Any) -> Callable[[Array], Arrivals | None]:
    def make(times_s: Array) -> Arrivals | None:
        each_s = np.diff(times_s)
        return Arrivals(gaps=gaps, cv=float(np.clip(each_s.std() / each_s.mean(), 0.1, 20)))

    return make


def _bursts(times_s: Array) -> Arrivals | None:
    """Moments of a two-state process from the growth of dispersion with the window; None if it does not grow.

    Source:
        Fischer and Meier-Hellstern (1993), "The Markov-modulated Poisson process (MMPP) cookbook": with c²
        the squared coefficient of variation of the rate λ and τ its relaxation time,
        I(T) = 1 + 2 λ c² τ (1 - τ/T (1 - exp(-T/τ))).
    """
    rate_per_s = _rate_per_s(times_s)
    seen = {scale: dispersion(times_s, scale) for scale in SCALES_S}
    scales = np.array([scale for scale, value in seen.items() if value > 0])
    measured = np.array([value for value in seen.values() if value > 0])
    if len(scales) < 2 or measured.max() < 1.1:
        return None

    def error(x: Array) -> Array:
        square, relaxation_s = np.exp(x)
        shrink = 1 - relaxation_s / scales * -np.expm1(-scales / relaxation_s)
        return np.asarray(np.log(1 + 2 * rate_per_s * square * relaxation_s * shrink) - np.log(measured))

    square, relaxation_s = np.exp(least_squares(error, np.log([0.5, scales.mean()])).x)
    # Where the quiet state would need a rate below zero, it gets none, and bursts their share by c² alone.
    share = min(0.2, 1 / (1 + square))
    factor = min(1 + np.sqrt(square * (1 - share) / share), 1 / share)
    mean_s = relaxation_s / (1 - share)
    if factor < 1.01 or rate_per_s * mean_s / share < _LEAST_REQUESTS_A_CYCLE:
        return None
    return Arrivals(bursts=Bursts(factor=float(factor), share=float(share), mean_s=float(mean_s)))


_GAPS: dict[str, Callable[[Array], Arrivals | None]] = {
    "poisson": lambda times_s: Arrivals(),
    "gamma gaps": _of_gaps("gamma"),
    "weibull gaps": _of_gaps("weibull"),
}
_KINDS = {**_GAPS, "bursts": _bursts}
