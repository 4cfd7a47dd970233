"""How far profiling can be trusted: what it costs itself, its noise floor, and what ten minutes of it give.

``python -m benchmarks.profiling [--quick] --json PATH``; a full run takes about 20 minutes on 2 idle cores.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from benchmarks.form import Row, at_most, main, reported
from shunter.catalog.models import get_model, scaled_model
from shunter.engines.base import Engine
from shunter.engines.caller.client import start_engine
from shunter.models.performance import PerformanceModel
from shunter.profiling.checkpoints.synthetic import bytes_per_weight, write_checkpoint
from shunter.profiling.dataset.table import read_dataset
from shunter.profiling.meters.conditions import Sensors
from shunter.profiling.meters.metered import MeteredEngine
from shunter.profiling.sweep.measure import GroupRun, sweep_facts
from shunter.profiling.sweep.plan import SweepPlan, SweepSettings
from shunter.profiling.sweep.sweep import SweepProgress, plan_models, run_sweep
from shunter.uncertainty import bootstrap

__all__ = ["curve_difference", "error_rows", "interleaved", "overhead_row", "own_sweeps", "run"]

_LIKE = "Qwen3-8B"
_BARS = {
    "decode_step_s": ("decode", 0.03),
    "prefill_s": ("prefill", 0.05),
    "load_s": ("load", 0.08),
    "kv_save_s": ("kv_save", 0.10),
    "kv_restore_s": ("kv_restore", 0.10),
}
"""Operation and bar of each target: the errors that ``fit`` is to reach, unless twice the noise is more."""

_LINE_EVERY_S = 15.0
_console = Console()


@dataclass(frozen=True)
class _Place:
    """An engine on a device, and the checkpoints it reads.

    Attributes:
        engine: Name in the engine registry.
        device: As users write it.
        format: Format of its checkpoints.
        quantization: Quantization of the checkpoints' weights.
        levels: gpu_layers among which a budget picks.
    """

    engine: str
    device: str
    format: str
    quantization: str
    levels: tuple[str, ...]


_LOOPBACK = _Place("llama-cpp", "loopback:1-threads", "gguf", "F16", ("0", "50%", "all"))
_PLACES = (_Place("transformers", "cpu:1-threads", "safetensors", "F32", ("all",)), _LOOPBACK)


@dataclass(frozen=True)
class _Scale:
    """How much is measured.

    Attributes:
        sizes_mb: Weights of the three models.
        overhead: Grid whose overhead is measured.
        noise: Grid of the decode curve that is compared with itself.
        grid: The grid that a budget picks from.
        budget_s: Budget of each engine; None: all of the grid.
    """

    sizes_mb: tuple[int, ...]
    overhead: SweepSettings
    noise: SweepSettings
    grid: SweepSettings
    budget_s: float | None


_FULL = _Scale(
    sizes_mb=(60, 120, 240),
    overhead=SweepSettings(prompt_tokens=(16, 32, 64, 128, 256), repeats=2),
    noise=SweepSettings(
        gpu_layers=("0", "25%", "50%", "75%", "all"),
        prompt_tokens=(16, 64, 128),
        batch=(1,),
        cut_tokens=(),
        repeats=5,
    ),
    grid=SweepSettings(prompt_tokens=(16, 64, 128, 256), batch=(1, 2, 4), cut_tokens=(32, 128, 256)),
    budget_s=300,
)
_QUICK = _Scale(
    sizes_mb=(10, 15, 20),
    overhead=replace(_FULL.overhead, prompt_tokens=(16, 64), decode_tokens=(16,), batch=(1, 2), repeats=1),
    noise=replace(_FULL.noise, gpu_layers=("0", "50%", "all"), prompt_tokens=(16,), repeats=2),
    grid=replace(_FULL.grid, prompt_tokens=(16, 64), decode_tokens=(16,), batch=(1, 2)),
    budget_s=30,
)
# A budget of half a minute holds no repeats on a busy machine, and without them no noise is known.
_SMALL = replace(
    _QUICK,
    grid=replace(_QUICK.grid, prompt_tokens=(16, 32, 64), cut_tokens=(16, 64), repeats=2),
    budget_s=None,
)


def run(quick: bool) -> list[Row]:
    """Measures everything; checkpoints and datasets are temporary."""
    scale = _QUICK if quick else _FULL
    with tempfile.TemporaryDirectory(prefix="shunter-bench-") as folder:
        work = Path(folder)
        models = {place: _checkpoints(place, scale, work) for place in _PLACES}
        rows = [_measured_overhead(place, scale, models[place], work) for place in _PLACES]
        rows += _measured_noise(scale, models[_LOOPBACK])
        for place in _PLACES:
            rows += _measured_budget(place, scale, models[place], work)
    return rows


def own_sweeps(*, quick: bool) -> dict[str, pd.DataFrame]:
    """Sweeps of three models on each engine, by its name; checkpoints and datasets are temporary.

    Args:
        quick: All of a small grid, twice; else what the budget of ``run`` holds.
    """
    scale = _SMALL if quick else _FULL
    with tempfile.TemporaryDirectory(prefix="shunter-bench-") as folder:
        work = Path(folder)
        models = {place: _checkpoints(place, scale, work) for place in _PLACES}
        return {place.engine: _swept(place, scale, models[place], work)[0] for place in _PLACES}


def overhead_row(engine: str, *, engine_s: float, wall_s: float, configurations: int) -> Row:
    """Judges the profiling overhead.

    Args:
        engine: Its name.
        engine_s: Time in warm-up and measured engine calls.
        wall_s: Time from before the engine's process is started until it has ended.
        configurations: Distinct configurations measured.
    """
    metric = f"profiling overhead, {engine}, sweep of {configurations} cells"
    note = f"1 - {engine_s:.1f} s in engine calls / {wall_s:.1f} s; process starts are overhead"
    return at_most(Row(metric, 1 - engine_s / wall_s, note=note), 0.10)


def interleaved(engine: Engine, plan: SweepPlan, *, say: Callable[[str], None]) -> pd.DataFrame:
    """Runs a plan's decodes twice, the two sweeps taking turns at each configuration, in random order.

    Args:
        engine: Without residents.
        plan: Its swaps are left out.
        say: Called with a line after each group.

    Returns:
        Columns ``sweep`` (A or B), ``cell_id`` and ``duration_s`` of a step; a row per decode.
    """
    metered = MeteredEngine(engine, Sensors(plan.device))
    facts = sweep_facts(plan, metered, "interleaved")
    rng = np.random.default_rng(plan.settings.seed)
    rows: list[dict[str, Any]] = []
    for done, group in enumerate(plan.groups, 1):
        recorded: list[dict[str, Any]] = []
        with GroupRun(metered, plan, group, facts, recorded.append).resident() as resident:
            for unit in (unit for unit in group.units if unit.kind == "run"):
                for sweep in rng.permutation(["A", "B"]):
                    recorded.clear()
                    resident.measure(unit)
                    rows += [{**row, "sweep": str(sweep)} for row in recorded if row["operation"] == "decode"]
        say(f"noise floor: {done} of {len(plan.groups)} loads")
    return pd.DataFrame(rows)[["sweep", "cell_id", "duration_s"]]


def curve_difference(rows: pd.DataFrame) -> tuple[float, tuple[float, float], int]:
    """How much two sweeps of the same configurations differ.

    Args:
        rows: From ``interleaved``.

    Returns:
        The median over configurations of abs(B / A - 1), A and B the medians of its repeats; its 95 %
        bootstrap interval; the number of configurations.
    """
    medians = rows.groupby(["cell_id", "sweep"])["duration_s"].median().unstack()
    differences = (medians["B"] / medians["A"] - 1).abs().to_numpy()
    if np.ptp(differences) == 0:
        return float(differences[0]), (float(differences[0]), float(differences[0])), len(differences)
    found = bootstrap(differences[:, None], lambda drawn: np.median(drawn[..., 0], axis=1), resamples=9999)
    return found.value, (found.low, found.high), len(differences)


def error_rows(engine: str, frame: pd.DataFrame) -> list[Row]:
    """Judges the errors of a fit on held-out configurations, beside the noise of the same dataset.

    Args:
        engine: Its name.
        frame: Dataset of one engine and device.
    """
    cv = PerformanceModel().fit(frame).cv
    rows = []
    for target, (operation, bar) in _BARS.items():
        metric = f"held-out cells' mean error, {engine}, {operation}"
        errors = cv[target].held_out_cells if target in cv else None
        noise = _noise(frame[frame["operation"] == operation])
        if errors is None:
            rows.append(at_most(Row(metric, None, note="too few cells"), bar))
            continue
        note = f"{errors.cells} cells, {errors.rows} rows, median {errors.median_ape:.1%}; " + (
            f"repeats differ by {noise:.1%}" if noise is not None else "no cell was repeated"
        )
        rows.append(at_most(Row(metric, errors.mape, note=note), round(max(bar, 2 * (noise or 0)), 4)))
    return rows


def _noise(rows: pd.DataFrame) -> float | None:
    """Mean of abs(duration / its configuration's median - 1) over those with repeats; None without any."""
    repeated = rows[rows.groupby("cell_id")["duration_s"].transform("size") > 1]
    if repeated.empty:
        return None
    median = repeated.groupby("cell_id")["duration_s"].transform("median")
    return float((repeated["duration_s"] / median - 1).abs().mean())


def _checkpoints(place: _Place, scale: _Scale, work: Path) -> list[Path]:
    base, paths = get_model(_LIKE), []
    for size_mb in scale.sizes_mb:
        name = f"m{size_mb}"
        path = work / (f"{name}.gguf" if place.format == "gguf" else name)
        spec = scaled_model(base, size_mb * 1e6 / bytes_per_weight(place.quantization))
        _say(f"writing {size_mb} MB for {place.engine}")
        write_checkpoint(spec, path, format=place.format, quantization=place.quantization)
        paths.append(path)
    return paths


def _measured_overhead(place: _Place, scale: _Scale, models: Sequence[Path], work: Path) -> Row:
    out = work / f"overhead-{place.engine}.parquet"
    start_s = time.monotonic()
    plan = plan_models(models, engine=place.engine, device=place.device, settings=scale.overhead)
    with start_engine(place.engine, place.device) as engine:
        result = run_sweep(plan, engine, out, progress=_progress(f"overhead, {place.engine}"))
    wall_s = time.monotonic() - start_s
    configurations = read_dataset(out)["cell_id"].nunique()
    return overhead_row(place.engine, engine_s=result.engine_s, wall_s=wall_s, configurations=configurations)


def _measured_noise(scale: _Scale, models: Sequence[Path]) -> list[Row]:
    plan = plan_models(models[1:2], engine=_LOOPBACK.engine, device=_LOOPBACK.device, settings=scale.noise)
    with start_engine(_LOOPBACK.engine, _LOOPBACK.device) as engine:
        rows = interleaved(engine, plan, say=_say)
    difference, interval, configurations = curve_difference(rows)
    metric = "noise floor: the loopback device's decode curve against itself, median over cells"
    note = f"{configurations} cells, {scale.noise.repeats} repeats in each of two sweeps that take turns"
    single = _noise(rows.assign(cell_id=rows["cell_id"] + rows["sweep"]))
    return [
        at_most(Row(metric, difference, interval=interval, note=note), 0.10),
        reported("repeats of a decode cell against their median, mean", single),
    ]


def _measured_budget(place: _Place, scale: _Scale, models: Sequence[Path], work: Path) -> list[Row]:
    frame, wall_s = _swept(place, scale, models, work)
    metric = f"sweep of {len(models)} models with a budget of {scale.budget_s} s, {place.engine}"
    note = "with the engine's start, which the budget pays for"
    return [reported(metric, wall_s, "s", note=note), *error_rows(place.engine, frame)]


def _swept(place: _Place, scale: _Scale, models: Sequence[Path], work: Path) -> tuple[pd.DataFrame, float]:
    """The dataset of a sweep within the budget, and how long it took."""
    settings = replace(scale.grid, gpu_layers=place.levels, budget_s=scale.budget_s)
    out = work / f"budget-{place.engine}.parquet"
    start_s = time.monotonic()
    plan = plan_models(models, engine=place.engine, device=place.device, settings=settings)
    with start_engine(place.engine, place.device) as engine:
        run_sweep(plan, engine, out, progress=_progress(f"budget, {place.engine}"), begun_s=start_s)
    return read_dataset(out), time.monotonic() - start_s


def _progress(what: str) -> Callable[[SweepProgress], None]:
    last_s = time.monotonic()

    def line(p: SweepProgress) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= _LINE_EVERY_S:
            last_s = time.monotonic()
            _say(f"{what}: {p.units_done}/{p.units} units, {p.rows} rows, {p.eta_s:.0f} s to go")

    return line


def _say(line: str) -> None:
    _console.print(f"{time.strftime('%H:%M:%S')} {line}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main("profiling", run, "What profiling costs, its noise floor, and what a budget gives."))
