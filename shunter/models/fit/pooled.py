"""Fits one engine's devices with data sheets as one, and finds how wrong that is on what was held out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from shunter.models.fit.intervals import UNKNOWN, LogErrors, group_half_width, half_width
from shunter.models.fit.regressors import mean_over_median
from shunter.models.fit.shared import (
    CrossDeviceFit,
    SharedPhysics,
    doublings_of,
    fit_shared,
    ranges_of,
    term_values,
)
from shunter.models.physics import kinds, rated_configurations
from shunter.models.physics.features import Target, shape_names
from shunter.models.validation.held_out import Errors, HeldOut, better, fold_labels

Array = npt.NDArray[np.float64]

_LEAST_ROWS = 20
_LEAST_WHOLES = 2
_NORMAL = 1.645
"""Half widths of a 90 % interval over its standard deviation."""


@dataclass(frozen=True)
class Pooled:
    """A fit, and predictions of rows left out of it: random configurations, and whole models (shapes).

    Attributes:
        fit: The fit to all rows.
        by_configuration: None with fewer than two configurations.
        by_model: None with fewer than two shapes of models.
    """

    fit: CrossDeviceFit
    by_configuration: HeldOut | None
    by_model: HeldOut | None


@dataclass(frozen=True)
class _Scored:
    """Held-out predictions, their log errors over what widens intervals, and what was held out together."""

    held_out: HeldOut
    scores: Array
    labels: npt.NDArray[np.generic]

    def errors(self) -> Errors:
        """How far the predictions are off."""
        return self.held_out.errors()

    def half_width(self, here: npt.NDArray[np.bool_]) -> float:
        """Half width of the rows that ``here`` marks, as a log ratio."""
        return half_width(self.scores[here])


@dataclass(frozen=True)
class _Rows:
    target: Target
    frame: pd.DataFrame
    values: Array
    measured: Array
    around: CrossDeviceFit | None

    def fit(self, here: npt.NDArray[np.bool_], *, corrected: bool) -> SharedPhysics:
        """Fits marked rows but for outliers: squared errors take a stall for physics.

        Held-out outliers are scored all the same: they are real, and intervals must know of them.
        """
        kept = here & ~self.frame["is_outlier"].to_numpy(dtype=bool)
        kept = kept if kept.any() else here
        rows = self.values[kept], self.measured[kept], self.frame[kept]
        around = self.around.physics if self.around else None
        return fit_shared(self.target.name, *rows, corrected=corrected, around=around)

    def hold_out(self, labels: npt.NDArray[np.generic], *, corrected: bool) -> _Scored | None:
        """Predicts each label's rows by a fit to all others; None with fewer than two labels."""
        distinct = np.unique(labels)
        if len(distinct) < 2:
            return None
        predicted, outside = np.zeros(len(self.frame)), np.zeros(len(self.frame))
        name = self.target.name
        for label in distinct:
            out = labels == label
            fit = self.fit(~out, corrected=corrected)
            predicted[out] = fit.predict(self.values[out], self.frame[out])
            outside[out] = doublings_of(name, ranges_of(name, self.values[~out]), self.values[out])
        configurations, models = (self.frame[name].to_numpy(dtype=object) for name in ("cell_id", "model"))
        smallest = self.target.smallest(self.frame)
        held_out = HeldOut(self.measured, predicted, smallest, configurations, models, 1 + outside)
        return _Scored(held_out, np.log(self.measured / predicted) / (1 + outside), labels)


