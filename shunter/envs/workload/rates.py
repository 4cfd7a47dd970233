"""Whether arrivals keep one rate, and how it changes where they do not: in steps, or like a sine.

How unsteady arrivals are at short scales, their index of dispersion, is taken into account: bursts by
themselves are no change of the rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import chi2, kstwobign

from shunter.envs.scenario.workload import Arrivals, Diurnal, Step

__all__ = ["LEVEL", "PARTS"]

Array = NDArray[np.float64]

LEVEL = 1e-3
"""A steady rate is refuted where chance alone gives so unequal arrivals this often."""

PARTS = 10
"""Parts of equally many requests whose rates are told."""

_BLOCKS = (10, 20, 40)
"""Into so many blocks of equally many requests a trace is cut to see how unsteady its arrivals are."""

_PENALTY = 3.0
"""A further step must raise twice the log-likelihood over the dispersion by so many times log(requests)."""

_LEAST_DISPERSION = 0.01
"""Of arrivals as regular as a clock's."""

_MOST_STEPS = 24
_LEAST_SHARE, _LEAST_REQUESTS = 0.01, 25
"""A step holds at least this share of the requests, and this many."""

_BINS = 2000
_LEAST_SWINGS, _MOST_SWINGS = 0.9, 50
"""Periods of a sine that a trace holds: of fewer, a sine cannot be told from steps."""

_LEAST_AMPLITUDE, _MOST_AMPLITUDE = 0.01, 0.99


@dataclass(frozen=True)
class RateCurve:
    """How a rate changes over a trace.

    Attributes:
        arrivals: The same as a workload states it.
        edges_s: (K + 1,) when it changes, from the first request to the last.
        factor: (K,) the rate in between over the mean rate.
    """

    arrivals: Arrivals
    edges_s: Array
    factor: Array

    @property
    def integral_s(self) -> Array:
        """(K + 1,) at each edge, when there would have been as many arrivals at the mean rate."""
        passed = np.append(0.0, np.cumsum(self.factor * np.diff(self.edges_s)))
        return np.asarray(self.edges_s[0] + passed * (np.ptp(self.edges_s) / passed[-1]))

    def operational_s(self, times_s: Array) -> Array:
        """Arrivals as they would be at the mean rate, the changes of the rate taken out."""
        return np.interp(times_s, self.edges_s, self.integral_s)


@dataclass(frozen=True)
class RateChange:
    """What is found of a trace's rate.

    Attributes:
        p_value: How often arrivals of one rate would be spread over the time as unequally, by chance.
        foretold: Whether a sine fitted to the first half of the requests foretells the second half.
        slowest_per_s: Rate of the slowest of ``PARTS`` parts of equally many requests.
        fastest_per_s: Rate of the fastest of them.
        gains: By kind of curve, how much better it explains every second request after it was fitted to the
            others: nats per request, 0 as a steady rate does. Empty where a steady rate is not refuted.
        kind: The curve with the largest gain; None: none has any, or a steady rate is not refuted.
        curve: That curve.
    """

    p_value: float
    foretold: bool
    slowest_per_s: float
    fastest_per_s: float
    gains: dict[str, float] = field(default_factory=dict)
    kind: str | None = None
    curve: RateCurve | None = None

    @property
    def refuted(self) -> bool:
        """Whether the arrivals have no steady rate."""
        return self.foretold or self.p_value < LEVEL


def rate_change(times_s: Array) -> RateChange:
    """Tests whether arrivals keep one rate and, where they do not, takes the curve that explains them best.

    A steady rate is refuted by how the arrivals are spread over the time (``steadiness``), or by a sine that
    was fitted to the first half of the requests and foretells the second half.

    Args:
        times_s: Arrivals, ascending, that span some time in each half.
    """
    p_value = steadiness(times_s)
    parts = np.linspace(0, len(times_s) - 1, PARTS + 1).astype(np.int64)
    lasted_s = np.diff(times_s[parts])
    # Many requests may have one and the same time stamp.
    rates = np.diff(parts)[lasted_s > 0] / lasted_s[lasted_s > 0]
    found = RateChange(p_value, _swings_on(times_s), float(rates.min()), float(rates.max()))
    if not found.refuted:
        return found
    gains = {kind: _held_out_gain(fit(times_s[::2]), times_s[1::2]) for kind, fit in _CURVES.items()}
    best = max(gains, key=lambda kind: gains[kind])
    curve = _CURVES[best](times_s) if gains[best] > 0 else None
    return replace(found, gains=gains, kind=None if curve is None else best, curve=curve)


