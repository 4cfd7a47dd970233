"""The folder of a preemption measurement: what was asked and predicted beforehand, and the rows so far."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from shunter.catalog.devices import parse_device
from shunter.engines.base import Engine
from shunter.errors import BrokenFileError, InputError
from shunter.files import write_json
from shunter.profiling.dataset.journal import journal_path
from shunter.profiling.preemption.cycles import cycles_of, read_cycles, read_old_cycles
from shunter.profiling.preemption.plan import PreemptionPlan
from shunter.profiling.sweep.plan import model_facts
from shunter.profiling.sweep.run import ProgressCallback, SweepResult
from shunter.profiling.sweep.sweep import run_sweep
from shunter.report.page import report_folder

__all__ = ["Measurement", "Prediction", "open_measurement"]


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


@dataclass(frozen=True)
class Measurement:
    """An open folder.

    Attributes:
        folder: Where it is.
        plan: What is measured.
        engine: Name in the engine registry.
        device: As the user wrote it.
    """

    folder: Path
    plan: PreemptionPlan
    engine: str
    device: str

    @property
    def dataset(self) -> Path:
        """The profile dataset that holds every operation of every cycle."""
        return self.folder / "preemption.parquet"

    @property
    def is_old(self) -> bool:
        """Whether an older shunter wrote the cycles, to which none can be added."""
        return self.dataset.exists() and read_old_cycles(self.dataset) is not None

    def run(
        self, engine: Engine, *, allow_overcommit: bool = False, progress: ProgressCallback | None = None
    ) -> SweepResult:
        """Measures what the dataset lacks: as ``run_sweep``, on the same hardware and engine as before.

        Args:
            engine: A started engine without residents.
            allow_overcommit: As in ``SweepSettings``.
            progress: Called after each cycle or uninterrupted run.
        """
        plan = self.plan.sweep(self.engine, parse_device(self.device), allow_overcommit=allow_overcommit)
        return run_sweep(plan, engine, self.dataset, mode="resume", same_machine=True, progress=progress)

    def cycles(self) -> pd.DataFrame:
        """The finished cycles, as from ``read_cycles``, with what was predicted (``predicted_s``, …)."""
        frame = read_cycles(self.dataset) if self.dataset.exists() else cycles_of([])
        known = {(p.model, p.cut_tokens): p for p in _read_predictions(self.folder)}
        cells = zip(frame["model"], frame["cut_tokens"], strict=True)
        predicted = [known.get(cell, _UNPREDICTED) for cell in cells]
        return frame.assign(
            device=self.device,
            predicted_s=[p.own_s for p in predicted],
            predicted_low_s=[p.low_s for p in predicted],
            predicted_high_s=[p.high_s for p in predicted],
            predicted_out_of_range=[p.out_of_range for p in predicted],
        )


def open_measurement(
    folder: Path,
    plan: PreemptionPlan,
    *,
    engine: str,
    device: str,
    predict: Callable[[], Sequence[Prediction]],
    resume: bool,
) -> Measurement:
    """Begins a measurement, or goes on with one.

    Args:
        folder: ``plan.json`` and ``predictions.json`` are written there before anything is measured.
        plan: What is asked for.
        engine: Name in the engine registry.
        device: As the user wrote it.
        predict: Called at the beginning only: predictions are those of before the first row.
        resume: Whether earlier rows are kept; without any, a measurement begins.

    Raises:
        InputError: There are rows already, or those there are of something else than what is asked for.
        BrokenFileError: The folder's files are damaged.
    """
    asked = _asked(plan, engine, device)
    begun = Measurement(folder, plan, engine, device)
    if begun.dataset.exists() or journal_path(begun.dataset).exists():
        if not resume:
            rule = "be a folder without an earlier measurement, or be finished with --resume"
            raise InputError("--out", rule, str(folder))
        _check_same(folder / "plan.json", asked)
        _read_predictions(folder)
        return begun
    predictions = predict()
    report_folder(folder)
    write_json(folder / "predictions.json", [asdict(p) for p in predictions])
    write_json(folder / "plan.json", asked)
    return begun


def _asked(plan: PreemptionPlan, engine: str, device: str) -> dict[str, Any]:
    asked = {
        "engine": engine,
        "device": device,
        "models": [model_facts(model) for model in plan.models],
        "other": model_facts(plan.other),
        **asdict(plan.settings),
    }
    plain: dict[str, Any] = json.loads(json.dumps(asked))
    return plain


def _check_same(path: Path, asked: dict[str, Any]) -> None:
    try:
        earlier = TypeAdapter(dict[str, Any]).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
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
        return TypeAdapter(tuple[Prediction, ...]).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise BrokenFileError(path, "it holds no predictions") from error