def fit_engine(
    target: Target,
    engine: str,
    rows: pd.DataFrame,
    *,
    correction: bool,
    around: CrossDeviceFit | None = None,
) -> Pooled:
    """Fits a target on one engine.

    Args:
        target: One of ``TARGETS``.
        engine: Name of the engine.
        rows: Rows of the engine, with ``datasheet``; measured values are positive.
        correction: Whether to learn corrections where held-out configurations show that they help.
        around: What others measured of the target on the engine, which the rows, then of one GPU, correct.
    """
    rated = rated_configurations(rows)
    values = term_values(target.name, rated)
    data = _Rows(target, rows, values, target.measured(rows), around)
    folds = fold_labels(rows["cell_id"].to_numpy(dtype=object))
    configurations, corrected = better(
        lambda corrected: data.hold_out(folds, corrected=corrected), correction
    )
    models = data.hold_out(_folds(shape_names(rows)), corrected=False)
    devices = data.hold_out(_folds(rows["datasheet"].to_numpy(dtype=str)), corrected=False)
    fit = CrossDeviceFit(
        target=target.name,
        engine=engine,
        physics=data.fit(np.ones(len(rows), dtype=bool), corrected=corrected),
        ranges=ranges_of(target.name, values),
        errors=_errors_by_kind(kinds(rated), _calibrating(rows), configurations, models, devices),
        devices=tuple(sorted(map(str, rows["datasheet"].unique()))),
        models=tuple(sorted(map(str, rows["model"].unique()))),
        rows=len(rows),
        cells=rows["cell_id"].nunique(),
        mean_over_median=mean_over_median(data.measured, rows["cell_id"].to_numpy(dtype=object)),
    )
    if around is not None:
        fit = _widened(fit, around, kinds(rated), configurations)
    by_configuration, by_model = (scored.held_out if scored else None for scored in (configurations, models))
    return Pooled(fit, by_configuration, by_model)


def _widened(
    fit: CrossDeviceFit, around: CrossDeviceFit, kind: npt.NDArray[np.object_], configurations: _Scored | None
) -> CrossDeviceFit:
    """A fit around another with what that one has seen too, and with intervals that few rows do not shrink.

    Errors of held-out configurations are those of a hierarchical model, around the other fit's beforehand.
    """
    errors = dict(around.errors)
    if configurations is not None:
        scores, cells = configurations.scores, configurations.held_out.configurations.astype(str)
        for name in ("", *sorted(set(kind))):
            old, here = errors.get(name, errors[""]), (kind == name) | (name == "")
            cell = group_half_width(scores[here], cells[here], old.cell / _NORMAL)
            errors[str(name)] = old.model_copy(update={"cell": cell})
    ranges = fit.ranges
    if around.rows:
        seen = {n: (around.ranges[n], fit.ranges[n]) for n in fit.ranges}
        ranges = {n: (min(a[0], b[0]), max(a[1], b[1])) for n, (a, b) in seen.items()}
    models = tuple(sorted({*around.models, *fit.models}))
    return fit.model_copy(update={"errors": errors, "ranges": ranges, "models": models})


def _errors_by_kind(
    kind: npt.NDArray[np.object_],
    known: npt.NDArray[np.bool_],
    configurations: _Scored | None,
    models: _Scored | None,
    devices: _Scored | None,
) -> dict[str, LogErrors]:
    """Half widths by kind; one with few known rows, models or devices has those of all kinds.

    A kind that was hardly measured is left out: see ``CrossDeviceFit.predict``.
    """
    found = {}
    least = _few_models_half_width(models, known)
    for name in ("", *sorted(set(kind))):
        if name == "" or (kind == name).sum() >= _LEAST_ROWS:
            here = known & (kind == name)
            here = here if here.sum() >= _LEAST_ROWS else known
            found[str(name)] = LogErrors(
                cell=UNKNOWN if configurations is None else configurations.half_width(here),
                model=_of_wholes(models, here, known, least),
                device=_of_wholes(devices, here, known),
            )
    return found


def _calibrating(rows: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Rows whose lengths are known; all, if none's are. An unknown context is no error of a prediction."""
    known = (rows["operation"].ne("decode") | rows["steps"].gt(0)).to_numpy(dtype=bool)
    return known if known.any() else np.ones(len(rows), dtype=bool)


def _few_models_half_width(models: _Scored | None, known: npt.NDArray[np.bool_]) -> float:
    """What the hierarchical model says of two shapes, each predicted from one other: no quantile."""
    if models is None or len(np.unique(models.labels)) > _LEAST_WHOLES:
        return 0.0
    return group_half_width(models.scores[known], models.labels[known], UNKNOWN / _NORMAL)


def _of_wholes(
    scored: _Scored | None, here: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_], least: float = 0.0
) -> float | None:
    if scored is None:
        return None
    enough = len(np.unique(scored.labels[here])) >= _LEAST_WHOLES
    return max(least, scored.half_width(here if enough else known))


def _folds(names: npt.NDArray[np.str_], most: int = 20) -> npt.NDArray[np.int64]:
    """Each name a fold, or several in one where there are many; names stay whole."""
    return fold_labels(names.astype(object), most)