def dispersion_of_blocks(times_s: Array) -> float:
    """Index of dispersion of arrivals in blocks that are short beside the trace, whatever their rates.

    Three neighbouring blocks of k gaps each last d, e and f: (3 (d - 2e + f) / (d + e + f))² is about 6 / k
    times the index times a chi-square variable. A rate that rises evenly cancels out, and the median of many
    such triples hardly sees the few between which it jumps.
    """
    found = []
    for blocks in _BLOCKS:
        at = np.linspace(0, len(times_s) - 1, blocks + 1).astype(np.int64)
        lasted_s = np.diff(times_s[at])
        sums_s = lasted_s[2:] + lasted_s[1:-1] + lasted_s[:-2]
        bends_s = lasted_s[2:] - 2 * lasted_s[1:-1] + lasted_s[:-2]
        bent = np.divide(3 * bends_s, sums_s, out=np.zeros(len(sums_s)), where=sums_s > 0) ** 2
        found.append(len(times_s) / blocks / 6 * float(np.median(bent)) / float(chi2.ppf(0.5, 1)))
    return max(_LEAST_DISPERSION, *found)


def steadiness(times_s: Array) -> float:
    """How often arrivals of one rate would be spread over the time as unequally as these, by chance.

    Source:
        Kolmogorov and Smirnov's test of uniform times, its distance over the root of the index of dispersion:
        counts of a stationary process are a Brownian motion of that variance in the long run.
    """
    reached = (times_s - times_s[0]) / np.ptp(times_s)
    distance = float(np.abs(reached - np.linspace(0.0, 1.0, len(times_s))).max())
    return float(kstwobign.sf(distance * math.sqrt(len(times_s) / dispersion_of_blocks(times_s))))


def _swings_on(times_s: Array) -> bool:
    """Whether a sine fitted to the first half of the requests foretells when those of the second half come.

    Source:
        Markov's inequality: data of a steady rate are a thousand times likelier under another one, chosen
        without them, once in a thousand times at most.
    """
    first_s, second_s = np.array_split(times_s, 2)
    sine = _fitted_sine(first_s, _LEAST_SWINGS / 2)
    if sine is None:
        return False
    grid_s = np.linspace(second_s[0], second_s[-1], _BINS)
    gain = np.log(sine.relative(second_s) / sine.relative(grid_s).mean()).sum()
    unsteady = dispersion_of_blocks(sine.curve(first_s).operational_s(first_s))
    return bool(gain / max(1.0, unsteady) > -math.log(LEVEL))


def _held_out_gain(curve: RateCurve | None, times_s: Array) -> float:
    if curve is None:
        return 0.0
    at = np.searchsorted(curve.edges_s, times_s, side="right") - 1
    return float(np.log(curve.factor[np.clip(at, 0, len(curve.factor) - 1)]).mean())


def _stepped(times_s: Array) -> RateCurve | None:
    """Splits the time in two where that raises the likelihood most, again and again; None: not once.

    Source:
        Binary segmentation with a Bayesian information criterion for change points: Zhang and Siegmund,
        Biometrics 63, 2007.
    """
    count = len(times_s)
    least = max(_LEAST_REQUESTS, int(_LEAST_SHARE * count))
    worth = _PENALTY * math.log(count) * dispersion_of_blocks(times_s) / 2
    whole = (0, count - 1)
    open_parts, edges = {whole: _best_split(times_s, *whole, least)}, [0, count - 1]
    while open_parts and len(edges) <= _MOST_STEPS:
        (low, high), (gain, at) = max(open_parts.items(), key=lambda part: part[1][0])
        if gain <= worth:
            break
        del open_parts[low, high]
        edges.append(at)
        open_parts |= {part: _best_split(times_s, *part, least) for part in ((low, at), (at, high))}
    if len(edges) == 2:
        return None
    edges.sort()
    edges_s = times_s[edges]
    span_s, factor = np.diff(edges_s), np.diff(edges) / np.diff(edges_s) * np.ptp(times_s) / (count - 1)
    steps = [Step(span_s=float(s), factor=float(f)) for s, f in zip(span_s, factor, strict=True)]
    return RateCurve(Arrivals(steps=steps), edges_s, factor)


