"""One calibration for all devices that have data sheets: factors of closed-form terms, found in log space.

The prediction of a configuration is the sum over stages of the p-norm of ``factor x term``; the factors of
terms that depend on the device are multiplied by one deviation a device, drawn towards 1; a learned
correction, one a device and one a device and model, is what that leaves, drawn towards 1 again. Every term
grows with what it is about and no factor is negative, so more bytes on slower memory are never faster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import model_validator
from scipy.optimize import least_squares

from shunter.models.datasheets import HOST
from shunter.models.fit.intervals import UNKNOWN, LogErrors
from shunter.models.fit.physical import (
    SharedPhysics,
    flags_of,
    moves_of,
    total_of,
    versions_of,
)
from shunter.models.fit.regressors import TargetFit, doublings_outside, shrunk_means
from shunter.models.fit.robust import pseudo_huber
from shunter.models.physics import PHYSICS, RatedConfigurations, TargetPhysics, kinds, rated_configurations
from shunter.models.physics.release import NOW

Array = npt.NDArray[np.float64]

_NOISE = 0.05
"""Relative error of a measurement that the priors are weighed against; larger ones count linearly."""


class CrossDeviceFit(TargetFit):
    """One target on one engine, for all devices with data sheets; ranges are of terms.

    Attributes:
        physics: What predicts.
        errors: Log errors of held-out configurations, models and devices, by kind of configuration; "" is for
            any kind.
        devices: Devices in the data; none of a fit from priors alone, which holds of any device.
        years: When the earliest and the latest engine in the data were released; 0: not known.
    """

    physics: SharedPhysics
    errors: dict[str, LogErrors]
    devices: tuple[str, ...]
    years: tuple[float, float] = (0.0, 0.0)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """A file from elsewhere may lack what predictions look up."""
        if self.target != self.physics.target or "" not in self.errors:
            raise ValueError("its errors or its physics are not its target's")
        if not set(self.ranges) <= set(self.physics.factors):
            raise ValueError("its ranges are not those of its target's terms")
        return self

    @property
    def key(self) -> tuple[str, str]:
        """Target and engine that the fit is for."""
        return (self.target, self.engine)

    def predict(self, frame: pd.DataFrame) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
        """Predicted values, the half widths of their 90 % intervals as log ratios, and what is out of range.

        Args:
            frame: Configurations of devices with data sheets, complete.

        Returns:
            Shapes (n_configurations,).
        """
        rated = rated_configurations(frame)
        values = self.physics.values(rated)
        predicted = self.physics.predict(values, frame)
        outside = doublings_outside(self.ranges, named_terms(self.physics.terms, values))
        if self.physics.uncertainty is not None:
            half = self.physics.half_width(values, frame, rated)
            unknown = np.array([bool(text) for text in self.unknown(frame, rated)], dtype=bool)
            return predicted, half * (1 + outside), (outside > 0) | unknown
        new_model = ~frame["model"].isin(self.models).to_numpy()
        new_device = ~frame["datasheet"].isin(self.devices).to_numpy()
        half, kind = self.errors[""].half_width(new_model, new_device), kinds(rated)
        for name in set(kind):
            here = kind == name
            if name in self.errors:
                half[here] = self.errors[name].half_width(new_model[here], new_device[here])
            elif len(self.errors) > 1:  # hardly measured: the errors of all are those of other kinds
                half[here] = np.hypot(half[here], UNKNOWN)
        return predicted, half * (1 + outside), outside > 0

    def unknown(self, frame: pd.DataFrame, rated: RatedConfigurations) -> list[str]:
        """Which facts of configurations are missing or beyond all that was seen, in words; empty if none.

        Only of a fit to many sources: what is one's own was measured as it is.
        """
        if self.physics.uncertainty is None:
            return [""] * len(frame)
        host = (rated.host_known == 0) & (rated.at.layers_host + rated.kv_on_host > 0)
        new = ~np.isin(rated.generation.astype(str), [*self.physics.generations, HOST])
        experts = (rated.at.expert_bytes_device + rated.at.expert_bytes_host) > 0
        later = rated.year > max(self.years[1], NOW) + 0.5
        powered = {"power_16_bit", "power_int8"} & set(self.physics.factors)
        power = (rated.power == 0) & (rated.at.layers_device > 0) & bool(powered)
        found = [""] * len(frame)
        for i in np.flatnonzero(host | new | experts | later | power):
            words = [
                "host memory bandwidth not known" if host[i] else "",
                f"no GPU of generation {rated.generation[i] or 'unknown'} measured" if new[i] else "",
                "no mixture of experts measured" if experts[i] else "",
                f"released after {self.years[1]:.0f}" if later[i] else "",
                "board power not known" if power[i] else "",
            ]
            found[i] = "; ".join(filter(None, words))
        return found


def term_values(target: str, configurations: RatedConfigurations) -> Array:
    """All terms of a target at peak rates; shape (n_configurations, n_terms)."""
    return np.column_stack([term.of(configurations) for term in PHYSICS[target].terms])


def named_terms(physics: TargetPhysics, values: Array) -> dict[str, Array]:
    """Columns of terms' values by name."""
    return dict(zip((term.name for term in physics.terms), values.T, strict=True))


