"""Evaluations of policies in cells, kept in a folder by the content of all that they depend on."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.policy_cells import DRAIN, Cell, cell_world
from shunter.agents.registry import make_policy
from shunter.envs.scenario_objective import Slo
from shunter.envs.world import World
from shunter.eval.batched import Batched, evaluate_batched
from shunter.eval.starvation import waits
from shunter.train.tune_heuristic import task_digest

__all__ = ["Contender", "Figures", "Job", "evaluate", "figures_of", "job_key", "run_all", "source_digest"]

FORMAT = 1
"""Of the figures kept."""

_PACKAGE = Path(__file__).parents[1] / "shunter"

_SOURCES = ("envs/*.py", "agents/*.py", "eval/batched.py", "eval/clairvoyant*.py")
"""What decides how a run goes, besides scenario and policy."""

TOP_SHARE = 0.02
"""Of a seed's waits that are kept, the longest: 20 times what p99.9 needs, for resampling 20 seeds."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Contender:
    """A policy to compare.

    Attributes:
        label: In tables.
        text: As ``make_policy`` reads it.
        digest: Of what the text stands for: of the file's content where it is a file.
        oracle: Whether it sees what no server knows.
        heuristic: Whether it may be the best baseline of a cell.
    """

    label: str
    text: str
    digest: str
    oracle: bool = False
    heuristic: bool = False


@dataclass(frozen=True)
class Figures:
    """What is kept of one policy in one cell.

    Attributes:
        response_s: (S,) mean response of each seed's episode, up to its cut-off where it is unstable.
        stable: (S,) whether the episode drained in time.
        requests: (S,) how many there were.
        top_waits_s: (S,) lists of the longest waits for a first token, descending.
        p99_9_wait_s: Of all seeds' requests together.
        max_wait_s: Likewise.
        waits_s: For each model p99.9 and maximum of its waits.
        slo_attainment: (S,) share of requests that met the SLO; empty where there is none.
        swaps: Per episode.
        preemptions: Per episode.
        time_scale_s: Of the world.
    """

    response_s: tuple[float, ...]
    stable: tuple[bool, ...]
    requests: tuple[int, ...]
    top_waits_s: tuple[tuple[float, ...], ...]
    p99_9_wait_s: float
    max_wait_s: float
    waits_s: dict[str, tuple[float, float]]
    slo_attainment: tuple[float, ...]
    swaps: float
    preemptions: float
    time_scale_s: float

    @property
    def drained(self) -> bool:
        """Whether every episode did."""
        return all(self.stable)

    @property
    def mean_s(self) -> float:
        """Mean response over seeds; infinite if unstable."""
        return float(np.mean(self.response_s)) if self.drained else math.inf


@dataclass(frozen=True)
class Job:
    """One evaluation."""

    cell: Cell
    contender: Contender
    seeds: tuple[int, ...]


def evaluate(job: Job) -> Figures:
    """Runs one policy on all seeds of a cell."""
    world = _world(job.cell, job.seeds)
    return figures_of(evaluate_batched(world, make_policy(job.contender.text), job.seeds), world)


def figures_of(batched: Batched, world: World) -> Figures:
    """What is kept of a batch of episodes."""
    table = waits(batched)
    models = table.drop(index=table.index[-1])
    slo = world.scenario.objective.slo
    ends = list(zip(batched.requests, batched.makespan_s.tolist(), strict=True))
    return Figures(
        response_s=tuple(_response_s(r, end_s) for r, end_s in ends),
        stable=tuple(_drained(r, end_s) for r, end_s in ends),
        requests=tuple(len(r) for r in batched.requests),
        top_waits_s=tuple(_top_waits_s(r, end_s) for r, end_s in ends),
        p99_9_wait_s=float(table.p99_9_s.iloc[-1]),
        max_wait_s=float(table.max_s.iloc[-1]),
        waits_s={str(m): (float(row.p99_9_s), float(row.max_s)) for m, row in models.iterrows()},
        slo_attainment=tuple(_attainment(r, slo) for r in batched.requests) if slo else (),
        swaps=float(np.mean([c["swaps"] for c in batched.counts])),
        preemptions=float(np.mean([c["preemptions"] for c in batched.counts])),
        time_scale_s=world.time_scale_s,
    )


