"""Non-negative linear models of physical features with a learned correction, fitted to relative errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, model_validator

from shunter.errors import InputError
from shunter.models.fit.intervals import UNKNOWN
from shunter.models.physics.features import DIFFERENCES, TARGETS, feature_frame, feature_names

__all__ = ["TargetFit"]

Array = npt.NDArray[np.float64]

_SMALL_SHARE = 0.05
_FEWEST_REPEATS = 3
_OTHER_SIDE = {"device": "host", "host": "device"}


class DeviceFit(BaseModel):
    """Physics first: a non-negative sum of features; on top, a learned factor for each known model and level.

    Attributes:
        coefficients: Coefficient of each feature, in the target's unit per unit of the feature; never
            negative.
        corrections: By model, (gpu_layers, logarithm of the factor) at each level seen, ascending; between
            levels it is interpolated. A model that was not seen has none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    coefficients: dict[str, float]
    corrections: dict[str, tuple[tuple[int, float], ...]]

    def physical(self, features: pd.DataFrame) -> Array:
        """The sum without corrections; shape (n_configurations,)."""
        total = np.zeros(len(features))
        for name, coefficient in self.coefficients.items():
            total += coefficient * features[name].to_numpy()
        return total

    def predict(self, features: pd.DataFrame, configurations: pd.DataFrame) -> Array:
        """Predicted values.

        Args:
            features: Features of the configurations; shape (n_configurations, n_features).
            configurations: Columns ``model`` and ``gpu_layers`` of the same configurations; shape
                (n_configurations, ...).

        Returns:
            Shape (n_configurations,).
        """
        log_factor = np.zeros(len(configurations))
        models = configurations["model"].to_numpy(dtype=object)
        levels = configurations["gpu_layers"].to_numpy(dtype=np.float64)
        for model in set(models) & set(self.corrections):
            known_levels, known = zip(*self.corrections[model], strict=True)
            here = models == model
            log_factor[here] = np.interp(levels[here], known_levels, known)
        return self.physical(features) * np.exp(log_factor)


class TargetFit(BaseModel):
    """One target on one engine, and what of it was seen.

    Attributes:
        target: Name in ``TARGETS``.
        engine: Engine of the data.
        ranges: Smallest and largest value seen, by feature or term, used or not.
        models: Models in the data.
        rows: Rows in the data.
        cells: Distinct configurations in the data.
        mean_over_median: How much longer repeats of a configuration take on average than their median, which
            is what is fitted: what many of them take in all is their mean's business.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    target: str
    engine: str
    ranges: dict[str, tuple[float, float]]
    models: tuple[str, ...]
    rows: int
    cells: int
    mean_over_median: Annotated[float, Field(gt=0)] = 1.0


class GroupFit(TargetFit):
    """One target on one engine and device; ranges are of features.

    Attributes:
        device: Device of the data.
        page_cache: ``warm`` or ``cold``; empty where it makes no difference.
        physics: What predicts.
        seen_log_errors: 5 % and 95 % quantile of log(measured / predicted) on held-out configurations.
        unseen_log_errors: 5 % and 95 % quantile of log(measured / predicted) on held-out models; None with
            fewer than two models.
    """

    device: str
    page_cache: str
    physics: DeviceFit
    seen_log_errors: tuple[float, float]
    unseen_log_errors: tuple[float, float] | None

    @model_validator(mode="after")
    def _known(self) -> Self:
        """A file from elsewhere may name anything."""
        named = set(self.physics.coefficients) | set(self.ranges)
        unknown = named - feature_names(self.target)
        if unknown or self.target not in TARGETS:
            raise ValueError(f"{self.target} has no feature {', '.join(sorted(unknown))}")
        if min([0.0, *self.physics.coefficients.values()]) < 0:
            raise ValueError("a coefficient is negative")
        if any(not table for table in self.physics.corrections.values()):
            raise ValueError("a correction has no level")
        return self

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Target, engine, device and page cache that the fit is for."""
        return (self.target, self.engine, self.device, self.page_cache)

    def predict(self, rows: pd.DataFrame) -> tuple[Array, npt.NDArray[np.bool_]]:
        """Values with both ends of their intervals, (n_configurations, 3), and what is out of range.

        Args:
            rows: Complete configurations.

        Raises:
            InputError: One is split over several GPUs.
        """
        if "gpu_count" in rows and (rows["gpu_count"] > 1).any():
            rule = "be 1 on a device without data sheet"
            raise InputError("configurations: column gpu_count", rule, rows["gpu_count"].max())
        features = feature_frame(TARGETS[self.target], rows)
        predicted = self.physics.predict(features, rows)
        ends = self.interval_ends(features, rows["model"].to_numpy(dtype=object))
        columns = [predicted, *(predicted * np.exp(end) for end in ends)]
        return np.column_stack(columns), self.doublings_outside(features) > 0

    def doublings_outside(self, features: pd.DataFrame) -> Array:
        """How many times the farthest feature must be halved or doubled to be in the range seen; 0 inside.

        A feature that was always 0 and is not here counts as one doubling.
        """
        return doublings_outside(self.ranges, {name: features[name].to_numpy() for name in self.ranges})

    def interval_ends(self, features: pd.DataFrame, models: npt.NDArray[np.object_]) -> tuple[Array, Array]:
        """Ends of the 90 % interval as log ratios, out of range too; shapes (n_configurations,).

        Errors add up in the logarithm as one goes further from what was seen: one more width a doubling. What
        a feature costs that was always 0 is unknown, so it adds a factor of 2 either way.
        """
        wider = 1 + self.doublings_outside(features)
        unknown = np.zeros(len(features))
        for name in (name for name, (_, high) in self.ranges.items() if high == 0):
            unknown = np.maximum(unknown, UNKNOWN * (features[name].to_numpy() > 0))
        low, high = self.log_errors(models)
        return low * wider - unknown, high * wider + unknown

    def log_errors(self, models: npt.NDArray[np.object_]) -> tuple[Array, Array]:
        """Ends of the 90 % interval as log ratios; shapes (n_configurations,).

        For models not in the data they are those of held-out models, never narrower, or a factor of 2 either
        way where none could be held out.
        """
        seen, held_out = self.seen_log_errors, self.unseen_log_errors or (-UNKNOWN, UNKNOWN)
        unseen = (min(seen[0], held_out[0]), max(seen[1], held_out[1]))
        is_seen = np.isin(models, np.array(self.models, dtype=object))
        return np.where(is_seen, seen[0], unseen[0]), np.where(is_seen, seen[1], unseen[1])


