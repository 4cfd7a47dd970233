"""Sweeps: run a plan on an engine, keep each row at once, and go on where an earlier sweep stopped."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shunter.catalog.checkpoints import read_checkpoint
from shunter.catalog.devices import parse_device
from shunter.errors import InputError, UnknownNameError
from shunter.profiling.dataset import read_dataset
from shunter.profiling.engines.base import Capabilities, DeviceMemoryError, Engine
from shunter.profiling.engines.registry import ENGINES
from shunter.profiling.journal import Journal, journal_path
from shunter.profiling.measure import GroupRun, sweep_facts
from shunter.profiling.pace import Pace
from shunter.profiling.plan import Group, SweepPlan, SweepSettings, Unit, make_plan
from shunter.profiling.worker import start_engine

__all__ = [
    "MODES",
    "SweepProgress",
    "SweepResult",
    "check_output",
    "plan_models",
    "profile_models",
    "run_sweep",
]

MODES = ("new", "resume", "append")


@dataclass(frozen=True)
class SweepProgress:
    """Where a sweep stands.

    Attributes:
        units_done: Units measured or skipped.
        units: All units.
        rows: Rows written by this sweep.
        eta_s: Seconds to go, from what was measured so far.
        text: What is being measured.
    """

    units_done: int
    units: int
    rows: int
    eta_s: float
    text: str


@dataclass(frozen=True)
class SweepResult:
    """What a finished sweep did.

    Attributes:
        dataset: Path of the Parquet file.
        session_id: In the rows that it wrote.
        rows: Rows written.
        units_measured: Units measured.
        units_skipped: Units that were in the dataset already.
        refused: One line for each group that did not fit the device.
        duration_s: Seconds it took.
    """

    dataset: Path
    session_id: str
    rows: int
    units_measured: int
    units_skipped: int
    refused: tuple[str, ...]
    duration_s: float


ProgressCallback = Callable[[SweepProgress], None]


def plan_models(
    models: Sequence[str | os.PathLike[str]], *, engine: str, device: str, settings: SweepSettings
) -> SweepPlan:
    """Reads the checkpoints' headers and lays a sweep out; starts nothing.

    Args:
        models: Paths of GGUF files or Hugging Face folders.
        engine: Name in the engine registry.
        device: As users write it.
        settings: The grid.

    Raises:
        InputError: A checkpoint, the engine, the device or the grid is wrong.
    """
    if engine not in ENGINES:
        raise UnknownNameError("--engine", engine, ENGINES)
    checkpoints = [read_checkpoint(Path(path)) for path in models]
    formats = ENGINES[engine].checkpoint_formats
    for checkpoint in checkpoints:
        if checkpoint.format not in formats:
            rule = f"be {' or '.join(formats)} for the engine {engine}"
            raise InputError(f"--model {checkpoint.path}", rule, checkpoint.format)
    return make_plan(
        checkpoints, engine=engine, device=parse_device(device, field="--device"), settings=settings
    )


def profile_models(
    models: Sequence[str | os.PathLike[str]],
    *,
    engine: str,
    device: str,
    out: str | os.PathLike[str],
    settings: SweepSettings | None = None,
    mode: str = "new",
    python: str | None = None,
    progress: ProgressCallback | None = None,
) -> SweepResult:
    """Profiles models on a real engine and writes the dataset.

    Args:
        models: Paths of GGUF files or Hugging Face folders.
        engine: Name in the engine registry.
        device: As users write it.
        out: The Parquet dataset.
        settings: The grid; None: the default one.
        mode: ``new``, ``resume`` (measure only what the dataset lacks) or ``append`` (measure all again).
        python: Interpreter of the worker; None: this one.
        progress: Called after each unit.

    Raises:
        InputError: Something asked for is wrong, or the dataset exists in mode ``new``.
        EngineError: The engine failed; rows measured until then are in the dataset.
    """
    check_output(out, mode)
    plan = plan_models(models, engine=engine, device=device, settings=settings or SweepSettings())
    with start_engine(engine, device, python=python) as running:
        return run_sweep(plan, running, out, mode=mode, progress=progress)


def check_output(out: str | os.PathLike[str], mode: str) -> None:
    """Refuses to write over what exists.

    Raises:
        InputError: The mode is unknown, or it is ``new`` and there is a dataset or an unfinished sweep.
    """
    if mode not in MODES:
        raise InputError("mode", f"be one of {', '.join(MODES)}", mode)
    if mode == "new" and (Path(out).exists() or journal_path(out).exists()):
        rule = "not exist yet, or be finished with --resume, or be added to with --append"
        raise InputError("--out", rule, str(out))


def run_sweep(
    plan: SweepPlan,
    engine: Engine,
    dataset: str | os.PathLike[str],
    *,
    mode: str = "new",
    progress: ProgressCallback | None = None,
) -> SweepResult:
    """Measures a plan on a started engine.

    Every row is in the journal as soon as it was measured, and in the dataset when this returns or raises,
    Ctrl-C included.

    Raises:
        InputError: The engine cannot do what is planned, the dataset is in the way or being written.
        EngineError: The engine failed.
    """
    check_output(dataset, mode)
    _check_capabilities(plan, engine.capabilities())
    session_id = f"{plan.plan_id}-{uuid.uuid4().hex[:8]}"
    facts = sweep_facts(plan, engine, session_id)
    with Journal(dataset, plan_id=plan.plan_id, session_id=session_id) as journal:
        try:
            measured = _measured_keys(dataset, journal, facts) if mode == "resume" else set()
            return _Sweep(plan, engine, facts, journal, measured, progress).run()
        finally:
            journal.merge()


class _Sweep:
    def __init__(
        self,
        plan: SweepPlan,
        engine: Engine,
        facts: dict[str, Any],
        journal: Journal,
        measured: set[str],
        progress: ProgressCallback | None,
    ) -> None:
        self._plan, self._engine, self._facts, self._journal = plan, engine, facts, journal
        self._kv_save = engine.capabilities().kv_save
        self._measured = measured
        self._progress = progress
        self._pace = Pace(plan)
        self._rows = self._units_measured = self._units_skipped = 0
        self._refused: list[str] = []

    def run(self) -> SweepResult:
        start_s = time.monotonic()
        for group in self._plan.groups:
            self._run_group(group)
        return SweepResult(
            self._journal.dataset,
            self._facts["session_id"],
            self._rows,
            self._units_measured,
            self._units_skipped,
            tuple(self._refused),
            time.monotonic() - start_s,
        )

    def _run_group(self, group: Group) -> None:
        todo = [unit for unit in group.units if not self._is_measured(group, unit)]
        self._units_skipped += len(group.units) - len(todo)
        self._pace.opened(group)
        for unit in set(group.units) - set(todo):
            self._pace.skipped(group, unit)
        if not todo:
            return
        run = GroupRun(self._engine, self._plan, group, self._facts, self._keep)
        try:
            with run.resident() as resident:
                for unit in todo:
                    start_s = time.monotonic()
                    resident.measure(unit)
                    self._pace.measured(group, unit, time.monotonic() - start_s)
                    self._units_measured += 1
                    self._report(group)
        except DeviceMemoryError as error:
            run.unload()
            self._refused.append(f"{group.checkpoint.name} at {group.gpu_layers} layers: {error}")

    def _is_measured(self, group: Group, unit: Unit) -> bool:
        keys = self._plan.row_keys(group, unit, kv_save=self._kv_save)
        return all(key in self._measured for key in keys)

    def _keep(self, row: dict[str, Any]) -> None:
        # A unit that was cut short runs again as a whole, but its finished rows are not measured twice.
        key = _key(row["row_id"])
        if key not in self._measured:
            self._measured.add(key)
            self._journal.append(row)
            self._rows += 1

    def _report(self, group: Group) -> None:
        if self._progress is not None:
            text = f"{group.checkpoint.name}, {group.gpu_layers} layers on {self._plan.device.name}"
            done = self._units_measured + self._units_skipped
            self._progress(SweepProgress(done, self._plan.units, self._rows, self._pace.eta_s(), text))


def _check_capabilities(plan: SweepPlan, can: Capabilities) -> None:
    for group in plan.groups:
        if not can.partial_offload and group.gpu_layers != group.checkpoint.spec.total_layers:
            rule = f"be all: {can.engine} on {can.device} cannot split a model"
            raise InputError("--gpu-layers", rule, group.gpu_layers)


def _measured_keys(dataset: str | os.PathLike[str], journal: Journal, facts: dict[str, Any]) -> set[str]:
    here = ["hardware_id", "engine_version", "row_id"]
    written = read_dataset(dataset)[here].to_numpy().tolist() if Path(dataset).exists() else []
    recovered = [[row[name] for name in here] for row in journal.rows]
    wanted = [facts["hardware_id"], facts["engine_version"]]
    return {_key(row_id) for *place, row_id in [*written, *recovered] if place == wanted}


def _key(row_id: str) -> str:
    return row_id.partition("/")[2]