def job_key(job: Job) -> str:
    """Digest of all that an evaluation depends on."""
    text = json.dumps([FORMAT, _cell_digest(job.cell, job.seeds), job.contender.digest, source_digest()])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def run_all(
    jobs: Sequence[Job], folder: Path, *, workers: int = 1, say: Callable[[str], None] = lambda _: None
) -> dict[tuple[Cell, str], Figures]:
    """Evaluates what the folder does not hold yet; each result is written as soon as it is there.

    Args:
        jobs: To do.
        folder: Of earlier results; made if need be.
        workers: Processes.
        say: Is told how far it is.

    Returns:
        By cell and label of the contender.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {job: folder / f"{job_key(job)}.json" for job in jobs}
    found = {job: kept for job, path in paths.items() if (kept := _read(path)) is not None}
    left = [job for job in jobs if job not in found]
    say(f"{len(jobs)} evaluations, {len(found)} of them in {folder}")
    for number, (job, figures) in enumerate(_each(left, workers), 1):
        _write(paths[job], figures)
        found[job] = figures
        if number % 50 == 0 or number == len(left):
            say(f"{number} of {len(left)} evaluations: {job.cell.name}, {job.contender.label}")
    return {(job.cell, job.contender.label): figures for job, figures in found.items()}


def _each(jobs: Sequence[Job], workers: int) -> Iterable[tuple[Job, Figures]]:
    if workers == 1:
        for job in jobs:
            yield job, evaluate(job)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures: dict[Future[Figures], Job] = {pool.submit(evaluate, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()


@lru_cache(maxsize=8)
def _world(cell: Cell, seeds: tuple[int, ...]) -> World:
    return cell_world(cell, seeds)


@cache
def _cell_digest(cell: Cell, seeds: tuple[int, ...]) -> str:
    return task_digest([_world(cell, seeds)], seeds)


@cache
def source_digest() -> str:
    """Of the code that decides how runs go, and of the code of the clairvoyant."""
    digest = hashlib.sha256()
    for pattern in _SOURCES:
        for path in sorted(_PACKAGE.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _read(path: Path) -> Figures | None:
    """What was kept; None if nothing, or not whole."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Figures(**{name: _tuples(value) for name, value in data.items()})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    if isinstance(value, list):
        return tuple(_tuples(one) for one in value)
    if isinstance(value, dict):
        return {name: _tuples(one) for name, one in value.items()}
    return value


def _write(path: Path, figures: Figures) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(asdict(figures)), encoding="utf-8")
    temporary.replace(path)


def _response_s(requests: pd.DataFrame, end_s: float) -> float:
    return float((requests.finish_s.fillna(max(end_s, requests.arrival_s.max())) - requests.arrival_s).mean())


def _drained(requests: pd.DataFrame, end_s: float) -> bool:
    return bool(requests.finish_s.notna().all()) and end_s <= DRAIN * float(requests.arrival_s.max())


def _top_waits_s(requests: pd.DataFrame, end_s: float) -> tuple[float, ...]:
    seen = requests[requests.arrival_s <= end_s]
    wait_s = (seen.first_token_s.fillna(end_s) - seen.arrival_s).sort_values(ascending=False)
    return tuple(float(w) for w in wait_s.iloc[: math.ceil(TOP_SHARE * len(requests))])


def _attainment(requests: pd.DataFrame, slo: Slo) -> float:
    met = requests.finish_s.notna()
    if slo.ttft_s is not None:
        met &= requests.first_token_s - requests.arrival_s <= slo.ttft_s
    if slo.tpot_s is not None:
        steps = (requests.decode_tokens - 1).where(requests.decode_tokens > 1)
        met &= ~((requests.finish_s - requests.first_token_s) / steps > slo.tpot_s)
    return float(met.mean())
