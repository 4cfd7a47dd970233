"""Non-negative linear models of physical features, fitted to relative errors."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict

__all__ = ["GroupFit", "fit_relative", "select_features", "upper_quantile"]

Array = npt.NDArray[np.float64]

_SMALL_SHARE = 0.05
_OTHER_SIDE = {"device": "host", "host": "device"}


class GroupFit(BaseModel):
    """One target on one engine and device.

    Attributes:
        target: Name in ``TARGETS``.
        engine: Engine of the data.
        device: Device of the data.
        page_cache: ``warm`` or ``cold``; empty where it makes no difference.
        coefficients: By feature, in the target's unit per unit of the feature; never negative.
        ranges: Smallest and largest value seen of every feature, used or not.
        seen_log_errors: 5 % and 95 % quantile of log(measured / predicted) on held-out cells.
        unseen_log_errors: The same on held-out models; None with fewer than two models.
        models: Models in the data.
        rows: Rows in the data.
        cells: Distinct cells in the data.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str
    engine: str
    device: str
    page_cache: str
    coefficients: dict[str, float]
    ranges: dict[str, tuple[float, float]]
    seen_log_errors: tuple[float, float]
    unseen_log_errors: tuple[float, float] | None
    models: tuple[str, ...]
    rows: int
    cells: int

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What it is for."""
        return (self.target, self.engine, self.device, self.page_cache)

    def predict(self, features: pd.DataFrame) -> Array:
        """Predicted values; shape (n_cells,)."""
        total = np.zeros(len(features))
        for name, coefficient in self.coefficients.items():
            total += coefficient * features[name].to_numpy()
        return total

    def doublings_outside(self, features: pd.DataFrame) -> Array:
        """How many times the farthest feature must be halved or doubled to be in the range seen; 0 inside.

        A feature that was always 0 and is not here counts as one doubling.
        """
        worst = np.zeros(len(features))
        for name, (low, high) in self.ranges.items():
            value = features[name].to_numpy()
            above, below = value > high * (1 + 1e-9), value < low * (1 - 1e-9)
            with np.errstate(divide="ignore", invalid="ignore"):
                over = np.log2(value / high) if high > 0 else np.ones_like(value)
                under = np.where(value > 0, np.log2(low / value), 1.0)
            worst = np.maximum(worst, np.where(above, over, 0.0))
            worst = np.maximum(worst, np.where(below, under, 0.0))
        return worst

    def log_errors(self, models: npt.NDArray[np.object_]) -> tuple[Array, Array]:
        """Ends of the 90 % interval as log ratios, others for models not in the data; shapes (n_cells,)."""
        seen, unseen = self.seen_log_errors, self.unseen_log_errors or self.seen_log_errors
        is_seen = np.isin(models, np.array(self.models, dtype=object))
        return np.where(is_seen, seen[0], unseen[0]), np.where(is_seen, seen[1], unseen[1])


def select_features(features: pd.DataFrame, n_cells: int) -> tuple[list[str], list[str]]:
    """Picks the features that the data can tell apart, most physical first.

    A feature that is always 0 is no loss. Nor is one side (device or host) that never does a twentieth of
    what the other does: its coefficient would be fitted to noise. A combination of features before it cannot
    be told from them. Beyond that, at most ``1 + n_cells // 2`` are used.

    Args:
        features: Shape (n_rows, n_features), most physical first.
        n_cells: Distinct cells among the rows.

    Returns:
        Names to use, and names left out though they matter.
    """
    largest = {str(name): float(features[name].max()) for name in features}
    most = min(n_cells, 1 + n_cells // 2)
    used: list[str] = []
    left_out: list[str] = []
    basis = np.empty((len(features), 0))
    for name in largest:
        column = features[name].to_numpy(dtype=np.float64)
        if largest[name] <= _SMALL_SHARE * largest.get(_other_side(name), 0.0):
            continue
        unit = column / float(np.linalg.norm(column))
        rest = unit - basis @ (basis.T @ unit)
        rest = rest - basis @ (basis.T @ rest)
        if len(used) < most and np.linalg.norm(rest) > 1e-6:
            basis = np.column_stack([basis, rest / np.linalg.norm(rest)])
            used.append(name)
        else:
            left_out.append(name)
    return used, left_out


def _other_side(name: str) -> str:
    stem, _, side = name.rpartition("_")
    return f"{stem}_{_OTHER_SIDE.get(side, '')}"


def fit_relative(
    features: pd.DataFrame, measured: Array, smallest: Array, cells: npt.NDArray[np.object_]
) -> dict[str, float]:
    """Least squares of relative errors with coefficients of at least 0, over the medians of cells.

    Minimises the sum of ((features @ c - median) / max(median, smallest))²: short and long operations count
    alike, so do often and seldom measured cells, and a stall in one repeat counts for little.

    Args:
        features: Shape (n_rows, n_features), most physical first; equal in all rows of a cell.
        measured: Shape (n_rows,).
        smallest: Below it, errors count relative to it; above 0; shape (n_rows,).
        cells: Cell id of each row; shape (n_rows,).

    Returns:
        Coefficients by feature; those left out are absent.
    """
    # Only fitting needs scikit-learn, and importing it takes longer than all else: predictions go without.
    from sklearn.linear_model import LinearRegression

    _, first, inverse = np.unique(cells.astype(str), return_index=True, return_inverse=True)
    median = pd.Series(measured).groupby(inverse).median().to_numpy()
    features, scale = features.iloc[first], np.maximum(median, smallest[first])
    used, _ = select_features(features, len(first))
    if not used:
        return {}
    relative = features[used].to_numpy(dtype=np.float64) / scale[:, None]
    # Columns differ by ten orders of magnitude; scaling them changes the precision, not the solution.
    size = np.sqrt((relative**2).mean(axis=0))
    solver = LinearRegression(fit_intercept=False, positive=True).fit(relative / size, median / scale)
    return {name: float(c) for name, c in zip(used, solver.coef_ / size, strict=True) if c > 0}


def upper_quantile(values: Array, share: float) -> float:
    """Smallest value that a new one exceeds with at most 1 - share, so the largest if there are few.

    Source: split conformal prediction, rank ceil((n + 1) share); Vovk et al., Algorithmic Learning in a
    Random World, 2005.
    """
    rank = min(len(values), math.ceil((len(values) + 1) * share))
    return float(np.sort(values)[rank - 1])
