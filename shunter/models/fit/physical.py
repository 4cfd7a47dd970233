"""What is calibrated over all devices with data sheets: factors of terms, and what moves them."""

from __future__ import annotations

from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict, model_validator

from shunter.models.datasheets import HOST, datasheet
from shunter.models.fit.uncertain import HOST_SPREAD, Uncertainty
from shunter.models.physics import PHYSICS, RatedConfigurations, TargetPhysics, kinds, physics_with
from shunter.models.physics.release import base_version, release_of

Array = npt.NDArray[np.float64]

SHARPNESS = 4.0
"""p of the norm that joins terms of a stage: where two are equal, the stage takes 19 % more than one."""

MIDDLE_YEAR = 2025.5
"""From where years of releases count."""


class SharedPhysics(BaseModel):
    """Calibrated factors of one target's terms.

    Attributes:
        target: Name in ``PHYSICS``.
        factors: Factor of each term; positive.
        deviations: By device, the logarithm of how much slower it is than its data sheet says.
        versions: By engine version, the logarithm of how much slower its own work is than the factors say.
        corrections: By device, then by model, the logarithm of the learned factor; "" is for any model.
        generations: By architecture, the logarithm of how much slower its devices are than data sheets say.
        own: By architecture, the same of the terms that are a generation's own.
        releases: By engine version, the logarithm of how much slower it is than its year says.
        kernels: By engine version, the same of its kernels on devices.
        per_year: What a year changes in the logarithm, from ``MIDDLE_YEAR`` on.
        uncertainty: How well all this is known; None where intervals rest on held-out errors alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    target: str
    factors: dict[str, float]
    deviations: dict[str, float]
    versions: dict[str, float]
    corrections: dict[str, dict[str, float]]
    generations: dict[str, float] = {}
    own: dict[str, float] = {}
    releases: dict[str, float] = {}
    kernels: dict[str, float] = {}
    per_year: float = 0.0
    uncertainty: Uncertainty | None = None

    @model_validator(mode="after")
    def _known(self) -> Self:
        """A file from elsewhere may name anything."""
        if self.target not in PHYSICS:
            raise ValueError(f"there is no target {self.target}")
        physics_with(self.target, self.factors)
        if min(self.factors.values()) <= 0:
            raise ValueError("a factor is not positive")
        return self

    @cached_property
    def terms(self) -> TargetPhysics:
        """The terms that the factors are of."""
        return physics_with(self.target, self.factors)

    def values(self, configurations: RatedConfigurations) -> Array:
        """All terms at peak rates; shape (n_configurations, n_terms)."""
        return np.column_stack([term.of(configurations) for term in self.terms.terms])

    def physical(self, values: Array, frame: pd.DataFrame) -> Array:
        """Without corrections; shape (n_configurations,).

        Args:
            values: Terms at peak rates, as from ``term_values``; shape (n_configurations, n_terms).
            frame: Columns ``datasheet`` and, where known, ``engine_version`` of the same configurations;
                shape (n_configurations, ...).
        """
        return total_of(self.terms, values, self._log_factors(frame))[0]

    def _log_factors(self, frame: pd.DataFrame) -> Array:
        """Logarithms of all terms' factors; shape (n_configurations, n_terms)."""
        physics = self.terms
        moved = moves_of(
            physics,
            looked_up(self.deviations, frame["datasheet"].to_numpy(dtype=object)),
            looked_up(self.versions, versions_of(frame)),
        )
        return np.log([self.factors[term.name] for term in physics.terms]) + moved + self.effects(frame)

    def effects(self, frame: pd.DataFrame) -> Array:
        """What generations, releases and years add to logarithms of factors; (n_configurations, n_terms)."""
        flags, generation = self.terms.flags(), generations_of(frame)
        versions = versions_of(frame)
        bases = bases_of(versions)
        return (
            np.outer(looked_up(self.generations, generation), flags["generation"])
            + np.outer(looked_up(self.own, generation), flags["own"])
            + np.outer(looked_up(self.releases, bases), flags["release"])
            + np.outer(looked_up(self.kernels, bases), flags["kernels"])
            + np.outer(self.per_year * years_of(versions), flags["year"])
        )

    def half_width(self, values: Array, frame: pd.DataFrame, rated: RatedConfigurations) -> Array:
        """Half widths of 90 % intervals, as log ratios, by ``uncertainty``; shape (n_configurations,).

        Args:
            values: As ``values`` gives.
            frame: As for ``predict``.
            rated: The configurations.
        """
        known = self.uncertainty
        if known is None:
            raise ValueError("a fit without uncertainty has no width of its own")
        total, slopes = total_of(self.terms, values, self._log_factors(frame))
        slopes, flags = slopes / total[:, None], self.terms.flags()
        generation, versions = generations_of(frame), versions_of(frame)
        bases = bases_of(versions)
        names = {
            "device": frame["datasheet"].to_numpy(dtype=object),
            "generation": generation,
            "own": generation,
            "release": bases,
            "kernels": bases,
        }
        at = {name: i for i, name in enumerate(known.names)}
        jacobian = np.zeros((len(values), len(known.names)))
        jacobian[:, [at[f"factor:{t.name}"] for t in self.terms.terms]] = slopes
        jacobian[:, at["year:"]] = years_of(versions) * (slopes @ flags["year"])
        unseen = (known.spreads["source"] * (slopes @ flags["source"])) ** 2
        unseen += (known.spreads["library"] * rated.library * (slopes @ flags["library"])) ** 2
        for effect, labels in names.items():
            moved = slopes @ flags[effect]
            codes, distinct = pd.factorize(labels)
            place = np.array([at.get(f"{effect}:{label}", -1) for label in distinct], dtype=np.intp)[codes]
            seen = place >= 0
            jacobian[np.flatnonzero(seen), place[seen]] += moved[seen]
            unseen += np.where(seen, 0.0, (known.spreads[effect] * moved) ** 2)
        host = np.where(rated.host_known > 0, known.spreads["host"], HOST_SPREAD)
        unseen += (host * (slopes @ flags["host"])) ** 2
        return known.half_width(jacobian, noise_kinds(self.terms, rated), unseen)

    def predict(self, values: Array, frame: pd.DataFrame) -> Array:
        """Predicted values; shape (n_configurations,).

        Args:
            values: Terms at peak rates, as from ``term_values``; shape (n_configurations, n_terms).
            frame: Columns ``datasheet`` and ``model`` of the same configurations; shape (n_configurations,
                ...).
        """
        return self.physical(values, frame) * np.exp(self.log_corrections(frame))

    def log_corrections(self, frame: pd.DataFrame) -> Array:
        """Logarithms of the learned factors; shape (n_configurations,).

        Args:
            frame: As for ``predict``.
        """
        devices, models = frame["datasheet"].to_numpy(dtype=object), frame["model"].to_numpy(dtype=object)
        log_factor = np.zeros(len(frame))
        for device in set(devices) & set(self.corrections):
            here = devices == device
            known = self.corrections[device]
            log_factor[here] = looked_up(known, models[here], known.get("", 0.0))
        return log_factor


