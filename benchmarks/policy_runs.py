"""Evaluations of policies in cells, kept in a folder by the content of all that they depend on."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.policy_cells import DRAIN, Cell, cell_world
from benchmarks.policy_waits import allowed_waits_s
from shunter.agents.registry import make_policy
from shunter.envs.scenario.objective import Slo
from shunter.envs.scenario.scenario import load_scenario
from shunter.envs.world.world import World
from shunter.eval.execution.batched import Batched, evaluate_batched
from shunter.files import write_text
from shunter.train.tune.heuristic import task_digest

__all__ = ["Contender", "Figures", "Job", "Waits", "evaluate", "figures_of", "file_digest", "job_key"]
__all__ += ["longest_waits", "run_all", "source_digest"]

FORMAT = 3
"""Version of the figures that are kept."""

_PACKAGE = Path(__file__).parents[1] / "shunter"

_SOURCES = ("envs/**/*.py", "agents/**/*.py", "eval/execution/batched.py", "eval/bounds/*.py")
"""What decides how a run goes, besides scenario and policy."""

TOP_SHARE = 0.1
"""Share of a seed's waits that are kept, the longest: ten times what p99 needs, for resampling seeds."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Contender:
    """A policy to compare, or one for each scenario.

    Attributes:
        label: Its label in tables.
        text: As ``make_policy`` reads it; or a folder of policy files named after scenarios.
        digest: Digest of what the text stands for: of the file's content where it is a file. Nothing is read
            from a folder for it.
        oracle: Whether it sees what no server knows.
        heuristic: Whether it may be the best baseline of a cell.
        guard: Whether it runs in worlds with their guard on waiting.
        noise: Whether durations differ from the predicted ones, see ``evaluate_batched``.
    """

    label: str
    text: str
    digest: str
    oracle: bool = False
    heuristic: bool = False
    guard: bool = True
    noise: bool = False

    def in_scenario(self, scenario: str) -> Contender:
        """What plays a scenario: the file for it where the text is a folder, otherwise itself."""
        folder = Path(self.text)
        if not folder.is_dir():
            return self
        path = folder / f"{scenario}.safetensors"
        return replace(self, text=str(path), digest=file_digest(path))


