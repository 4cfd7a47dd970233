"""Fits one engine's devices with data sheets as one, and finds how wrong that is on what was held out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from shunter.models.fit.hierarchy import Hierarchy, Start
from shunter.models.fit.intervals import COVERAGE, UNKNOWN, LogErrors, group_half_width, half_width
from shunter.models.fit.physical import SharedPhysics, noise_kinds, versions_of
from shunter.models.fit.regressors import doublings_outside, mean_over_median
from shunter.models.fit.shared import CrossDeviceFit, fit_shared, named_terms, ranges_of, term_values
from shunter.models.fit.uncertain import NORMAL
from shunter.models.physics import PHYSICS, RatedConfigurations, TargetPhysics, kinds, rated_configurations
from shunter.models.physics.features import Target, shape_names
from shunter.models.physics.release import release_of
from shunter.models.validation.held_out import Errors, HeldOut, better, fold_labels

Array = npt.NDArray[np.float64]

_LEAST_ROWS = 20
_LEAST_WHOLES = 2
_LEAST_WIDENING = 0.7
_LEAST_SOURCES = 3
"""Sources from which a fit is hierarchical: of fewer, what they have in common says nothing of the next."""


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
    standardised: Array

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
    rated: RatedConfigurations
    values: Array
    measured: Array
    around: CrossDeviceFit | None

    @property
    def physics(self) -> TargetPhysics:
        """The terms that ``values`` are of."""
        return self.around.physics.terms if self.around else PHYSICS[self.target.name]

    def kept(self, here: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Marked rows but for outliers: squared errors take a stall for physics.

        Held-out outliers are scored all the same: they are real, and intervals must know of them.
        """
        kept = here & ~self.frame["is_outlier"].to_numpy(dtype=bool)
        return kept if kept.any() else here

    def fit(self, here: npt.NDArray[np.bool_], *, corrected: bool) -> SharedPhysics:
        """Fits marked rows."""
        kept = self.kept(here)
        rows = self.values[kept], self.measured[kept], self.frame[kept]
        around = self.around.physics if self.around else None
        return fit_shared(self.target.name, *rows, corrected=corrected, around=around)

    def hierarchy(self, here: npt.NDArray[np.bool_], start: Start | None = None) -> Hierarchy:
        """Fits marked rows of many sources."""
        kept = self.kept(here)
        frame = self.frame[kept]
        rows = self.values[kept], self.measured[kept], frame, rated_configurations(frame)
        return Hierarchy(self.physics, self.target.name, *rows).fit(start)

    def hold_out(
        self,
        labels: npt.NDArray[np.generic],
        *,
        corrected: bool = False,
        start: Start | None = None,
    ) -> _Scored | None:
        """Predicts each label's rows by a fit to all others; None with fewer than two labels.

        Scores are log errors over what widens intervals: how far out of range a row is, and with a start,
        for hierarchical fits, how wide the interval is that such a fit gives it.
        """
        distinct = np.unique(labels)
        if len(distinct) < 2:
            return None
        predicted, wider = np.zeros(len(self.frame)), np.ones(len(self.frame))
        spread, kind = np.ones(len(self.frame)), noise_kinds(self.physics, self.rated)
        for label in distinct:
            out = labels == label
            fit = self.hierarchy(~out, start).result() if start else self.fit(~out, corrected=corrected)
            asked, values = self.frame[out], self.values[out]
            predicted[out] = fit.predict(values, asked)
            ranges = ranges_of(self.physics, self.values[~out])
            wider[out] += doublings_outside(ranges, named_terms(self.physics, values))
            if start:
                spread[out] = fit.half_width(values, asked, rated_configurations(asked)) / NORMAL
                # Of a kind without any other rows no score says how wide one with such rows should be.
                spread[out & ~np.isin(kind, kind[~out])] = np.nan
        configurations, models = (self.frame[name].to_numpy(dtype=object) for name in ("cell_id", "model"))
        smallest = self.target.smallest(self.frame)
        held_out = HeldOut(self.measured, predicted, smallest, configurations, models, wider)
        scores = np.log(self.measured / predicted) / wider
        return _Scored(held_out, scores, labels, scores / spread)


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
    values = around.physics.values(rated) if around else term_values(target.name, rated)
    data = _Rows(target, rows, rated, values, target.measured(rows), around)
    if around is None and is_published(rows) and rows["source"].nunique() >= _LEAST_SOURCES:
        return _of_many(engine, data)
    folds = fold_labels(rows["cell_id"].to_numpy(dtype=object))
    configurations, corrected = better(
        lambda corrected: data.hold_out(folds, corrected=corrected), correction
    )
    models = data.hold_out(_folds(shape_names(rows)))
    devices = data.hold_out(_folds(rows["datasheet"].to_numpy(dtype=str)))
    errors = _errors_by_kind(kinds(rated), _calibrating(rows), configurations, models, devices)
    fit = _whole(engine, data, data.fit(np.ones(len(rows), dtype=bool), corrected=corrected), errors)
    if around is not None:
        fit = _widened(fit, around, kinds(rated), configurations)
    by_configuration, by_model = (scored.held_out if scored else None for scored in (configurations, models))
    return Pooled(fit, by_configuration, by_model)


