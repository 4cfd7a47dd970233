"""Sweeps: run a plan on an engine, keep each row at once, and go on where an earlier sweep stopped."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shunter.catalog.checkpoints import Checkpoint, read_checkpoint
from shunter.catalog.devices import parse_device
from shunter.engines.base import Engine
from shunter.engines.caller.entries import engine_entry
from shunter.errors import InputError
from shunter.profiling.dataset.journal import Journal, journal_path
from shunter.profiling.dataset.table import read_dataset
from shunter.profiling.meters.conditions import Sensors
from shunter.profiling.meters.metered import MeteredEngine
from shunter.profiling.sweep.measure import sweep_facts
from shunter.profiling.sweep.measured import Measured, earlier_rows
from shunter.profiling.sweep.plan import SweepPlan, SweepSettings, check_levels, make_plan
from shunter.profiling.sweep.run import ProgressCallback, SweepProgress, SweepResult, SweepRun

__all__ = ["SweepProgress", "plan_models", "read_models", "run_sweep"]

MODES = ("new", "resume", "append")
_HARDWARE = ("hardware_id", "engine_version")


def plan_models(
    models: Sequence[str | os.PathLike[str]],
    *,
    engine: str,
    device: str,
    settings: SweepSettings,
    names: Sequence[str] = (),
) -> SweepPlan:
    """Reads the checkpoints' headers and lays a sweep out; starts nothing.

    Args:
        models: Paths of GGUF files or Hugging Face folders.
        engine: Name in the engine registry.
        device: As users write it.
        settings: The grid.
        names: Names of the models in their order; none: as their files are called.

    Raises:
        InputError: A checkpoint, the engine, the device or the grid is wrong.
    """
    checkpoints = read_models(models, engine, names=names)
    return make_plan(
        checkpoints, engine=engine, device=parse_device(device, field="--device"), settings=settings
    )


def read_models(
    models: Sequence[str | os.PathLike[str]],
    engine: str,
    *,
    field: str = "--model",
    names: Sequence[str] = (),
) -> list[Checkpoint]:
    """Reads the headers of checkpoints that an engine is to load.

    Args:
        models: Paths of GGUF files or Hugging Face folders.
        engine: Name in the engine registry.
        field: Which option named them, for errors.
        names: Names of the models in their order; none: as their files are called.

    Raises:
        InputError: A checkpoint or the engine is wrong.
    """
    formats = engine_entry(engine, field="--engine").checkpoint_formats
    checkpoints = [read_checkpoint(Path(path), field=field) for path in models]
    for checkpoint in checkpoints:
        if checkpoint.format not in formats:
            rule = f"be {' or '.join(formats)} for the engine {engine}"
            raise InputError(f"{field} {checkpoint.path}", rule, checkpoint.format)
        if engine == "transformers" and checkpoint.is_packed:
            rule = f"not be quantised for the engine {engine}, which would not count its weights right"
            raise InputError(f"{field} {checkpoint.path}", rule, checkpoint.quantization)
    return _named(checkpoints, names)


def _named(checkpoints: list[Checkpoint], names: Sequence[str]) -> list[Checkpoint]:
    if not names:
        return checkpoints
    if len(names) != len(checkpoints) or not all(name.strip() for name in names):
        rule = f"be given once for each --model, {len(checkpoints)} times, and not be empty"
        raise InputError("--name", rule, list(names))
    return [checkpoint.named(name) for checkpoint, name in zip(checkpoints, names, strict=True)]


def check_output(out: str | os.PathLike[str], mode: str) -> None:
    """Refuses to write over what exists, and to add to what is no dataset.

    Raises:
        InputError: The mode is unknown, or it is ``new`` and there is a dataset or an unfinished sweep.
        BrokenFileError: What there is is no dataset.
        VersionError: It was written for another schema version.
    """
    if mode not in MODES:
        raise InputError("mode", f"be one of {', '.join(MODES)}", mode)
    if mode == "new" and (Path(out).exists() or journal_path(out).exists()):
        rule = "not exist yet, or be finished with --resume, or be added to with --append"
        raise InputError("--out", rule, str(out))
    if mode != "new" and os.path.lexists(out):
        read_dataset(out)


def run_sweep(
    plan: SweepPlan,
    engine: Engine,
    dataset: str | os.PathLike[str],
    *,
    mode: str = "new",
    same_machine: bool = False,
    progress: ProgressCallback | None = None,
    begun_s: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> SweepResult:
    """Measures a plan on a started engine.

    Every row is in the journal as soon as it was measured, and in the dataset when this returns or raises,
    Ctrl-C included.

    Args:
        plan: From ``plan_models``.
        engine: Holds no model.
        dataset: The Parquet dataset, or a .csv file.
        mode: ``new``, ``resume`` (measure only what the dataset lacks) or ``append`` (measure all again).
        same_machine: Whether rows of other hardware or engine versions are refused; else they are no repeats.
        progress: Called after each unit.
        begun_s: When the budget's time began, on ``clock``: with the engine's start, say. None: now.
        clock: Reads the time in seconds; a budget is measured with it.

    Raises:
        InputError: The engine cannot do what is planned, no model fits the memory, the dataset is in the way
            or being written.
        EngineError: The engine failed.
        ShunterError: Memory was short while something was measured, or the disk is full.
    """
    begun_s = clock() if begun_s is None else begun_s
    check_output(dataset, mode)
    metered = MeteredEngine(engine, Sensors(plan.device))
    can = metered.capabilities()
    check_levels(plan, can)
    session_id = plan.new_session_id()
    facts = sweep_facts(plan, metered, session_id)
    with Journal(dataset, plan_id=plan.plan_id, session_id=session_id) as journal:
        try:
            rows = earlier_rows(dataset, journal) if mode == "resume" else []
            here = [row for row in rows if not _differing(row, facts)]
            for name, earlier in (pair for row in rows if same_machine for pair in _differing(row, facts)):
                raise InputError("--resume", f"go on where it began: {name} was {earlier}", facts[name])
            known = Measured(plan, kv_save=can.kv_save, rows=here)
            run = SweepRun(plan, metered, facts, journal, known, progress, begun_s=begun_s, clock=clock)
            return run.run()
        finally:
            journal.merge()


def _differing(row: Mapping[str, Any], facts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What a row says of hardware and engine where it is not what this sweep measures on."""
    return [(name, row[name]) for name in _HARDWARE if row[name] != facts[name]]
