"""Arrival processes: renewal gaps in operational time, and rates that change in real time.

A process of unit rate is drawn first; where the rate changes, its times are mapped through the inverse of the
rate's integral. Any gaps then combine with any modulation, and the mean rate is the one asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import gamma as gamma_function

from shunter.envs.scenario.workload import Arrivals, Bursts, Diurnal, Step

Array = NDArray[np.float64]
_CHUNK = 4096
_DIURNAL_GRID = 4096


def arrival_times(
    spec: Arrivals, rate_per_s: float, rng: np.random.Generator, first: int = _CHUNK
) -> Iterator[Array]:
    """Arrival times without end, ascending, in chunks.

    Args:
        spec: The process.
        rate_per_s: Mean rate.
        rng: Everything random comes from it.
        first: Size of the first chunk: short episodes need no more.

    Yields:
        Shape (chunk,), seconds.
    """
    gaps = _unit_gaps(spec)
    to_seconds = _clock(spec, rate_per_s, rng)
    reached, count = 0.0, min(first, _CHUNK)
    while True:
        operational = reached + np.cumsum(gaps(rng, count))
        reached, count = float(operational[-1]), _CHUNK
        yield to_seconds(operational)


def weibull_shape(cv: float) -> float:
    """Shape of the Weibull distribution with a coefficient of variation.

    Source:
        CV² = Γ(1 + 2/k) / Γ(1 + 1/k)² − 1.
    """
    return float(
        brentq(lambda k: gamma_function(1 + 2 / k) / gamma_function(1 + 1 / k) ** 2 - 1 - cv**2, 0.12, 50.0)
    )


def _unit_gaps(spec: Arrivals) -> Callable[[np.random.Generator, int], Array]:
    if spec.cv is None:
        return lambda rng, count: rng.standard_exponential(count)
    if spec.gaps == "gamma":
        shape = 1.0 / spec.cv**2
        return lambda rng, count: rng.standard_gamma(shape, count) / shape
    k = weibull_shape(spec.cv)
    return lambda rng, count: rng.weibull(k, count) / gamma_function(1 + 1 / k)


def _clock(spec: Arrivals, rate_per_s: float, rng: np.random.Generator) -> Callable[[Array], Array]:
    """The map from operational time, in mean gaps, to seconds."""
    if spec.bursts:
        return _BurstClock(spec.bursts, rate_per_s, np.random.default_rng(int(rng.integers(2**63))))
    if spec.diurnal:
        return _diurnal_clock(spec.diurnal, rate_per_s, float(rng.random()))
    if spec.steps:
        return _step_clock(spec.steps, rate_per_s)
    return lambda operational: operational / rate_per_s


def _step_clock(steps: Sequence[Step], rate_per_s: float) -> Callable[[Array], Array]:
    span_s, factor = np.array([(step.span_s, step.factor) for step in steps]).T
    ends_s, integral = np.cumsum(span_s), np.cumsum(span_s * factor)
    share, x = np.append(0.0, integral / integral[-1]), np.append(0.0, ends_s / ends_s[-1])
    return _periodic_clock(share, x, rate_per_s, float(ends_s[-1]))


def _diurnal_clock(spec: Diurnal, rate_per_s: float, phase: float) -> Callable[[Array], Array]:
    x = np.linspace(0.0, 1.0, _DIURNAL_GRID + 1)
    swing = np.cos(2 * np.pi * phase) - np.cos(2 * np.pi * (x + phase))
    integral = x + spec.amplitude / (2 * np.pi) * swing
    return _periodic_clock(integral, x, rate_per_s, spec.period_s)


def _periodic_clock(
    integral: Array, x: Array, rate_per_s: float, period_s: float
) -> Callable[[Array], Array]:
    """Maps operational time to seconds where the rate comes again every period.

    Args:
        integral: (K,) share of a period's arrivals up to each point of it, from 0 to 1.
        x: (K,) the points, as shares of the period, from 0 to 1.
        rate_per_s: Mean rate.
        period_s: Length of a period.
    """
    per_period = rate_per_s * period_s

    def to_seconds(operational: Array) -> Array:
        whole, rest = np.divmod(operational / per_period, 1.0)
        return np.asarray((whole + np.interp(rest, integral, x)) * period_s)

    return to_seconds


class _BurstClock:
    """Maps operational time to seconds through quiet and busy stretches, drawn as far as they are needed."""

    def __init__(self, spec: Bursts, rate_per_s: float, rng: np.random.Generator) -> None:
        quiet_factor = (1 - spec.factor * spec.share) / (1 - spec.share)
        self._rates = rate_per_s * np.array([quiet_factor, spec.factor])
        self._mean_s = np.array([spec.mean_s * (1 - spec.share) / spec.share, spec.mean_s])
        self._rng = rng
        self._state = int(rng.random() < spec.share)
        self._seconds, self._operational = np.zeros(1), np.zeros(1)

    def __call__(self, operational: Array) -> Array:
        while self._operational[-1] < operational[-1]:
            self._extend(256)
        seconds = np.interp(operational, self._operational, self._seconds)
        # Times only grow: what lies behind is never asked for again.
        keep = max(0, int(np.searchsorted(self._operational, operational[-1])) - 1)
        self._seconds, self._operational = self._seconds[keep:], self._operational[keep:]
        return np.asarray(seconds)

    def _extend(self, stretches: int) -> None:
        states = (self._state + np.arange(stretches)) % 2
        lengths_s = self._rng.standard_exponential(stretches) * self._mean_s[states]
        self._seconds = np.append(self._seconds, self._seconds[-1] + np.cumsum(lengths_s))
        gained = np.cumsum(lengths_s * self._rates[states])
        self._operational = np.append(self._operational, self._operational[-1] + gained)
        self._state = (self._state + stretches) % 2