def _best_split(times_s: Array, low: int, high: int, least: int) -> tuple[float, int]:
    """By how much two rates are likelier than one between two requests, and the request where they meet."""
    at = np.arange(low + least, high - least + 1)
    before_s, after_s = times_s[at] - times_s[low], times_s[high] - times_s[at]
    possible = (before_s > 0) & (after_s > 0)
    if not possible.any():
        return 0.0, low
    at, before_s, after_s = at[possible], before_s[possible], after_s[possible]
    before, after, whole = at - low, high - at, high - low
    gain = before * np.log(before / before_s) + after * np.log(after / after_s)
    best = int(gain.argmax())
    return float(gain[best] - whole * np.log(whole / (before_s + after_s)[best])), int(at[best])


@dataclass(frozen=True)
class _Sine:
    """A rate, over its mean, of 1 + cosine cos + sine sin(2π (t - begin) / period)."""

    begin_s: float
    period_s: float
    cosine: float
    sine: float

    @property
    def amplitude(self) -> float:
        return float(np.hypot(self.cosine, self.sine))

    def relative(self, times_s: Array) -> Array:
        """The rate at some times, never quite 0."""
        angle = 2 * np.pi * (times_s - self.begin_s) / self.period_s
        return np.maximum(1 + self.cosine * np.cos(angle) + self.sine * np.sin(angle), 1 - _MOST_AMPLITUDE)

    def curve(self, times_s: Array) -> RateCurve:
        """The sine over the span of some times."""
        edges_s = np.linspace(times_s[0], times_s[-1], _BINS + 1)
        factor = self.relative((edges_s[1:] + edges_s[:-1]) / 2)
        spec = Diurnal(amplitude=min(self.amplitude, _MOST_AMPLITUDE), period_s=self.period_s)
        return RateCurve(Arrivals(diurnal=spec), edges_s, factor / factor.mean())


def _swinging(times_s: Array) -> RateCurve | None:
    sine = _fitted_sine(times_s, _LEAST_SWINGS)
    return None if sine is None else sine.curve(times_s)


def _fitted_sine(times_s: Array, least_swings: float) -> _Sine | None:
    """The likeliest sine; None where the arrivals hold fewer periods of it, or it hardly swings."""
    counts, edges_s = np.histogram(times_s, bins=_BINS)
    middle_s, span_s = (edges_s[1:] + edges_s[:-1]) / 2, float(np.ptp(times_s))
    swings = np.arange(least_swings, _MOST_SWINGS, 0.25)
    waves = np.exp(-2j * np.pi * swings[:, None] * (middle_s - times_s[0]) / span_s)
    power = np.abs((waves - waves.mean(axis=1, keepdims=True)) @ counts)

    def sine(x: Array) -> _Sine:
        return _Sine(float(times_s[0]), span_s / float(max(x[2], 0.1)), float(x[0]), float(x[1]))

    def unlikely(x: Array) -> float:
        rate = sine(x).relative(middle_s)
        return -float(counts @ np.log(rate / rate.mean()))

    start = np.array([0.1, 0.1, float(swings[power.argmax()])])
    found = minimize(unlikely, start, method="Nelder-Mead", options={"maxiter": 400}).x
    best = sine(found)
    return best if least_swings <= found[2] <= _MOST_SWINGS and best.amplitude > _LEAST_AMPLITUDE else None


_CURVES: dict[str, Callable[[Array], RateCurve | None]] = {"steps": _stepped, "diurnal": _swinging}
