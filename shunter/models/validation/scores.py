"""One predictor's errors and intervals on the held-out rows of one target."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from shunter.uncertainty import bootstrap, ratio_of_sums

__all__ = ["Score", "score"]

Array = npt.NDArray[np.float64]

LEVEL = 0.9
"""Share of measurements that an interval is meant to hold."""
_DRAWS = 1000


@dataclass(frozen=True)
class Score:
    """Errors of one predictor on one target's held-out rows; relative ones are shares (0.1 is 10 %).

    Attributes:
        predictor: Name of the predictor.
        split: How the rows were held out.
        target: What was predicted.
        rows: Rows predicted.
        cells: Distinct configurations among them.
        refused: Further rows that the predictor had no means to predict.
        mape: Mean absolute error relative to the measurement.
        mape_interval: 95 % bootstrap interval of it; configurations are drawn, with all of their repeats.
        median_ape: Median absolute error relative to the measurement.
        noise: How much repeats of a configuration differ from its median, on average; None without repeats.
        coverage: Share of rows inside their 90 % interval; None without intervals.
        coverage_p: Two-sided binomial test of it against 90 %, of as many trials as configurations: repeats
            of one are not independent. Configurations of one model or device are not either, so that it
            rejects too often.
        mean_width: Mean of (high - low) / predicted.
        constant_width: Mean of (high - low) / predicted of the one interval, predicted times or divided by
            one factor, that would have held 90 % of these very rows: known only in hindsight.
    """

    predictor: str
    split: str
    target: str
    rows: int
    cells: int
    refused: int
    mape: float | None = None
    mape_interval: tuple[float, float] | None = None
    median_ape: float | None = None
    noise: float | None = None
    coverage: float | None = None
    coverage_p: float | None = None
    mean_width: float | None = None
    constant_width: float | None = None


def score(predictor: str, split: str, target: str, asked: pd.DataFrame) -> Score:
    """Scores a frame of ``target_rows``; rows without a prediction are counted as refused."""
    rows = asked[asked["predicted"].notna()]
    refused = len(asked) - len(rows)
    if rows.empty:
        return Score(predictor, split, target, rows=0, cells=0, refused=refused)
    measured, predicted, smallest = (
        rows[column].to_numpy(dtype=np.float64) for column in ("measured", "predicted", "smallest")
    )
    ape = np.abs(predicted - measured) / np.maximum(measured, smallest)
    known = rows[rows["low"].notna() & rows["high"].notna()]
    coverage, p = _coverage(known)
    width: pd.Series[float] = (known["high"] - known["low"]) / np.maximum(
        known["predicted"], known["smallest"]
    )
    return Score(
        predictor,
        split,
        target,
        rows=len(rows),
        cells=int(rows["cell_id"].nunique()),
        refused=refused,
        mape=float(ape.mean()),
        mape_interval=_bootstrap(ape, rows["cell_id"].to_numpy(dtype=str)),
        median_ape=float(np.median(ape)),
        noise=_noise(rows),
        coverage=coverage,
        coverage_p=p,
        mean_width=float(width.mean()) if len(known) else None,
        constant_width=_constant_width(measured, predicted, smallest),
    )


def _bootstrap(ape: Array, configurations: npt.NDArray[np.str_]) -> tuple[float, float] | None:
    """Both ends of the mean's 95 % percentile interval; None for one configuration."""
    _, inverse = np.unique(configurations, return_inverse=True)
    units = np.column_stack([np.bincount(inverse, ape), np.bincount(inverse)])
    if len(units) < 2:
        return None
    _, low, high = bootstrap(units, ratio_of_sums, resamples=_DRAWS)
    return low, high


def _noise(rows: pd.DataFrame) -> float | None:
    configurations = rows.groupby("cell_id")["measured"]
    repeated = (configurations.transform("size") > 1).to_numpy()
    if not repeated.any():
        return None
    middle = configurations.transform("median")
    spread: pd.Series[float] = (rows["measured"] - middle).abs() / np.maximum(middle, rows["smallest"])
    return float(spread[repeated].mean())


def _coverage(known: pd.DataFrame) -> tuple[float | None, float | None]:
    if known.empty:
        return None, None
    from scipy.stats import binomtest

    # Below a clock's or an allocator's grain a measurement says no more than that it was that small.
    measured = np.maximum(known["measured"], known["smallest"])
    inside = (known["low"] <= measured) & (measured <= np.maximum(known["high"], known["smallest"]))
    trials = int(known["cell_id"].nunique())
    hits = round(float(inside.mean()) * trials)
    return float(inside.mean()), float(binomtest(hits, trials, LEVEL).pvalue)


def _constant_width(measured: Array, predicted: Array, smallest: Array) -> float:
    ratio = np.maximum(measured, smallest) / np.maximum(predicted, smallest)
    half = float(np.quantile(np.abs(np.log(ratio)), LEVEL))
    return float(np.exp(half) - np.exp(-half))