def doublings_outside(ranges: Mapping[str, tuple[float, float]], values: Mapping[str, Array]) -> Array:
    """How often the farthest value must be halved or doubled to be in range; shape (n_configurations,).

    One that was always 0 and is not here counts as one doubling; so does one that is 0 and never was.
    """
    worst = np.zeros(len(next(iter(values.values()))) if values else 0)
    for name, (low, high) in ranges.items():
        value = values[name]
        above, below = value > high * (1 + 1e-9), value < low * (1 - 1e-9)
        with np.errstate(divide="ignore", invalid="ignore"):
            over = np.log2(value / high) if high > 0 else np.ones_like(value)
            under = np.where(value > 0, np.log2(low / value), 1.0)
        worst = np.maximum(worst, np.where(above, over, 0.0))
        worst = np.maximum(worst, np.where(below, under, 0.0))
    return worst


def words_outside(ranges: Mapping[str, tuple[float, float]], values: Mapping[str, Array]) -> list[str]:
    """What is out of range of each configuration, the farthest first, in words; empty inside.

    Args:
        ranges: Smallest and largest value seen, by name.
        values: Values of configurations by the same names; each of shape (n_configurations,).
    """
    n = len(next(iter(values.values()))) if values else 0
    found: list[list[tuple[float, str]]] = [[] for _ in range(n)]
    for name, (low, high) in ranges.items():
        far = doublings_outside({name: (low, high)}, values)
        for row in np.flatnonzero(far):
            value, what = values[name][row], name.replace("_", " ")
            if value > high:
                text = f"{what} {value / high:.3g} times the largest seen" if high else f"{what} never seen"
            else:
                text = f"{what} {value / low:.3g} times the smallest seen"
            found[row].append((-far[row], text))
    return ["; ".join(text for _, text in sorted(row)) for row in found]


