"""All that ``shunter profile`` does, as one function: from checkpoints to a dataset."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from shunter.engines.caller.entries import start_engine
from shunter.profiling.cluster.sweep import ClusterResult, run_cluster_sweep
from shunter.profiling.sweep.plan import SweepPlan, SweepSettings
from shunter.profiling.sweep.run import ProgressCallback, SweepResult
from shunter.profiling.sweep.sweep import check_output, plan_models, run_sweep

__all__ = ["profile_models"]


def profile_models(
    models: Sequence[str | os.PathLike[str]],
    *,
    engine: str,
    device: str,
    out: str | os.PathLike[str],
    settings: SweepSettings | None = None,
    names: Sequence[str] = (),
    mode: str = "new",
    python: str | None = None,
    ray: str | None = None,
    on_plan: Callable[[SweepPlan], None] | None = None,
    progress: ProgressCallback | None = None,
) -> SweepResult | ClusterResult:
    """Profiles models on a real engine and writes the dataset.

    Every row is kept as soon as it was measured: after Ctrl-C or a crash, the mode ``resume`` goes on.

    Args:
        models: Paths of GGUF files or Hugging Face folders.
        engine: Name in the engine registry.
        device: As users write it.
        out: The Parquet dataset.
        settings: The grid; None: the default one.
        names: Names of the models in their order; none: as their files are called.
        mode: ``new``, ``resume`` (measure only what the dataset lacks) or ``append`` (measure all again).
        python: Interpreter of the worker; None: this one.
        ray: Address of a Ray cluster among whose devices the sweep is shared; None: this machine.
        on_plan: Called with what will be measured, before anything starts.
        progress: Called after each unit.

    Raises:
        InputError: Something asked for is wrong, or the dataset exists in mode ``new``.
        EngineError: The engine failed; rows measured until then are in the dataset.
    """
    grid = settings or SweepSettings()
    plan = plan_models(models, engine=engine, device=device, settings=grid, names=names)
    check_output(out, mode)
    if on_plan is not None:
        on_plan(plan)
    if ray is not None:
        return run_cluster_sweep(plan, ray, Path(out), mode=mode, python=python, progress=progress)
    begun_s = time.monotonic()
    with start_engine(plan.engine, plan.device.name, python=python) as running:
        return run_sweep(plan, running, out, mode=mode, progress=progress, begun_s=begun_s)