def file_digest(path: Path) -> str:
    """Digest of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Waits(NamedTuple):
    """The longest waits for a first token, in seconds; each an observed one.

    Attributes:
        p99_s: Exceeded by 1 % of requests.
        p99_9_s: Exceeded by 0.1 % of requests.
        max_s: Exceeded by no request.
    """

    p99_s: float
    p99_9_s: float
    max_s: float


@dataclass(frozen=True)
class Figures:
    """What is kept of one policy in one cell.

    Attributes:
        response_s: (S,) mean response of each seed's episode, up to its cut-off where it is unstable.
        stable: (S,) whether the episode drained in time.
        requests: (S,) how many there were.
        top_waits_s: (S,) lists of the longest waits for a first token, descending.
        waits: Longest waits of all seeds' requests together.
        model_waits: Longest waits of each model's requests in all seeds.
        allowed_waits_s: For each model the longest wait that the guard leaves possible; inf without one.
        guard_s: The world's guard on waiting; inf without one.
        slo_attainment: (S,) share of requests that met the SLO; empty where there is none.
        swaps: Per episode.
        preemptions: Per episode.
        time_scale_s: The world's unit of time, ``World.time_scale_s``.
    """

    response_s: tuple[float, ...]
    stable: tuple[bool, ...]
    requests: tuple[int, ...]
    top_waits_s: tuple[tuple[float, ...], ...]
    waits: Waits
    model_waits: dict[str, Waits]
    allowed_waits_s: dict[str, float]
    guard_s: float
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

    @property
    def longest(self) -> tuple[str, float]:
        """The model whose request waited longest, and how long in seconds."""
        model = max(self.model_waits, key=lambda name: self.model_waits[name].max_s)
        return model, self.model_waits[model].max_s


@dataclass(frozen=True)
class Job:
    """One evaluation."""

    cell: Cell
    contender: Contender
    seeds: tuple[int, ...]


def evaluate(job: Job) -> Figures:
    """Runs one policy on all seeds of a cell."""
    world = _world(job.cell, job.seeds, job.contender.guard)
    policy = make_policy(job.contender.in_scenario(job.cell.scenario).text)
    return figures_of(evaluate_batched(world, policy, job.seeds, noise=job.contender.noise), world)


def figures_of(batched: Batched, world: World) -> Figures:
    """What is kept of a batch of episodes."""
    runs = [
        _columns(r, end_s) for r, end_s in zip(batched.requests, batched.makespan_s.tolist(), strict=True)
    ]
    waits_s = [run.wait_s[run.arrival_s <= run.end_s] for run in runs]
    models = np.concatenate([run.model[run.arrival_s <= run.end_s] for run in runs])
    pooled_s = np.concatenate(waits_s)
    slo = world.scenario.objective.slo
    tokens = max(int((r.prompt_tokens + r.decode_tokens).max()) for r in batched.requests)
    return Figures(
        response_s=tuple(run.mean_response_s for run in runs),
        stable=tuple(run.drained for run in runs),
        requests=tuple(len(run.wait_s) for run in runs),
        top_waits_s=tuple(_top_s(wait_s, len(run.wait_s)) for wait_s, run in zip(waits_s, runs, strict=True)),
        waits=longest_waits(pooled_s),
        model_waits={str(m): longest_waits(pooled_s[models == m]) for m in np.unique(models)},
        allowed_waits_s=allowed_waits_s(world, tokens),
        guard_s=world.guard_s,
        slo_attainment=tuple(_attainment(r, slo) for r in batched.requests) if slo else (),
        swaps=float(np.mean([c["swaps"] for c in batched.counts])),
        preemptions=float(np.mean([c["preemptions"] for c in batched.counts])),
        time_scale_s=world.time_scale_s,
    )


def longest_waits(wait_s: Floats) -> Waits:
    """The longest of some requests' waits; 0 of none."""
    if not len(wait_s):
        return Waits(0.0, 0.0, 0.0)
    return Waits(*np.quantile(wait_s, [0.99, 0.999, 1.0], method="higher").tolist())


def job_key(job: Job) -> str:
    """Digest of all that an evaluation depends on."""
    world = _cell_digest(job.cell, job.seeds, job.contender.guard)
    contender = job.contender.in_scenario(job.cell.scenario)
    who = [contender.digest, contender.guard, contender.noise]
    text = json.dumps([FORMAT, world, *who, source_digest()])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def run_all(
    jobs: Sequence[Job], folder: Path, *, workers: int = 1, say: Callable[[str], None] = lambda _: None
) -> dict[tuple[Cell, str], Figures]:
    """Evaluates what the folder does not hold yet; each result is written as soon as it is there.

    A scenario's jobs are done together: compiling its world takes longer than most evaluations.

    Args:
        jobs: Evaluations to do.
        folder: Folder of earlier results; made if need be.
        workers: Processes.
        say: Called with a line that says how far it is.

    Returns:
        By cell and label of the contender.
    """
    folder.mkdir(parents=True, exist_ok=True)
    by_scenario: dict[str, list[Job]] = {}
    for job in jobs:
        by_scenario.setdefault(job.cell.scenario, []).append(job)
    parts = sorted(by_scenario.values(), key=_effort, reverse=True)
    found: dict[Job, Figures] = {}
    for part, kept in _each(parts, folder, workers):
        found |= part
        name = next(iter(part)).cell.scenario
        say(f"{len(found)} of {len(jobs)} evaluations: {name}, {kept} of its {len(part)} from {folder}")
    return {(job.cell, job.contender.label): found[job] for job in jobs}


def evaluate_all(jobs: Sequence[Job], folder: Path) -> tuple[dict[Job, Figures], int]:
    """Evaluates what the folder does not hold yet, and says how many it held."""
    found, kept = {}, 0
    for job in jobs:
        path = folder / f"{job_key(job)}.json"
        figures = _read(path)
        kept += figures is not None
        if figures is None:
            figures = evaluate(job)
            write_text(path, json.dumps(asdict(figures)))
        found[job] = figures
    return found, kept


