"""What MLflow is told of measurements, and of performance models that are fitted to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from shunter.models.performance import PerformanceModel
from shunter.tracking.lineage import (
    DATASET,
    PERFORMANCE,
    Input,
    dataset_input,
    software_tags,
)
from shunter.tracking.runs import Tracker

__all__ = ["held_out_errors", "log_dataset", "log_fit"]


def log_dataset(
    tracker: Tracker,
    path: Path,
    frame: pd.DataFrame,
    asked: Mapping[str, Any],
    *,
    measured: Mapping[str, Any],
) -> None:
    """Logs a dataset that was measured.

    Args:
        tracker: The open run.
        path: The dataset.
        frame: Its rows.
        asked: What was asked for.
        measured: Figures of the measurement.
    """
    dataset = dataset_input(path, frame, "profile")
    tracker.tags({**software_tags(), DATASET: dataset.digest})
    tracker.params(asked)
    tracker.inputs([dataset])
    tracker.metrics({**measured, **dataset.profile})
    tracker.artifact(path)


def log_fit(
    tracker: Tracker,
    model: PerformanceModel,
    made_of: Sequence[Input],
    files: Sequence[Path],
    asked: Mapping[str, Any],
) -> None:
    """Logs a performance model that was fitted, corrected or recalibrated, with its errors.

    Args:
        tracker: The open run.
        model: The model.
        made_of: Datasets, logs of runs and other models.
        files: The model's file, and its card if there is one.
        asked: What was asked for.
    """
    datasets = " ".join(one.digest for one in made_of if one.context == "fit")
    tracker.tags({**software_tags(), PERFORMANCE: model.digest, **({DATASET: datasets} if datasets else {})})
    tracker.params({**asked, "models": ", ".join(model.models.index)})
    tracker.inputs(made_of)
    tracker.metrics({"cv_mape": held_out_errors(model)})
    for file in files:
        tracker.artifact(file)


def held_out_errors(model: PerformanceModel) -> dict[str, dict[str, float | None]]:
    """Mean relative errors by target, on configurations and on models that a fit had not seen."""
    return {
        target: {
            "held_out_cells": errors.held_out_cells.mape if errors.held_out_cells else None,
            "held_out_models": errors.held_out_models.mape if errors.held_out_models else None,
        }
        for target, errors in model.cv.items()
    }