def ranges_of(physics: TargetPhysics, values: Array) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of each term."""
    return {n: (float(v.min()), float(v.max())) for n, v in named_terms(physics, values).items()}


def fit_shared(
    target: str,
    values: Array,
    measured: Array,
    frame: pd.DataFrame,
    *,
    corrected: bool = True,
    around: SharedPhysics | None = None,
) -> SharedPhysics:
    """Finds the most probable factors, then what they leave by device and model.

    Without ``around`` what is thought beforehand is what the terms say. With it, it is what others measured:
    their factors, deviations and corrections, which may be as far off on a machine of one's own as the terms'
    priors allow. So a few rows move what they are about, and leave the rest as it was.

    Args:
        target: Name in ``PHYSICS``.
        values: Terms at peak rates, as from ``term_values``, a row a measurement; shape (n_rows, n_terms).
        measured: Measured values, positive; shape (n_rows,).
        frame: Columns ``datasheet``, ``model`` and ``engine_version`` of the rows; shape (n_rows, ...).
        corrected: Whether to learn corrections.
        around: A fit of the target to begin with.
    """
    physics = around.terms if around else PHYSICS[target]
    known = around.log_corrections(frame) if around else np.zeros(len(frame))
    devices, device = np.unique(frame["datasheet"].to_numpy(dtype=str), return_inverse=True)
    versions, version = np.unique(versions_of(frame).astype(str), return_inverse=True)
    start = _beforehand(physics, around, devices, versions)
    known_effects = around.effects(frame) if around else np.zeros_like(values)
    problem = _Problem(physics, values, np.log(measured) - known, device, version, start, known_effects)
    log_factors, by_device, by_version = problem.solve()
    fit = SharedPhysics(
        target=target,
        factors={t.name: float(f) for t, f in zip(physics.terms, np.exp(log_factors), strict=True)},
        deviations={str(d): float(u) for d, u in zip(devices, by_device, strict=True)},
        versions={str(v): float(u) for v, u in zip(versions, by_version, strict=True)},
        corrections=around.corrections if around else {},
        generations=around.generations if around else {},
        own=around.own if around else {},
        releases=around.releases if around else {},
        kernels=around.kernels if around else {},
        per_year=around.per_year if around else 0.0,
    )
    if not corrected:
        return fit
    left = np.log(measured / fit.predict(values, frame))
    return fit.model_copy(update={"corrections": _corrections(left, known, frame)})


def _beforehand(
    physics: TargetPhysics,
    around: SharedPhysics | None,
    devices: npt.NDArray[np.str_],
    versions: npt.NDArray[np.str_],
) -> Array:
    """Logarithms of factors, device deviations and version deviations before anything is measured."""
    if around is None:
        factors = np.log([term.factor for term in physics.terms])
        return np.concatenate([factors, np.zeros(len(devices) + len(versions))])
    return np.concatenate(
        [
            np.log([around.factors[term.name] for term in physics.terms]),
            [around.deviations.get(str(device), 0.0) for device in devices],
            [around.versions.get(str(version), 0.0) for version in versions],
        ]
    )


@dataclass(frozen=True)
class _Problem:
    """Maximum a posteriori in log space: measurements with errors of ``_NOISE``, priors as in the terms."""

    physics: TargetPhysics
    values: Array
    log_measured: Array
    device: npt.NDArray[np.intp]
    version: npt.NDArray[np.intp]
    start: Array
    effects: Array

    def solve(self) -> tuple[Array, Array, Array]:
        """Logarithms of factors, of device deviations and of version deviations."""
        physics = self.physics
        sizes = (len(physics.terms), int(self.device.max()) + 1, int(self.version.max()) + 1)
        spread = np.concatenate(
            [
                [t.spread for t in physics.terms],
                np.full(sizes[1], physics.device_spread),
                np.full(sizes[2], physics.version_spread),
            ]
        )
        ends = np.cumsum(sizes)[:2]
        found = least_squares(
            lambda x: self._residuals(np.split(x, ends), (x - self.start) / spread),
            self.start,
            jac=lambda x: self._jacobian(np.split(x, ends), spread),
            x_scale=spread,
            max_nfev=100,
        )
        log_factors, by_device, by_version = np.split(found.x, ends)
        return log_factors, by_device, by_version

    def _predicted(self, parts: list[Array]) -> tuple[Array, Array]:
        factors, device, version = parts
        moved = moves_of(self.physics, device[self.device], version[self.version])
        return total_of(self.physics, self.values, factors + moved + self.effects)

    def _residuals(self, parts: list[Array], prior: Array) -> Array:
        error = np.log(self._predicted(parts)[0]) - self.log_measured
        return np.concatenate([pseudo_huber(error / _NOISE)[0], prior])

    def _jacobian(self, parts: list[Array], spread: Array) -> Array:
        total, slopes = self._predicted(parts)
        slopes = slopes / total[:, None]
        by_device, by_version = flags_of(self.physics)
        device, version = np.zeros((len(total), len(parts[1]))), np.zeros((len(total), len(parts[2])))
        rows = np.arange(len(total))
        device[rows, self.device] = slopes[:, by_device].sum(axis=1)
        version[rows, self.version] = slopes[:, by_version].sum(axis=1)
        steepness = pseudo_huber((np.log(total) - self.log_measured) / _NOISE)[1]
        whole = np.hstack([slopes, device, version]) * (steepness / _NOISE)[:, None]
        return np.vstack([whole, np.diag(1 / spread)])


def _corrections(left: Array, known: Array, frame: pd.DataFrame) -> dict[str, dict[str, float]]:
    """What is left by device, and what that leaves by device and model, on top of what was known."""
    devices, models = frame["datasheet"].to_numpy(dtype=str), frame["model"].to_numpy(dtype=str)
    by_device = shrunk_means(left, devices)
    both = np.char.add(np.char.add(devices, "\n"), models)
    total = known + by_device + shrunk_means(left - by_device, both)
    found: dict[str, dict[str, float]] = {}
    for device, model, first, last in zip(devices, models, by_device, total, strict=True):
        found.setdefault(str(device), {"": float(first)})[str(model)] = float(last)
    return {device: found[device] for device in sorted(found)}
