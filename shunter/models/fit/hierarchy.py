"""The fit to many sources: factors of terms, and effects of devices, generations, releases and sources.

A row's logarithm is that of its terms with their factors, moved by the effect of its device and of the
device's generation, of the engine's release, its kernels and its year, of the host's memory, and of whoever
measured it. Effects of one kind have one spread, which is estimated with them (empirical Bayes by expectation
and maximisation), so that what few rows show stays near what the others show: partial pooling. Errors have a
Student t distribution, so that a wrong row moves nothing; those of kinds in ``TargetPhysics.loose`` have a
spread of their own.

Source: Gelman et al., Bayesian Data Analysis, 2013, sections 5.4 (hierarchical model), 13.4 (expectation and
maximisation), 17.2 (t errors as weights); Lange et al., Robust Statistical Modeling Using the t Distribution,
1989.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from shunter.models.fit.physical import (
    SharedPhysics,
    bases_of,
    generations_of,
    noise_kinds,
    total_of,
    versions_of,
    years_of,
)
from shunter.models.fit.uncertain import SPREADS, Uncertainty
from shunter.models.physics import RatedConfigurations, TargetPhysics

Array = npt.NDArray[np.float64]

_FREEDOM = 4.0
"""Degrees of freedom of errors: few, as some published rows are plainly wrong."""

_BEFOREHAND = 4.0
"""Groups that the prior of a spread counts as."""

_NOISE = 0.05
_NOISE_COUNTS = 6.0
_LEAST_NOISE, _MOST_NOISE = 0.015, 0.4
_STEPS, _STEPS_AGAIN = 24, 8
_SETTLE = 3
"""Steps before spreads are estimated."""

_NEAR = 1e-3
_KEPT = ("factor", "year", "device", "generation", "own")
"""Parameters that predictions of new rows depend on, but for the release's, which few share."""


@dataclass(frozen=True)
class Start:
    """Where a fit begins: another one's parameters by name, with its spreads, which are then kept."""

    parameters: dict[str, float]
    spreads: dict[str, float]
    noise: dict[str, float]


