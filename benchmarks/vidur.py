"""Vidur and our simulator on the same requests, one model on one device: requests per second of one core.

Vidur (MIT licence) lives in an environment of its own, ``pip install vidur==0.0.26``, whose interpreter is
named by the variable ``VIDUR_PYTHON``. What is compared differs in granularity: Vidur forms a batch for every
token, ours decides once for a quantum of up to 32 of them, and knows models that come and go, which Vidur
does not. The figures say what an episode of training costs in each, not that one is the better Vidur.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from benchmarks.form import Row, main, reported
from benchmarks.sim_speed import Runner
from benchmarks.sim_worlds import synthetic_world
from shunter.envs.scenario.workload import Replay, Workload
from shunter.envs.workload.traces import read_trace, write_trace
from shunter.envs.world.world import World

VARIABLE = "VIDUR_PYTHON"
TRACE = "azure2023_conv.csv.gz"
RATE_PER_S, BATCH, CONTEXT_TOKENS = 2.0, 8, 4096
TIMEOUT_S = 900


class VidurError(Exception):
    """Vidur did not run."""


def write_requests(count: int, path: Path) -> None:
    """The first requests of Azure's conversation trace, slowed down, in Vidur's three columns.

    Args:
        count: How many requests to write.
        path: CSV to write, as ``shunter workload convert --to vidur`` would.
    """
    frame = read_trace(Path(str(files("shunter.data"))) / TRACE).frame.head(count).copy()
    longest = (CONTEXT_TOKENS - frame["decode_tokens"]).clip(lower=1)
    frame["prompt_tokens"] = frame["prompt_tokens"].clip(upper=longest)
    since = frame["arrival_s"] - frame["arrival_s"].iloc[0]
    frame["arrival_s"] = since * (count / RATE_PER_S / since.iloc[-1])
    write_trace(frame, path, format="vidur")


def our_world(trace: Path, count: int) -> World:
    """One model, resident once loaded, that serves the trace."""
    world = synthetic_world(1, rate_per_s=RATE_PER_S, requests=count, max_batch=BATCH)
    workload = Workload(requests=count, rate_per_s=RATE_PER_S, replay=Replay(file=trace, names={}))
    return replace(world, scenario=world.scenario.model_copy(update={"workload": workload}))


def ours(world: World, environments: int, seconds: float) -> float:
    """Requests per second of CPU time, one thread, observations and cost-greedy included."""
    runner = Runner(world, environments)
    runner.run(200)
    before, begun_s = runner.taken(), time.process_time()
    while time.process_time() - begun_s < seconds:
        runner.run(200)
    return (runner.taken() - before) / (time.process_time() - begun_s)


def theirs(trace: Path, python: str) -> dict[str, float]:
    """What Vidur reports of the trace.

    Raises:
        VidurError: The interpreter is not there or has no Vidur, or the simulation failed.
    """
    script = Path(__file__).with_name("vidur_inside.py")
    environment = {**os.environ, "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [python, "-I", str(script), str(trace)],  # isolated: this module must not pass for Vidur itself
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VidurError(str(error)) from error
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    if done.returncode != 0:
        raise VidurError(lines[-1] if lines else f"exit code {done.returncode}")
    result: dict[str, float] = json.loads(lines[-1])
    return result


def vidur_rows(trace: Path, batched: float, python: str | None) -> list[Row]:
    """Vidur's figure and the ratio, or why there are none."""
    metric = "requests per second and core, Vidur 0.0.26"
    missing: dict[str, Any] = {"value": None, "unit": "1/s", "bar": "runs", "ok": False}
    if not python:
        return [Row(metric, note=f"not installed: set {VARIABLE} to an interpreter that has it", **missing)]
    try:
        result = theirs(trace, python)
    except VidurError as error:
        return [Row(metric, note=f"did not run: {error}", **missing)]
    per_s = result["requests"] / result["cpu_s"]
    note = (
        f"{result['requests']:.0f} requests, batches of at most {BATCH}, formed for every token; native "
        "predictor, metrics off; its duration tables are filled by a formula instead of downloaded"
    )
    return [
        Row(metric, per_s, "1/s", bar="runs", ok=True, note=note),
        reported("ours, batched, over Vidur", batched / per_s, note="granularity differs: see --help"),
    ]


def run(quick: bool) -> list[Row]:
    """Measures both, one after the other."""
    count, seconds = (300, 2.0) if quick else (2000, 10.0)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.csv"
        write_requests(count, trace)
        world = our_world(trace, count)
        batched, single = (ours(world, environments, seconds) for environments in (256, 1))
        note = f"the same requests, {RATE_PER_S:g}/s, quanta of at most 32 steps; cost-greedy decides"
        return [
            reported("requests per second and core, ours, 256 environments", batched, "1/s", note=note),
            reported("requests per second and core, ours, 1 environment", single, "1/s", note=note),
            *vidur_rows(trace, batched, os.environ.get(VARIABLE)),
        ]


if __name__ == "__main__":
    raise SystemExit(main("vidur", run, __doc__ or ""))
