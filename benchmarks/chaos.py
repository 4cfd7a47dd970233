"""A hundred random kills of real engines: is any request lost or answered twice, and is anything left behind?

llama.cpp on two loopback devices of different sizes, in worker processes, each with a process of its own for
the device. Before every operation it is drawn whether one of its processes is killed in the middle of
it, and which. Runs follow each other, each on engines of its own, until so many were killed.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.form import Row, at_most, main, reported
from shunter.agents.registry import make_policy
from shunter.catalog.models import get_model, scaled_model
from shunter.envs.scenario.scenario import Scenario
from shunter.envs.world.world import World, make_world
from shunter.eval.execution.faults.chaos import Chaos
from shunter.eval.execution.memory import tree_pss_bytes
from shunter.eval.execution.real import bind_footprints, open_engines, run_real
from shunter.eval.execution.runs import Run
from shunter.models.performance import PerformanceModel
from shunter.profiling.checkpoints.synthetic import write_checkpoint
from shunter.profiling.dataset.table import read_dataset
from shunter.profiling.profile import profile_models
from shunter.profiling.sweep.plan import SweepSettings

__all__ = ["answers", "chaos_rows", "run"]

SIZES = {"small": 6e6, "medium": 12e6, "large": 20e6}
DEVICES = ("loopback:1-threads-500MB", "loopback:1-threads-400MB")
DEFAULT_POLICIES = ("fifo-swap", "lru-keepalive", "cost-greedy")
KILL = 0.25
"""Chance per operation."""
BAR_BYTES = 20e6


def answers(runs: Sequence[Run]) -> tuple[int, int, int]:
    """How many requests were lost (neither answered nor given up), answered more than once, and given up."""
    lost = twice = given_up = 0
    for run in runs:
        rows = run.log.frame()
        finished = rows[["request_ids", "finish_s"]].explode(["request_ids", "finish_s"]).dropna()
        times = Counter(finished.request_ids.tolist())
        failed = {i for failure in run.failures for i in failure.failed}
        lost += sum(i not in times and i not in failed for i in run.requests.request_id)
        twice += sum(count > 1 for count in times.values()) + sum(i in times for i in failed)
        given_up += len(failed)
    return lost, twice, given_up


def chaos_rows(runs: Sequence[Run], *, children: int, grown_bytes: float) -> list[Row]:
    """The rows of these runs."""
    lost, twice, given_up = answers(runs)
    failures = [failure for run in runs for failure in run.failures]
    kinds = Counter(failure.fault.kind for failure in failures)
    restart_s = sum(failure.fault.restart_s for failure in failures) / max(1, len(failures))
    requests = sum(len(run.requests) for run in runs)
    note = f"{requests} requests in {len(runs)} runs; {dict(kinds)}"
    return [
        reported("failures of engines", float(len(failures)), note=note),
        at_most(Row("requests lost", float(lost)), 0),
        at_most(Row("requests answered twice", float(twice)), 0),
        reported("requests given up, with a reason", float(given_up)),
        at_most(Row("child processes left", float(children)), 0),
        at_most(Row("PSS of the process tree, after - before", grown_bytes / 1e6, "MB"), BAR_BYTES / 1e6),
        reported("mean time to start an engine again", restart_s, "s"),
    ]


def run(quick: bool) -> list[Row]:
    """Kills a hundred engines, or ten."""
    kills = 10 if quick else 100
    with tempfile.TemporaryDirectory() as folder:
        world = _world(Path(folder))
        _killed_runs(world, 1, first_seed=10_000)  # what a first failure compiles stays in memory
        before_bytes = tree_pss_bytes()
        runs = _killed_runs(world, kills)
        children = len(psutil.Process().children(recursive=True))
        return chaos_rows(runs, children=children, grown_bytes=tree_pss_bytes() - before_bytes)


def _killed_runs(world: World, kills: int, first_seed: int = 0) -> list[Run]:
    runs: list[Run] = []
    while sum(len(run.failures) for run in runs) < kills:
        seed = first_seed + len(runs)
        policy = make_policy(DEFAULT_POLICIES[len(runs) % len(DEFAULT_POLICIES)])
        with open_engines(world, chaos=Chaos(kill=KILL, seed=seed)) as device_executors:
            runs.append(run_real(bind_footprints(world, device_executors), policy, seed, device_executors))
        killed = sum(len(run.failures) for run in runs)
        print(f"{len(runs)} runs, {killed} of {kills} failures", file=sys.stderr, flush=True)
    return runs


def _world(folder: Path) -> World:
    """Profiles three models on the device, and puts them under load on two of them."""
    paths = {name: folder / f"{name}.gguf" for name in SIZES}
    for name, params in SIZES.items():
        spec = scaled_model(get_model("Qwen3-8B"), params)
        write_checkpoint(spec, paths[name], format="gguf", quantization="Q8_0")
    settings = SweepSettings(
        gpu_layers=("all", "50%"), prompt_tokens=(16, 64), decode_tokens=(8,), repeats=1, context_tokens=256
    )
    out, device = folder / "profile.parquet", DEVICES[0].rpartition("-")[0]
    profile_models(list(paths.values()), engine="llama-cpp", device=device, out=out, settings=settings)
    data: dict[str, Any] = {
        "name": "chaos",
        "engine": "llama-cpp",
        "models": [{"name": n, "checkpoint": str(p), "levels": ["all", "50%"]} for n, p in paths.items()],
        "devices": [{"name": f"d{i}", "device": text} for i, text in enumerate(DEVICES)],
        "workload": {"requests": 60, "load": 0.7, "prompt_scale": 0.05, "decode_scale": 0.1},
        "limits": {"context_tokens": 256},
    }
    return make_world(Scenario.parse(data), PerformanceModel().fit(read_dataset(out)))


if __name__ == "__main__":
    sys.exit(main("chaos", run, "Random kills of real engines: nothing lost, nothing left."))
