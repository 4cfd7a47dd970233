"""How wrong regressors are on what they have not seen: held-out configurations and models, apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict

from shunter.models.fit.intervals import conformal_quantile
from shunter.models.fit.regressors import doublings_outside, fit_physics

Array = npt.NDArray[np.float64]
FOLDS = 10


class Errors(BaseModel):
    """Errors of predictions for what was held out.

    Attributes:
        mape: Mean absolute error relative to the measured value (0.1 is 10 %).
        median_ape: Median absolute error relative to the measured value (0.1 is 10 %).
        rows: Rows predicted.
        cells: Distinct configurations among them.
        models: Distinct models among them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mape: float
    median_ape: float
    rows: int
    cells: int
    models: int


@dataclass(frozen=True)
class HeldOut:
    """Measured values and the predictions of models fitted without them; arrays of shape (n_rows,).

    Attributes:
        measured: Measured values, as in the dataset.
        predicted: Values that the model of the fold that lacks the row predicts.
        smallest: Below it, errors count relative to it.
        configurations: Configuration ids.
        models: Model names.
        wider: What an interval is widened by for being out of range of that fold's data; 1 within.
    """

    measured: Array
    predicted: Array
    smallest: Array
    configurations: npt.NDArray[np.object_]
    models: npt.NDArray[np.object_]
    wider: Array

    def errors(self) -> Errors:
        """Sums up."""
        ape = np.abs(self.predicted - self.measured) / np.maximum(self.measured, self.smallest)
        configurations, models = len(set(self.configurations)), len(set(self.models))
        return Errors(
            mape=float(ape.mean()),
            median_ape=float(np.median(ape)),
            rows=len(ape),
            cells=configurations,
            models=models,
        )

    def log_errors(self) -> Array:
        """Log ratios measured / predicted, as they would be within range; shape (n_rows,)."""
        ratio = np.maximum(self.measured, self.smallest) / np.maximum(self.predicted, self.smallest)
        return np.asarray(np.log(ratio) / self.wider, dtype=np.float64)

    def noise(self) -> float:
        """How much repeats of a configuration differ: the mean of abs(measured / their median - 1).

        No prediction of a configuration can have a smaller error on its rows for long.
        """
        median = pd.Series(self.measured).groupby(self.configurations).transform("median").to_numpy()
        return float((np.abs(self.measured - median) / np.maximum(median, self.smallest)).mean())


def joined(parts: Iterable[HeldOut | None]) -> HeldOut | None:
    """All rows of several, one after another; None where nothing could be held out."""
    known = [part for part in parts if part is not None]
    if not known:
        return None
    columns = ([getattr(part, column.name) for part in known] for column in fields(HeldOut))
    return HeldOut(*map(np.concatenate, columns))


class _Judged(Protocol):
    def errors(self) -> Errors: ...


JudgedT = TypeVar("JudgedT", bound=_Judged)


def better(hold_out: Callable[[bool], JudgedT | None], correction: bool) -> tuple[JudgedT | None, bool]:
    """Held-out configurations with and without corrections: noise and few of them can make these a loss.

    Args:
        hold_out: Predicts them by fits that learn corrections or do not; None where it cannot.
        correction: Whether corrections may be learned.

    Returns:
        The predictions with the smaller error, and whether they have corrections.
    """
    plain, corrected = hold_out(False), hold_out(True) if correction else None
    if plain is not None and corrected is not None and corrected.errors().mape < plain.errors().mape:
        return corrected, True
    return plain, False


def fold_labels(configurations: npt.NDArray[np.object_], folds: int = FOLDS) -> npt.NDArray[np.int64]:
    """Deals configurations to folds at random, always the same way; repeats of one share its fold.

    Args:
        configurations: Configuration id of each row; shape (n_rows,).
        folds: Most folds.

    Returns:
        Fold of each row; shape (n_rows,).
    """
    names, inverse = np.unique(configurations.astype(str), return_inverse=True)
    dealt = np.random.default_rng(0).permutation(len(names)) % min(folds, len(names))
    return np.asarray(dealt[inverse], dtype=np.int64)


def hold_out(
    features: pd.DataFrame,
    measured: Array,
    smallest: Array,
    frame: pd.DataFrame,
    labels: npt.NDArray[np.generic],
    *,
    corrected: bool = True,
) -> HeldOut | None:
    """Predicts each label's rows by a model fitted to all others.

    Args:
        features: Features of the rows; shape (n_rows, n_features).
        measured: Measured values; shape (n_rows,).
        smallest: Below it, errors count relative to it; above 0; shape (n_rows,).
        frame: The dataset's rows.
        labels: What is held out together; shape (n_rows,).
        corrected: Whether the fits learn corrections.

    Returns:
        None if there are fewer than two labels.
    """
    distinct = np.unique(labels)
    if len(distinct) < 2:
        return None
    configurations = frame["cell_id"].to_numpy(dtype=object)
    frame = frame[["cell_id", "model", "gpu_layers"]]  # parts of all of it would take longer than the fits
    predicted, wider = np.zeros(len(features)), np.ones(len(features))
    for label in distinct:
        out = labels == label
        fit = fit_physics(features[~out], measured[~out], smallest[~out], frame[~out], corrected=corrected)
        predicted[out] = fit.predict(features[out], frame[out])
        wider[out] += doublings_outside(
            {str(n): (float(v.min()), float(v.max())) for n, v in features[~out].items()},
            {str(n): v.to_numpy() for n, v in features[out].items()},
        )
    models = frame["model"].to_numpy(dtype=object)
    return HeldOut(measured, predicted, smallest, configurations, models, wider)


def log_error_interval(held_out: HeldOut) -> tuple[float, float]:
    """Log ratios measured / predicted between which 90 % of new configurations should be; they enclose 0."""
    errors = held_out.log_errors()
    return min(0.0, -conformal_quantile(-errors, 0.95)), max(0.0, conformal_quantile(errors, 0.95))
