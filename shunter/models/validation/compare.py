"""Two performance models side by side: their errors on the same rows, and what differs inside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from shunter.models.card.card import error_text
from shunter.models.performance import PerformanceModel
from shunter.models.validation.assessment import predict_rows, target_rows
from shunter.models.validation.scores import Score, score
from shunter.profiling.dataset.fingerprint import rows_digest
from shunter.report.page import ReportTable

__all__ = ["error_table", "in_sample", "parameter_table", "prediction_table"]

_WHERE = ["target", "engine", "device", "page_cache"]


def error_table(models: dict[str, PerformanceModel], frame: pd.DataFrame) -> ReportTable:
    """Errors of each model on a dataset's rows, by target.

    Args:
        models: Performance models, by the name to show.
        frame: A validated profile dataset; shape (n_rows, ...).
    """
    scores = {name: _scores(name, model, frame) for name, model in models.items()}
    rows = [
        (
            target,
            *(
                text
                for name in models
                for text in (error_text(scores[name][target]), _coverage(scores[name][target]))
            ),
        )
        for target in next(iter(scores.values()))
    ]
    headings = (text for name in models for text in (f"{name}: error", f"{name}: inside"))
    note = (
        "Mean absolute error relative to the measurement with its 95 % interval (bootstrap of "
        "configurations), the share of rows inside their 90 % intervals. Rows that a model was fitted to "
        "flatter it."
    )
    return ReportTable("Errors on the same rows", ("target", *headings), tuple(rows), note)


def in_sample(models: dict[str, PerformanceModel], frame: pd.DataFrame) -> list[str]:
    """Names of the models that were fitted to exactly these rows."""
    fingerprint = rows_digest(frame["row_id"])
    return [name for name, model in models.items() if model.state_.data_fingerprint == fingerprint]


def prediction_table(models: dict[str, PerformanceModel], frame: pd.DataFrame) -> ReportTable:
    """How far the second model's predictions for a dataset are from the first's, by target."""
    first, second = (_targets(model, frame.drop_duplicates("cell_id")) for model in models.values())
    rows = []
    for target, asked in first.items():
        ratio = (second[target]["predicted"] / asked["predicted"]).dropna()
        texts = [f"{q:.3f}" for q in np.quantile(ratio, [0.0, 0.5, 1.0])] if len(ratio) else ["-"] * 3
        rows.append((target, str(len(ratio)), *texts))
    a, b = models
    columns = ("target", "configurations", *_SPREAD)
    return ReportTable(f"Predictions of {b} over those of {a}", columns, tuple(rows))


_SPREAD = ("smallest", "median", "largest")


def parameter_table(models: dict[str, PerformanceModel]) -> ReportTable:
    """The calibrated parameters of both models, where they differ."""
    (a, first), (b, second) = models.items()
    keys = [*_WHERE, "parameter"]
    both = first.parameters().merge(second.parameters(), on=keys, how="outer", suffixes=("_a", "_b"))
    changed = both[~np.isclose(both["value_a"], both["value_b"], rtol=1e-9, equal_nan=True)]
    records: list[dict[str, Any]] = changed.to_dict("records")  # type: ignore[assignment]
    rows = [
        (
            " ".join(str(row[name]) for name in _WHERE if row[name]),
            str(row["parameter"]),
            _number(row["value_a"]),
            _number(row["value_b"]),
        )
        for row in records
    ]
    return ReportTable("Parameters that differ", ("where", "parameter", a, b), tuple(rows))


def _scores(name: str, model: PerformanceModel, frame: pd.DataFrame) -> dict[str, Score]:
    return {
        target: score(name, "given rows", target, rows) for target, rows in _targets(model, frame).items()
    }


def _targets(model: PerformanceModel, frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return dict(target_rows(predict_rows(model, frame, {})))


def _coverage(found: Score) -> str:
    return "-" if found.coverage is None else f"{found.coverage:.0%}"


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4g}"
