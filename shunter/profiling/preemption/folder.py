"""The folder of a preemption measurement: what was asked and predicted beforehand, and the rows so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from shunter.engines.base import Engine
from shunter.errors import BrokenFileError, InputError
from shunter.files import write_json
from shunter.profiling.dataset.journal import journal_path
from shunter.profiling.preemption.cycles import cycles_of, read_cycles, read_old_cycles
from shunter.profiling.preemption.plan import PreemptionPlan
from shunter.profiling.sweep.run import ProgressCallback, SweepResult
from shunter.profiling.sweep.sweep import run_sweep
from shunter.reading import read_bytes
from shunter.report.page import report_folder

__all__ = ["DATASET", "Prediction", "is_old", "open_measurement", "read_measurement", "run_measurement"]

DATASET = "preemption.parquet"
"""The profile dataset that holds every operation of every cycle."""


@dataclass(frozen=True)
class Prediction:
    """What the preempted model's own part of a cycle was predicted to take, before it was measured.

    Attributes:
        model: A's model.
        cut_tokens: Tokens that A had generated when it was cut.
        own_s: Predicted time of A's own parts together.
        low_s: Lower end of the 90 % interval of ``own_s``.
        high_s: Upper end of the 90 % interval of ``own_s``.
        out_of_range: Whether the model was asked beyond its data.
    """

    model: str
    cut_tokens: int
    own_s: float
    low_s: float
    high_s: float
    out_of_range: bool


_UNPREDICTED = Prediction("", 0, math.nan, math.nan, math.nan, False)


def open_measurement(
    folder: Path, plan: PreemptionPlan, *, predict: Callable[[], Sequence[Prediction]], resume: bool
) -> None:
    """Begins a measurement, or checks that one can go on.

    Args:
        folder: ``plan.json`` and ``predictions.json`` are written there before anything is measured.
        plan: What is asked for.
        predict: Called at the beginning only: predictions are those of before the first row.
        resume: Whether earlier rows are kept; without any, a measurement begins.

    Raises:
        InputError: There are rows already, or those there are of something else than what is asked for.
        BrokenFileError: The folder's files are damaged.
    """
    rows = folder / DATASET
    if not rows.exists() and not journal_path(rows).exists():
        predictions = predict()
        report_folder(folder)
        write_json(folder / "predictions.json", [asdict(p) for p in predictions])
        write_json(folder / "plan.json", plan.asked())
        return
    if not resume:
        rule = "be a folder without an earlier measurement, or be finished with --resume"
        raise InputError("--out", rule, str(folder))
    _check_same(folder / "plan.json", plan.asked())
    _read_predictions(folder)


def run_measurement(
    folder: Path,
    plan: PreemptionPlan,
    engine: Engine,
    *,
    allow_overcommit: bool = False,
    progress: ProgressCallback | None = None,
) -> SweepResult:
    """Measures what an open folder lacks: as ``run_sweep``, on the same hardware and engine as before."""
    sweep = plan.sweep(allow_overcommit=allow_overcommit)
    return run_sweep(sweep, engine, folder / DATASET, mode="resume", same_machine=True, progress=progress)


def read_measurement(folder: Path, plan: PreemptionPlan) -> pd.DataFrame:
    """The finished cycles in an open folder, as from ``read_cycles``, and what was predicted of each."""
    rows = folder / DATASET
    frame = read_cycles(rows) if rows.exists() else cycles_of([])
    known = {(p.model, p.cut_tokens): p for p in _read_predictions(folder)}
    cells = zip(frame["model"], frame["cut_tokens"], strict=True)
    predicted = [known.get(cell, _UNPREDICTED) for cell in cells]
    return frame.assign(
        device=plan.device.name,
        predicted_s=[p.own_s for p in predicted],
        predicted_low_s=[p.low_s for p in predicted],
        predicted_high_s=[p.high_s for p in predicted],
        predicted_out_of_range=[p.out_of_range for p in predicted],
    )


def is_old(folder: Path) -> bool:
    """Whether an older shunter wrote the cycles, to which none can be added."""
    return (folder / DATASET).exists() and read_old_cycles(folder / DATASET) is not None


def _check_same(path: Path, asked: dict[str, Any]) -> None:
    try:
        earlier = TypeAdapter(dict[str, Any]).validate_json(read_bytes(path))
    except ValidationError as error:
        raise BrokenFileError(path, "it does not say what the rows beside it are of") from error
    for name, value in asked.items():
        if earlier.get(name) != value:
            rule = f"go on with what was begun: {name} was {_short(earlier.get(name))}"
            raise InputError("--resume", rule, _short(value))


def _short(value: Any) -> str:
    """Models by name: their facts are too long for a line."""
    if isinstance(value, dict):
        return f"{value.get('model')} ({value.get('weight_bytes')} bytes)"
    return ", ".join(map(_short, value)) if isinstance(value, list) else str(value)


def _read_predictions(folder: Path) -> tuple[Prediction, ...]:
    path = folder / "predictions.json"
    try:
        return TypeAdapter(tuple[Prediction, ...]).validate_json(read_bytes(path))
    except ValidationError as error:
        raise BrokenFileError(path, "it holds no predictions") from error
