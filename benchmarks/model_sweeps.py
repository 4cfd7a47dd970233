"""How wrong performance models are on a dataset: held-out configurations against bars, other splits apart."""

from __future__ import annotations

import os
from collections.abc import Container

import pandas as pd

from benchmarks.form import Row, at_least, reported
from benchmarks.profiling import error_rows
from shunter.models.performance import PerformanceModel
from shunter.models.validation.assessment import Validation, assess
from shunter.models.validation.scores import Score
from shunter.models.validation.splits import SPLITS

__all__ = ["COVERAGE_ROWS", "coverage_row", "split_rows", "sweep_rows"]

COVERAGE_ROWS = 50
"""Rows from which the coverage of a split is judged."""


def sweep_rows(name: str, frame: pd.DataFrame) -> list[Row]:
    """All rows of one sweep.

    Held-out configurations have the bars of ``error_rows``: 3, 5, 8 and 10 %, or twice the noise of the same
    rows if that is more. What a split asks beyond that is reported, never mixed with them.

    Args:
        name: Name of the dataset, or of its engine.
        frame: A profile dataset.
    """
    validation = assess(frame, {"shunter": PerformanceModel})
    barred = {"random cells"}
    return [_load_row(name, frame), *error_rows(name, frame), *split_rows(name, validation, barred)]


def split_rows(name: str, validation: Validation, but: Container[str] = ()) -> list[Row]:
    """Errors of every split, which are reported, and coverages, which are judged.

    Args:
        name: Name of the dataset.
        validation: Validation of times; memory is passed over.
        but: Splits whose errors are shown elsewhere; their coverages are judged all the same.
    """
    timed = [s for s in validation.scores if s.target.endswith("_s")]
    return [
        *(_error_row(name, s) for s in timed if s.split not in but),
        *_impossible_rows(name, validation),
        *(row for s in timed if s.rows >= COVERAGE_ROWS for row in _coverage_rows(name, s)),
    ]


def coverage_row(metric: str, s: Score) -> Row:
    """Judges the coverage of a split: it must not be rejected at 5 %."""
    trials = f", as many trials as cells: {s.cells}" if s.cells < s.rows else " taken as independent"
    note = f"two-sided binomial test against 0.9, {s.rows} rows{trials}"
    return at_least(reported(f"{metric}: p of coverage {s.coverage:.3f}", s.coverage_p, note=note), 0.05)


def _load_row(name: str, frame: pd.DataFrame) -> Row:
    load, cores = float(frame["load_average"].median()), os.cpu_count() or 1
    busy = f"more than {cores} cores: other work ran, so errors and noise are of a busy machine"
    note = busy if load > cores else f"{cores} cores"
    return reported(f"{name}: median load average while measuring", load, note=note)


def _error_row(name: str, s: Score) -> Row:
    noise = "unknown" if s.noise is None else f"{s.noise:.1%}"
    note = (
        f"{SPLITS[s.split]}; {s.rows} rows, {s.cells} cells, {s.refused} refused; repeats differ by {noise}"
    )
    return reported(f"{name}: {s.target} MAPE, {s.split}", s.mape, interval=s.mape_interval, note=note)


def _impossible_rows(name: str, validation: Validation) -> list[Row]:
    return [reported(f"{name}: {split}", None, note=why) for split, why in validation.impossible.items()]


def _coverage_rows(name: str, s: Score) -> list[Row]:
    if s.coverage is None:
        return []
    metric = f"{name}: {s.target} 90 % interval, {s.split}"
    note = f"one factor for all that holds 90 % of these rows, known in hindsight: {s.constant_width:.3g}"
    return [
        coverage_row(metric, s),
        reported(f"{metric}: mean width over prediction", s.mean_width, note=note),
    ]
