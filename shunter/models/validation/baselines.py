"""What a performance model must beat: plain regressors on the dataset's own columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from shunter.catalog.work import CONFIGURATION_COLUMNS, FACT_COLUMNS
from shunter.errors import InputError
from shunter.models.performance import PerformanceModel
from shunter.models.physics.features import TARGETS, Target

__all__ = ["PREDICTORS", "Predictor"]

Array = npt.NDArray[np.float64]

_NAMES = ("engine", "device", "page_cache")
_NUMBERS = (*FACT_COLUMNS, *CONFIGURATION_COLUMNS)
_TREES = 100


class Predictor(Protocol):
    """What can be validated: learns from dataset rows, and predicts the columns of ``PerformanceModel``."""

    def fit(self, frame: pd.DataFrame) -> Any:
        """Learns; returns itself."""

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The frame with predictions; raises ``InputError`` for rows that it has no means to predict."""


class TableRegressor:
    """A scikit-learn regressor on the dataset's columns: numbers as they are, names as indicators.

    It learns the logarithm of each target, so that relative errors count for it as they do for a performance
    model. It has one regressor per target over all engines and devices, and no intervals.

    Args:
        make: Returns a fresh regressor.
        logarithmic: Whether numbers go in as log(1 + x), standardised: distances need it, trees do not.
    """

    def __init__(self, make: Callable[[], Any], *, logarithmic: bool = False) -> None:
        self.make = make
        self.logarithmic = logarithmic
        self.regressors_: dict[str, Any] = {}

    def fit(self, frame: pd.DataFrame) -> TableRegressor:
        """Fits a regressor for each target that the dataset has rows of."""
        self.regressors_ = {}
        for target in TARGETS.values():
            rows = frame[frame["operation"] == target.operation]
            if len(rows):
                value = np.log(np.maximum(target.measured(rows), target.smallest(rows)))
                self.regressors_[target.name] = self._pipeline().fit(_columns(rows), value)
        return self

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Predicts every row.

        Raises:
            InputError: The fitted dataset had no rows of an operation.
        """
        columns: dict[str, Array] = {}
        for target in TARGETS.values():
            where = (frame["operation"] == target.operation).to_numpy()
            out = columns.setdefault(_column(target), np.full(len(frame), np.nan))
            if where.any():
                out[where] = np.exp(self._regressor(target).predict(_columns(frame[where])))
        return frame.assign(**columns)

    def _regressor(self, target: Target) -> Any:
        if target.name not in self.regressors_:
            raise InputError("operation", "be in the fitted dataset", target.operation)
        return self.regressors_[target.name]

    def _pipeline(self) -> Any:
        from sklearn.compose import ColumnTransformer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

        numbers = make_pipeline(FunctionTransformer(np.log1p), StandardScaler())
        table = ColumnTransformer(
            [
                ("names", OneHotEncoder(handle_unknown="ignore", sparse_output=False), list(_NAMES)),
                ("numbers", numbers if self.logarithmic else "passthrough", list(_NUMBERS)),
            ]
        )
        return make_pipeline(table, self.make())


def _columns(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[[*_NAMES, *_NUMBERS]].astype(dict.fromkeys(_NUMBERS, "float64"))


def _column(target: Target) -> str:
    stem = "duration_s" if target.name.endswith("_s") else target.name
    return f"{stem}_predicted"


def _gradient_boosting() -> Any:
    from sklearn.ensemble import GradientBoostingRegressor

    return GradientBoostingRegressor(n_estimators=_TREES, random_state=0)


def _random_forest() -> Any:
    """Source: Vidur, Agrawal et al., MLSys 2024, arXiv 2405.05465: a random forest per operation."""
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(n_estimators=_TREES, random_state=0)


def _nearest() -> Any:
    from sklearn.neighbors import KNeighborsRegressor

    return KNeighborsRegressor(n_neighbors=1)


PREDICTORS: dict[str, Callable[[], Predictor]] = {
    "shunter": PerformanceModel,
    "physics alone": lambda: PerformanceModel(correction=False),
    "gradient boosting": lambda: TableRegressor(_gradient_boosting),
    "random forest (Vidur)": lambda: TableRegressor(_random_forest),
    "nearest neighbour": lambda: TableRegressor(_nearest, logarithmic=True),
}
"""Makers of everything that is validated side by side; the first is the one in question."""
