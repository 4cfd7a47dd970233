"""What the performance model is compared with on published rows: all know the data sheets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from shunter.models.configurations import sheet_names
from shunter.models.physics import rated_configurations
from shunter.models.validation.baselines import Predictor

__all__ = ["RIVALS", "Roofline", "SheetRegressor"]

Array = npt.NDArray[np.float64]


class SheetRegressor:
    """A scikit-learn regressor of log step time on logs of what the physics uses too: sizes and peak rates.

    Args:
        make: Returns a fresh regressor.
        standardise: Whether columns are scaled to one spread: distances need it.
    """

    def __init__(self, make: Callable[[], Any], *, standardise: bool = False) -> None:
        self.make = make
        self.standardise = standardise

    def fit(self, frame: pd.DataFrame) -> SheetRegressor:
        """Fits."""
        x = _logs(frame)
        self._mean, self._spread = x.mean(axis=0), np.where(x.std(axis=0) > 0, x.std(axis=0), 1.0)
        self._fitted = self.make().fit(self._scaled(x), np.log(frame["duration_s"].to_numpy(dtype=float)))
        return self

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The frame with ``duration_s_predicted``."""
        return frame.assign(duration_s_predicted=np.exp(self._fitted.predict(self._scaled(_logs(frame)))))

    def _scaled(self, x: Array) -> Array:
        return (x - self._mean) / self._spread if self.standardise else x


class Roofline:
    """Three parameters: weights and KV over bandwidth, and a constant, to relative errors."""

    def fit(self, frame: pd.DataFrame) -> Roofline:
        """Fits."""
        from scipy.optimize import nnls

        measured = frame["duration_s"].to_numpy(dtype=float)
        self._factors = nnls(_roofline_terms(frame) / measured[:, None], np.ones(len(frame)))[0]
        return self

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The frame with ``duration_s_predicted``."""
        return frame.assign(duration_s_predicted=_roofline_terms(frame) @ self._factors)


def _roofline_terms(frame: pd.DataFrame) -> Array:
    c = rated_configurations(_with_sheets(frame))
    weights = c.at.read_bytes_device / c.bandwidth + c.at.read_bytes_host / c.host_bandwidth
    held = c.at.context_tokens * (c.at.kv_bytes_device / c.bandwidth + c.at.kv_bytes_host / c.host_bandwidth)
    return np.column_stack([weights, held, np.ones(len(frame))])


def _with_sheets(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(datasheet=sheet_names(frame["device"], {}))


def _logs(frame: pd.DataFrame) -> Array:
    c = rated_configurations(_with_sheets(frame))
    columns = (
        *(c.bandwidth, c.matrix, c.clocks, c.link, c.host_bandwidth, c.gpu_count, c.kv_on_host, c.quantised),
        *(c.at.layers, c.at.hidden_size, c.at.weight_bytes, c.at.read_bytes_device, c.at.read_bytes_host),
        *(c.at.kv_bytes_device, c.at.kv_bytes_host, c.at.context_tokens),
    )
    return np.log1p(np.column_stack(columns))


def _boosting() -> Any:
    from sklearn.ensemble import GradientBoostingRegressor

    return GradientBoostingRegressor(random_state=0)


def _forest() -> Any:
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(random_state=0)


def _nearest() -> Any:
    from sklearn.neighbors import KNeighborsRegressor

    return KNeighborsRegressor(n_neighbors=1)


RIVALS: dict[str, Callable[[], Predictor]] = {
    "3-parameter roofline": Roofline,
    "gradient boosting": lambda: SheetRegressor(_boosting),
    "random forest (as in Vidur)": lambda: SheetRegressor(_forest),
    "nearest neighbour": lambda: SheetRegressor(_nearest, standardise=True),
}
"""Makers of rivals by name. Source of the forest: Vidur, Agrawal et al., MLSys 2024, arXiv 2405.05465."""