class Hierarchy:
    """One target's fit.

    Args:
        physics: The target's terms.
        target: Its name.
        values: Terms at peak rates, a row a measurement; shape (n_rows, n_terms).
        measured: Measured values, positive; shape (n_rows,).
        frame: Columns ``datasheet``, ``engine_version`` and ``source`` of the rows; shape (n_rows, ...).
        rated: The rows as rated configurations.
    """

    def __init__(
        self,
        physics: TargetPhysics,
        target: str,
        values: Array,
        measured: Array,
        frame: pd.DataFrame,
        rated: RatedConfigurations,
    ) -> None:
        self.physics, self.target, self.values = physics, target, values
        self.log_measured, self.flags = np.log(measured), physics.flags()
        generation, versions = generations_of(frame), versions_of(frame)
        self.years = years_of(versions)
        bases, sources = bases_of(versions).astype(str), frame["source"].to_numpy(dtype=str)
        labels = {
            "device": frame["datasheet"].to_numpy(dtype=str),
            "generation": generation.astype(str),
            "own": generation.astype(str),
            "release": bases,
            "source": sources,
            "library": sources,
            "kernels": bases,
            "host": np.where(values @ self.flags["host"] > 0, sources, ""),
        }
        self.applies = {"library": rated.library}
        self.names = [f"factor:{t.name}" for t in physics.terms] + ["year:"]
        self.columns: dict[str, npt.NDArray[np.intp]] = {}
        self.slices: dict[str, slice] = {}
        for effect in SPREADS:
            if not self.flags[effect].any():
                continue
            names, codes = np.unique(labels[effect], return_inverse=True)
            self.slices[effect] = slice(len(self.names), len(self.names) + len(names))
            self.columns[effect] = codes + len(self.names)
            self.names += [f"{effect}:{name}" for name in names]
        self.kind = noise_kinds(physics, rated)
        self.centre = np.zeros(len(self.names))
        self.centre[: len(physics.terms)] = np.log([t.factor for t in physics.terms])
        self.centre[len(physics.terms)] = physics.per_year[0]
        self.spreads = {
            "device": physics.device_spread,
            "generation": physics.generation_spread,
            "own": physics.own_spread,
            "release": physics.release_spread,
            "source": physics.source_spread,
            "library": physics.library_spread,
            "kernels": physics.kernel_spread,
            "host": physics.host_spread,
        }
        self.noise = dict.fromkeys(("", *physics.loose), _NOISE)
        self.beforehand = dict(self.spreads)

    def fit(self, start: Start | None = None) -> Hierarchy:
        """Finds the most probable parameters and, without a start, spreads; returns self."""
        x = self.centre.copy()
        if start is not None:
            self.spreads, self.noise = dict(start.spreads), dict(start.noise)
            x = np.array([start.parameters.get(n, c) for n, c in zip(self.names, x, strict=True)])
        for step in range(_STEPS if start is None else _STEPS_AGAIN):
            change, curvature, errors, weight = self._step(x)
            largest = float(np.abs(change).max())
            x = x + change * min(1.0, 1.0 / max(largest, 1e-9))
            if start is not None and largest < _NEAR:
                break
            if start is None and step >= _SETTLE:
                self._estimate(x, np.diag(np.linalg.inv(curvature)), errors, weight)
        self.x = x
        self.covariance = np.linalg.inv(self._step(x)[1])
        return self

    @property
    def start(self) -> Start:
        """Where a fit to a part of the rows may begin."""
        parameters = dict(zip(self.names, self.x.tolist(), strict=True))
        return Start(parameters, dict(self.spreads), dict(self.noise))

    def _prior(self) -> Array:
        spread = np.empty(len(self.names))
        terms = self.physics.terms
        spread[: len(terms)] = [t.spread for t in terms]
        spread[len(terms)] = self.physics.per_year[1]
        for effect, place in self.slices.items():
            spread[place] = self.spreads[effect]
        return spread

    def _step(self, x: Array) -> tuple[Array, Array, Array, Array]:
        """Newton's step, the curvature, and the rows' errors and weights."""
        n = len(self.physics.terms)
        log_factors = x[:n] + np.outer(x[n] * self.years, self.flags["year"])
        for effect, column in self.columns.items():
            applied = x[column] * self.applies.get(effect, 1.0)
            log_factors = log_factors + np.outer(applied, self.flags[effect])
        total, slopes = total_of(self.physics, self.values, log_factors)
        slopes, errors = slopes / total[:, None], self.log_measured - np.log(total)
        jacobian = np.zeros((len(total), len(x)))
        jacobian[:, :n] = slopes
        jacobian[:, n] = self.years * (slopes @ self.flags["year"])
        rows = np.arange(len(total))
        for effect, column in self.columns.items():
            jacobian[rows, column] = (slopes @ self.flags[effect]) * self.applies.get(effect, 1.0)
        noise, spread = np.array([self.noise[k] for k in self.kind]), self._prior()
        weight = (_FREEDOM + 1) / (_FREEDOM + (errors / noise) ** 2)
        weighted = jacobian.T * (weight / noise**2)
        curvature = weighted @ jacobian + np.diag(1 / spread**2)
        change = np.linalg.solve(curvature, weighted @ errors - (x - self.centre) / spread**2)
        return change, curvature, errors, weight

    def _estimate(self, x: Array, variance: Array, errors: Array, weight: Array) -> None:
        """One step of expectation and maximisation for spreads and noise."""
        for effect, place in self.slices.items():
            squares = x[place] ** 2 + variance[place]
            prior = _BEFOREHAND * self.beforehand[effect] ** 2
            self.spreads[effect] = float(np.sqrt((prior + squares.sum()) / (_BEFOREHAND + len(squares))))
        used = len(x) - float((variance / self._prior() ** 2).sum())
        for kind in self.noise:
            here = self.kind == kind
            free = max(here.sum() * (1 - used / len(errors)), 2.0)
            of_errors = _NOISE_COUNTS * _NOISE**2 + float((weight * errors**2)[here].sum())
            found = np.sqrt(of_errors / (_NOISE_COUNTS + free))
            self.noise[kind] = float(np.clip(found, _LEAST_NOISE, _MOST_NOISE))

    def result(self, widening: dict[str, float] | None = None) -> SharedPhysics:
        """What was found, as data.

        Args:
            widening: How many times as wide intervals have to be, by kind; None: as wide as they say.
        """
        by: dict[str, dict[str, float]] = {effect: {} for effect in ("factor", "year", *SPREADS)}
        for name, value in zip(self.names, self.x.tolist(), strict=True):
            effect, _, label = name.partition(":")
            by[effect][label] = value
        kept = [i for i, name in enumerate(self.names) if name.partition(":")[0] in _KEPT]
        covariance = self.covariance[np.ix_(kept, kept)][np.tril_indices(len(kept))]
        return SharedPhysics(
            target=self.target,
            factors={name: float(np.exp(value)) for name, value in by["factor"].items()},
            deviations=by["device"],
            versions={},
            corrections={},
            generations=by["generation"],
            own=by["own"],
            releases=by["release"],
            kernels=by["kernels"],
            per_year=by["year"][""],
            uncertainty=Uncertainty(
                names=tuple(self.names[i] for i in kept),
                covariance=tuple(float(f"{value:.5g}") for value in covariance),
                spreads=self.spreads,
                noise=self.noise,
                widening=widening or {"": 1.0},
            ),
        )
