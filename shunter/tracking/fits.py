"""What MLflow is told of measurements, and of performance models that are fitted to them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from shunter.models.performance import PerformanceModel
from shunter.tracking.lineage import (
    DATASET,
    FILE,
    PERFORMANCE,
    Input,
    dataset_input,
    software_tags,
)
from shunter.tracking.runs import Tracker

__all__ = ["held_out_errors", "log_dataset", "log_fit", "log_offload", "log_preemption"]


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
    tracker.tags({**software_tags(), DATASET: dataset.digest, FILE: str(path)})
    tracker.params(asked)
    tracker.inputs([dataset])
    tracker.metrics({**measured, **dataset.profile})
    tracker.artifact(path)


def log_preemption(
    tracker: Tracker, folder: Path, frame: pd.DataFrame, asked: Mapping[str, Any], measured: Mapping[str, Any]
) -> None:
    """Logs a measurement of preemptions, with a run of its own for each model.

    Args:
        tracker: The open run.
        folder: As ``shunter profile preemption`` leaves it.
        frame: Rows of the dataset in it.
        asked: What was asked for.
        measured: Figures of the measurement.
    """
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    dataset = dataset_input(folder / "preemption.parquet", frame, "profile")
    tags = {**software_tags(), DATASET: dataset.digest, FILE: str(folder)}
    tracker.tags(tags)
    tracker.note(found["answers"])
    tracker.params({**asked, "models": ", ".join(found["models"])})
    tracker.inputs([dataset])
    tracker.metrics({**measured, **dataset.profile})
    for path in sorted(folder.iterdir()):
        if path.is_file():
            tracker.artifact(path)
    for name, figures in found["models"].items():
        with tracker.child(f"{name}: {figures['cycles']} preemptions") as child:
            child.tags(tags)
            child.params({**asked, "model": name, **_texts(figures)})
            child.metrics(figures)


def _texts(figures: Mapping[str, Any]) -> dict[str, str]:
    return {name: text for name, text in figures.items() if isinstance(text, str)}


def log_offload(
    tracker: Tracker,
    folder: Path,
    datasets: Sequence[tuple[Path, pd.DataFrame]],
    curves: pd.DataFrame,
    *,
    batch: int,
    words: Sequence[str],
) -> None:
    """Logs curves over the offload ratio, and the datasets that they are of.

    Args:
        tracker: The open run.
        folder: As ``shunter profile offload`` leaves it.
        datasets: Files and their rows.
        curves: From ``shunter.profiling.offload_report.offload_curves``.
        batch: Requests decoded together.
        words: What the curves say.
    """
    every = [dataset_input(path, frame, "offload") for path, frame in datasets]
    made_of = list({one.digest: one for one in every}.values())
    digests = " ".join(one.digest for one in made_of)
    tracker.tags({**software_tags(), DATASET: digests, FILE: str(folder)})
    tracker.note(words)
    tracker.params({"batch": batch, "models": ", ".join(dict.fromkeys(curves["model"]))})
    tracker.inputs(made_of)
    tracker.metrics({"points": len(curves)})
    tracker.table(curves, "curves.json")
    for path in sorted(folder.iterdir()):
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
    own = {PERFORMANCE: model.digest, FILE: str(files[0]), **({DATASET: datasets} if datasets else {})}
    tracker.tags({**software_tags(), **own})
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