def noise_kinds(physics: TargetPhysics, rated: RatedConfigurations) -> npt.NDArray[np.object_]:
    """Kinds of configurations by how noisy they are: one of ``physics.loose``, or "" for the others."""
    kind = kinds(rated)
    kind = np.where((kind == "whole") & (rated.at.batch > 1), "batched", kind)
    return np.asarray(np.where(np.isin(kind.astype(str), physics.loose), kind, ""), dtype=object)


def generations_of(frame: pd.DataFrame) -> npt.NDArray[np.object_]:
    """Architectures of configurations' devices; shape (n_configurations,)."""
    codes, names = pd.factorize(frame["datasheet"])
    sheets = [None if name == HOST else datasheet(str(name)) for name in names]
    found = np.array([HOST if sheet is None else sheet.architecture for sheet in sheets], dtype=object)
    return np.asarray(found[codes], dtype=object)


def bases_of(versions: npt.NDArray[np.object_]) -> npt.NDArray[np.object_]:
    """Versions without how they were told to work; shape (n_configurations,)."""
    codes, texts = pd.factorize(versions)
    return np.array([base_version(str(text)) for text in texts], dtype=object)[codes]


def years_of(versions: npt.NDArray[np.object_]) -> Array:
    """Years of releases since ``MIDDLE_YEAR``; shape (n_configurations,)."""
    codes, texts = pd.factorize(versions)
    since = [release_of(str(text)).year - MIDDLE_YEAR for text in texts]
    return np.array(since, dtype=np.float64)[codes]


def total_of(physics: TargetPhysics, values: Array, log_factors: Array) -> tuple[Array, Array]:
    """The prediction (n_configurations,), and its derivative by the logarithm of each factor (…, n_terms)."""
    scaled = values * np.exp(log_factors)
    total = np.full(len(values), np.finfo(float).tiny)
    slopes = scaled.copy()
    at = 0
    for stage in physics.stages:
        columns = slice(at, at + len(stage))
        at += len(stage)
        if len(stage) == 1:
            total += scaled[:, columns.start]
            continue
        longest = np.maximum(scaled[:, columns].max(axis=1, keepdims=True), np.finfo(float).tiny)
        share = (scaled[:, columns] / longest) ** SHARPNESS
        weight = share.sum(axis=1, keepdims=True)
        joined = longest * weight ** (1 / SHARPNESS)
        total += joined[:, 0]
        slopes[:, columns] = joined * share / np.maximum(weight, np.finfo(float).tiny)
    return total, slopes


def flags_of(physics: TargetPhysics) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which terms a device's deviation moves, and which a version's."""
    terms = physics.terms
    return np.array([t.by_device for t in terms]), np.array([t.by_version for t in terms])


def moves_of(physics: TargetPhysics, log_device: Array, log_version: Array) -> Array:
    """What deviations add to the logarithms of factors; shape (n_configurations, n_terms)."""
    by_device, by_version = flags_of(physics)
    return np.outer(log_device, by_device) + np.outer(log_version, by_version)


def versions_of(frame: pd.DataFrame) -> npt.NDArray[np.object_]:
    """Engine versions of configurations, empty where none is stated; shape (n_configurations,)."""
    if "engine_version" not in frame:
        return np.full(len(frame), "", dtype=object)
    return frame["engine_version"].to_numpy(dtype=object)


def looked_up(table: dict[str, float], names: npt.NDArray[np.object_], default: float = 0.0) -> Array:
    """Each name's value; by distinct names, since tables of configurations repeat few of them often."""
    codes, distinct = pd.factorize(names)
    return np.array([table.get(str(name), default) for name in distinct], dtype=np.float64)[codes]