def select_features(features: pd.DataFrame, n_configurations: int) -> tuple[list[str], list[str]]:
    """Picks the features that the data can tell apart, most physical first.

    A feature that is always 0 is no loss, nor one that equals another. Nor is one side (device or host) that
    never does a twentieth of what the other does: its coefficient would be fitted to noise. A combination of
    features before it cannot be told from them, unless it is the difference of two that are used whatever the
    data (``DIFFERENCES``). Beyond that, at most ``1 + n_configurations // 2`` are used.

    Args:
        features: Features of the rows, most physical first; shape (n_rows, n_features).
        n_configurations: Distinct configurations among the rows.

    Returns:
        Names to use, and names left out though they matter.
    """
    columns = {str(name): column.to_numpy(dtype=np.float64) for name, column in features.items()}
    largest = {name: float(column.max()) for name, column in columns.items()}
    most = min(n_configurations, 1 + n_configurations // 2)
    used: list[str] = []
    left_out: list[str] = []
    basis = np.empty((len(features), 0))
    for name, column in columns.items():
        if largest[name] <= _SMALL_SHARE * largest.get(_other_side(name), 0.0):
            continue
        if any(np.array_equal(column, columns[other]) for other in used):
            continue
        unit = column / float(np.linalg.norm(column))
        rest = unit - basis @ (basis.T @ unit)
        rest = rest - basis @ (basis.T @ rest)
        is_new = np.linalg.norm(rest) > 1e-6
        if len(used) < most and (is_new or DIFFERENCES.get(name, {name}) <= set(used)):
            basis = np.column_stack([basis, rest / np.linalg.norm(rest)]) if is_new else basis
            used.append(name)
        else:
            left_out.append(name)
    return used, left_out


def _other_side(name: str) -> str:
    stem, _, side = name.rpartition("_")
    return f"{stem}_{_OTHER_SIDE.get(side, '')}"


def fit_physics(
    features: pd.DataFrame, measured: Array, smallest: Array, frame: pd.DataFrame, *, corrected: bool = True
) -> DeviceFit:
    """Fits the medians of configurations: first the coefficients, then the corrections to what they leave.

    Medians, so that often and seldom measured configurations count alike and a stall in one repeat counts for
    little.

    Args:
        features: Features of the rows, most physical first, equal in all rows of a configuration; shape
            (n_rows, n_features).
        measured: Measured values; shape (n_rows,).
        smallest: Below it, errors count relative to it; above 0; shape (n_rows,).
        frame: The rows' ``cell_id``, ``model`` and ``gpu_layers``.
        corrected: Whether to learn corrections.
    """
    _, first, inverse = np.unique(
        frame["cell_id"].to_numpy(dtype=str), return_index=True, return_inverse=True
    )
    median = pd.Series(measured).groupby(inverse).median().to_numpy(dtype=np.float64)
    features, frame, smallest = features.iloc[first], frame.iloc[first], smallest[first]
    scale = np.asarray(np.maximum(median, smallest), dtype=np.float64)
    fit = DeviceFit(coefficients=_coefficients(features, median, scale), corrections={})
    if not corrected:
        return fit
    left = np.log(scale / np.maximum(fit.physical(features), smallest))
    return fit.model_copy(update={"corrections": _corrections(left, frame)})


def mean_over_median(measured: Array, configuration_ids: npt.NDArray[np.object_]) -> float:
    """The mean of measured / its configuration's median, where that has three rows or more; 1 without any.

    A row counts as at most twice its configuration's median and at least half: one long stall is no habit.

    Args:
        measured: Measured values, positive, outliers too; shape (n_rows,).
        configuration_ids: Configuration of each row; shape (n_rows,).
    """
    rows = pd.Series(measured).groupby(configuration_ids)
    ratio = (measured / rows.transform("median"))[rows.transform("size") >= _FEWEST_REPEATS]
    return float(ratio.clip(0.5, 2.0).mean()) if len(ratio) else 1.0


def _coefficients(features: pd.DataFrame, measured: npt.ArrayLike, scale: Array) -> dict[str, float]:
    """Minimises the sum of ((features @ c - measured) / scale)² over c >= 0: relative errors count.

    Features that come out as 0 make room for those that they kept out.
    """
    used, left_out = select_features(features, len(features))
    found = _solution(features, used, measured, scale)
    if not left_out:
        return found
    used, _ = select_features(features[[*found, *left_out]], len(features))
    return _solution(features, used, measured, scale)


def _solution(
    features: pd.DataFrame, used: list[str], measured: npt.ArrayLike, scale: Array
) -> dict[str, float]:
    # Only fitting needs scikit-learn, and importing it takes longer than all else: predictions go without.
    from sklearn.linear_model import LinearRegression

    if not used:
        return {}
    relative = features[used].to_numpy(dtype=np.float64) / scale[:, None]
    # Columns differ by ten orders of magnitude; scaling them changes the precision, not the solution.
    size = np.sqrt((relative**2).mean(axis=0))
    solver = LinearRegression(fit_intercept=False, positive=True).fit(
        relative / size, np.asarray(measured) / scale
    )
    return {name: float(c) for name, c in zip(used, solver.coef_ / size, strict=True) if c > 0}


def _corrections(left: Array, frame: pd.DataFrame) -> dict[str, tuple[tuple[int, float], ...]]:
    """What is left, by model, and what that leaves, by model and level."""
    models = frame["model"].to_numpy(dtype=str)
    levels = frame["gpu_layers"].to_numpy(dtype=np.int64)
    by_model = shrunk_means(left, models)
    by_level = shrunk_means(left - by_model, np.char.add(models, levels.astype(str)))
    total = by_model + by_level
    found = {(str(m), int(level)): float(c) for m, level, c in zip(models, levels, total, strict=True)}
    return {
        model: tuple((level, found[m, level]) for m, level in sorted(found) if m == model)
        for model in sorted(set(models.tolist()))
    }


def shrunk_means(values: Array, groups: npt.NDArray[np.str_]) -> Array:
    """Each value's group mean, drawn towards 0 by as much of it as may be noise; shape (n_values,).

    Source: empirical Bayes with a normal prior around 0, variances by moments; Efron and Morris, Data
    Analysis Using Stein's Estimator and its Generalizations, 1975.
    """
    _, inverse, count = np.unique(groups, return_inverse=True, return_counts=True)
    mean = np.bincount(inverse, values) / count
    freedom = len(values) - len(count)
    if freedom == 0:
        return np.zeros_like(values)
    noise = ((values - mean[inverse]) ** 2).sum() / freedom / count
    spread = max(0.0, float((mean**2 - noise).mean()))
    shrunk = mean * spread / np.maximum(spread + noise, np.finfo(float).tiny)
    return np.asarray(shrunk[inverse], dtype=np.float64)