def is_published(rows: pd.DataFrame) -> bool:
    """Whether others measured all of the rows."""
    return bool(rows["hardware_id"].eq("published").all())


def _of_many(engine: str, data: _Rows) -> Pooled:
    """The hierarchical fit, and by how much its intervals are too narrow for whole groups that it lacks."""
    rows, whole = data.frame, data.hierarchy(np.ones(len(data.frame), dtype=bool))
    start = whole.start
    held = {
        "cell": data.hold_out(fold_labels(rows["cell_id"].to_numpy(dtype=object)), start=start),
        "model": data.hold_out(_folds(shape_names(rows), 10), start=start),
        "device": data.hold_out(_folds(rows["datasheet"].to_numpy(dtype=str), 16), start=start),
        "source": data.hold_out(_folds(rows["source"].to_numpy(dtype=str), 16), start=start),
    }
    known, kind = _calibrating(rows), noise_kinds(data.physics, data.rated)
    groups = [scored for name, scored in held.items() if scored is not None and name in ("device", "source")]
    widening = {"": _widening(groups, rows, known)}
    for name in data.physics.loose:  # often of one source: what that says may widen, and never narrows
        widening[name] = max(1.0, widening[""], _widening(groups, rows, known & (kind == name)))
    errors = _errors_by_kind(kinds(data.rated), known, held["cell"], held["model"], held["device"])
    fit = _whole(engine, data, whole.result(widening), errors)
    by_configuration, by_model = (
        scored.held_out if scored else None for scored in (held["cell"], held["model"])
    )
    return Pooled(fit, by_configuration, by_model)


def _widening(groups: list[_Scored], rows: pd.DataFrame, here: npt.NDArray[np.bool_]) -> float:
    """How many times as wide intervals must be to hold 90 % of held-out groups' rows, each group alike.

    A group is one device's rows of one source. Rows of a group err together: it is groups that a quantile
    has to count, not rows. What is asked next is new in its source, perhaps in its device: the wider counts.

    Source: Dunn et al., Distribution-Free Prediction Sets for Two-Layer Hierarchical Models, 2022.
    """
    names = (rows["datasheet"].astype(str) + "\n" + rows["source"].astype(str)).to_numpy(dtype=str)
    found = [_LEAST_WIDENING]
    for scored in groups:
        of = here & np.isfinite(scored.standardised)
        if of.any():
            _, inverse, count = np.unique(names[of], return_inverse=True, return_counts=True)
            score, weight = np.abs(scored.standardised[of]), 1 / count[inverse]
            order = np.argsort(score)
            share = np.cumsum(weight[order]) / weight.sum()
            at = min(int(np.searchsorted(share, COVERAGE)), len(order) - 1)
            found.append(float(score[order][at] / NORMAL))
    return max(found) if len(found) > 1 else 1.0


def _whole(engine: str, data: _Rows, physics: SharedPhysics, errors: dict[str, LogErrors]) -> CrossDeviceFit:
    rows, years = data.frame, data.rated.year
    told = [release_of(str(version)).is_known for version in versions_of(rows)]
    years = years[told] if any(told) else np.zeros(1)
    return CrossDeviceFit(
        target=data.target.name,
        engine=engine,
        physics=physics,
        ranges=ranges_of(data.physics, data.values),
        errors=errors,
        devices=tuple(sorted(map(str, rows["datasheet"].unique()))),
        models=tuple(sorted(map(str, rows["model"].unique()))),
        years=(float(years.min()), float(years.max())),
        rows=len(rows),
        cells=rows["cell_id"].nunique(),
        mean_over_median=mean_over_median(data.measured, rows["cell_id"].to_numpy(dtype=object)),
    )


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
            cell = group_half_width(scores[here], cells[here], old.cell / NORMAL)
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
    return group_half_width(models.scores[known], models.labels[known], UNKNOWN / NORMAL)


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