def _effort(jobs: Sequence[Job]) -> int:
    """What a scenario's jobs cost, roughly, so that the longest come first."""
    scenario = load_scenario(jobs[0].cell.scenario)
    return len(jobs) * scenario.workload.requests * len(scenario.models) * len(scenario.devices)


def _each(
    parts: Sequence[Sequence[Job]], folder: Path, workers: int
) -> Iterable[tuple[dict[Job, Figures], int]]:
    if workers == 1:
        yield from (evaluate_all(part, folder) for part in parts)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(evaluate_all, part, folder) for part in parts]
        yield from (future.result() for future in as_completed(futures))


@lru_cache(maxsize=8)
def _world(cell: Cell, seeds: tuple[int, ...], guard: bool = True) -> World:
    world = cell_world(cell, seeds)
    return world if guard else world.with_guard(None)


@cache
def _cell_digest(cell: Cell, seeds: tuple[int, ...], guard: bool) -> str:
    return task_digest([_world(cell, seeds, guard)], seeds)


@cache
def source_digest() -> str:
    """Digest of the code that decides how runs go, and of the code of the clairvoyant."""
    digest = hashlib.sha256()
    for path in source_files():
        digest.update(path.read_bytes())
    return digest.hexdigest()


def source_files() -> list[Path]:
    """The files of that code."""
    return sorted(path for pattern in _SOURCES for path in _PACKAGE.glob(pattern))


def _read(path: Path) -> Figures | None:
    """What was kept; None if nothing, or not whole."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        figures = Figures(**{name: _tuples(value) for name, value in data.items()})
        model_waits = {model: Waits(*waits) for model, waits in figures.model_waits.items()}
        return replace(figures, waits=Waits(*figures.waits), model_waits=model_waits)
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    if isinstance(value, list):
        return tuple(_tuples(one) for one in value)
    if isinstance(value, dict):
        return {name: _tuples(one) for name, one in value.items()}
    return value


class _Columns(NamedTuple):
    """An episode's requests, and when it ended."""

    model: NDArray[Any]
    arrival_s: Floats
    first_token_s: Floats
    finish_s: Floats
    end_s: float

    @property
    def wait_s(self) -> Floats:
        """(N,) wait of each request for its first token, until the end where it had none."""
        return np.where(np.isnan(self.first_token_s), self.end_s, self.first_token_s) - self.arrival_s

    @property
    def mean_response_s(self) -> float:
        """Who was not served left at the end."""
        end_s = max(self.end_s, float(self.arrival_s.max()))
        return float((np.where(np.isnan(self.finish_s), end_s, self.finish_s) - self.arrival_s).mean())

    @property
    def drained(self) -> bool:
        """Whether everyone was served in time."""
        return not np.isnan(self.finish_s).any() and self.end_s <= DRAIN * float(self.arrival_s.max())


def _columns(requests: pd.DataFrame, end_s: float) -> _Columns:
    times_s = requests[["arrival_s", "first_token_s", "finish_s"]].to_numpy(np.float64).T
    return _Columns(requests["model"].to_numpy(str), times_s[0], times_s[1], times_s[2], end_s)


def _top_s(wait_s: Floats, requests: int) -> tuple[float, ...]:
    """The longest waits, descending."""
    return tuple(np.sort(wait_s)[::-1][: math.ceil(TOP_SHARE * requests)].tolist())


def _attainment(requests: pd.DataFrame, slo: Slo) -> float:
    met = requests.finish_s.notna()
    if slo.ttft_s is not None:
        met &= requests.first_token_s - requests.arrival_s <= slo.ttft_s
    if slo.tpot_s is not None:
        steps = (requests.decode_tokens - 1).where(requests.decode_tokens > 1)
        met &= ~((requests.finish_s - requests.first_token_s) / steps > slo.tpot_s)
    return float(met.mean())
