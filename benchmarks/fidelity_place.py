"""One engine of the fidelity benchmark, stage by stage; what a stage has written it does not do again."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.fidelity_runs import Job, RealRuns
from shunter.agents.base import Policy
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.registry import HEURISTICS, make_policy
from shunter.catalog.models import get_model, scaled_model
from shunter.envs.scenario.library import write_capacity
from shunter.envs.scenario.scenario import load_scenario
from shunter.envs.world.world import World, make_world, with_footprints
from shunter.eval.evaluation import Evaluation
from shunter.eval.execution.order import run_order
from shunter.eval.execution.real import bind_footprints, open_engines
from shunter.eval.execution.runs import simulate
from shunter.eval.fidelity.replay import replay_predicted
from shunter.eval.fidelity.slowed import simulate_slowed
from shunter.eval.metrics.capacity import SEEDS as CAPACITY_SEEDS
from shunter.eval.metrics.capacity import capacity
from shunter.models.performance import PerformanceModel
from shunter.profiling.checkpoints.synthetic import bytes_per_weight, write_checkpoint
from shunter.profiling.dataset.table import read_dataset
from shunter.profiling.profile import profile_models
from shunter.profiling.sweep.plan import SweepSettings
from shunter.train.algorithms import train_policy
from shunter.train.settings import EvolutionSettings

__all__ = ["BASELINES", "LOADS", "PLACES", "Place", "Scale", "Site"]

SIZES_MB = {"small": ("Qwen3-8B", 110), "medium": ("Llama-3-8B", 160), "large": ("Qwen2.5-14B", 250)}
"""Shape and size of the scenarios' models."""

LOADS = (0.5, 0.8)
"""Loads as shares of the capacity; the scenarios' own is the last."""

BASELINES = ("fifo-swap", "lru-keepalive", "pressure-greedy", "exhaustive", "cost-greedy")
"""The learned policy is the sixth."""

CONTENDERS = (
    *(name for name, kind in HEURISTICS.items() if not kind.oracle and name != "random"),
    "cost-greedy:copy_share=0.1",
)
"""As ``shunter scenarios check`` measures capacity."""

FIRST_SEED = 9_000_000
"""Request sequences are drawn from here on; neither training nor the capacity uses them."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Site:
    """What of an engine the scenario file does not say.

    Attributes:
        engine: Name in the engine registry.
        device: The device, without its budget.
        format: Format of the checkpoints.
        quantization: Quantization of the checkpoints.
        levels: Levels to profile.
    """

    engine: str
    device: str
    format: str
    quantization: str
    levels: tuple[str, ...]

    @property
    def scenario(self) -> Path:
        """The committed file."""
        return Path(__file__).parent / "scenarios" / f"fidelity-{self.engine}.yaml"


PLACES = (
    Site("llama-cpp", "loopback:1-threads", "gguf", "Q8_0", ("all", "50%")),
    Site("transformers", "cpu:1-threads", "safetensors", "F32", ("all",)),
)


@dataclass(frozen=True)
class Scale:
    """How much is done on each engine.

    Attributes:
        profile_s: Budget of the sweep; a quarter of it again after the real runs.
        train_s: Time after which training ends.
        real_s: Time that real runs may take.
        requests: Fewest requests of a run.
        most_requests: Most requests of a run.
        repeats: How often the first request sequence is run, for every policy and load.
        capacity_requests: Requests of a run that measures the capacity; None: ``capacity``'s default.
        capacity_seeds: Request sequences of that measurement.
    """

    profile_s: float
    train_s: float
    real_s: float
    requests: int
    most_requests: int
    repeats: int
    capacity_requests: int | None
    capacity_seeds: int


GRID = SweepSettings(
    prompt_tokens=(3, 8, 14, 28, 61, 97),
    decode_tokens=(12,),
    batch=(1, 2, 4),
    cut_tokens=(9, 25, 61),
    context_tokens=192,
    repeats=3,
)
"""Profiled configurations; no evaluated request has the lengths of one."""


class Place:
    """An engine, its folder, and what was made there.

    Args:
        site: The engine.
        folder: Folder of this engine alone; made if need be.
        scale: How much is done.
        policy: A policy file instead of training.
        say: Prints a line.
    """

    def __init__(self, site: Site, folder: Path, scale: Scale, policy: Path | None, say: Say) -> None:
        self.site, self.folder, self.scale, self.say = site, folder, scale, say
        self.given = policy
        self.grid = GRID
        self._compiled: World | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def scenario_file(self) -> Path:
        """The committed file that the place begins with."""
        return self.site.scenario

    def prepare(self, *, learn: bool = True) -> None:
        """Checkpoints, profile, fit, engine's footprints, capacity and, unless told not to, the policy."""
        self._checkpoints()
        self._timed("profile", self._profile)
        self._timed("fit", self._fit)
        self._timed("footprints", self._footprints)
        self._timed("capacity", self._capacity)
        if learn:
            self._timed("policy", self._learn)

    def world(self, load: float | None = None, requests: int | None = None) -> World:
        """The scenario as the engine counts memory.

        Args:
            load: Share of the capacity; None: the scenario's.
            requests: Requests of a run; None: as few as there may be.
        """
        scenario = load_scenario(self.folder / "scenario.yaml")
        if self._compiled is None:
            world = make_world(scenario, PerformanceModel.load(self.folder / "perf"))
            self._compiled = with_footprints(world, np.load(self.folder / "footprints.npy"))
        workload = scenario.workload.model_copy(update={"requests": requests or self.scale.requests})
        scenario = scenario.model_copy(update={"workload": workload})
        world = replace(self._compiled, scenario=scenario)
        return world.at_rate(world.rate_at(load or workload.load or 1.0))

    def policies(self) -> list[Policy]:
        """The baselines, then the learned one."""
        learned = LearnedPolicy.load(self.folder / "policy.safetensors")
        learned.name = "learned"
        return [*map(make_policy, BASELINES), learned]

    def plan(self, policies: Sequence[Policy]) -> tuple[int, list[Job]]:
        """Requests of a run, and real runs in order: as much as the time allows, by simulation.

        The first request sequence is run ``repeats`` times. Where there is time for more, runs become longer,
        up to ``most_requests``; then further sequences are run once.

        Returns:
            The number of requests, and the runs.
        """
        path = self.folder / "plan.json"
        if not path.exists():
            found = self._planned(policies)
            path.write_text(json.dumps([found[0], [vars(job) for job in found[1]]]), encoding="utf-8")
        requests, jobs = json.loads(path.read_text(encoding="utf-8"))
        return int(requests), [Job(**job) for job in jobs]

    def _planned(self, policies: Sequence[Policy]) -> tuple[int, list[Job]]:
        scale = self.scale
        worlds = [self.world(load) for load in LOADS]
        seeds = self._unprofiled(self.world(LOADS[0], scale.most_requests))
        first = next(seeds)
        each_s = _simulated_s(worlds, policies, first)
        growth = scale.real_s / (scale.repeats * each_s)
        requests = int(np.clip(scale.requests * growth // 10 * 10, scale.requests, scale.most_requests))
        each_s *= requests / scale.requests
        rounds = [(first, repeat) for repeat in range(scale.repeats)]
        more = max(0, int((scale.real_s - scale.repeats * each_s) // each_s))
        rounds += [(seed, 0) for seed, _ in zip(seeds, range(more), strict=False)]
        self.say(
            f"{self.site.engine}: {len(rounds)} rounds of {len(policies)} policies at {len(LOADS)} loads, "
            f"{requests} requests a run: about {len(rounds) * each_s:.0f} s by simulation, "
            f"of {scale.real_s:.0f} s planned"
        )
        turns = [
            (turn.round, load, turn)
            for n, load in enumerate(LOADS)
            for turn in run_order(len(policies), sorted(rounds, key=lambda r: (r[1], r[0])), order=n)
        ]
        turns.sort(key=lambda t: t[:2])
        return requests, [Job(load, policies[t.policy].name, t.seed, t.repeat) for _, load, t in turns]

    def _unprofiled(self, world: World) -> Iterator[int]:
        """Seeds of which no request has the lengths of a profiled configuration."""
        profiled = {(p, d) for p in GRID.prompt_tokens for d in GRID.decode_tokens}
        return (seed for seed in count(FIRST_SEED) if not profiled & _lengths(world, seed))

    def evaluations(
        self, requests: int, jobs: Sequence[Job], runs: RealRuns
    ) -> Iterator[tuple[float, Evaluation]]:
        """Each load's simulated and real runs on the same requests."""
        policies = self.policies()
        names, seeds = [p.name for p in policies], list(dict.fromkeys(job.seed for job in jobs))
        for load in dict.fromkeys(job.load for job in jobs):
            world = self.world(load, requests)
            courses = list(runs.courses(world))
            found = Evaluation(world, names, seeds, repeats=self.scale.repeats)
            for policy in policies:
                found.simulated[policy.name] = [simulate(world, policy, seed) for seed in seeds]
                mine = [job for job in jobs if (job.load, job.policy) == (load, policy.name)]
                found.real[policy.name] = [runs.read(world, job) for job in mine]
                found.replays[policy.name] = [
                    replay_predicted(world, world.draw(run.seed), run.log.frame())
                    for run in found.real[policy.name]
                ]
                found.slowed[policy.name] = [
                    run
                    for job in mine
                    for course, stretches in courses
                    if job.file in stretches
                    and (run := simulate_slowed(world, policy, course, stretches[job.file])) is not None
                ]
            yield load, found

    def again(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The profile, and some of its configurations measured again, in a quarter of the time."""

        def measure() -> None:
            self._sweep("again", self.scale.profile_s / 4)

        self._timed("again", measure)
        return read_dataset(self.folder / "profile.parquet"), read_dataset(self.folder / "again.parquet")

    def record(self) -> dict[str, float]:
        """Seconds that each stage took when it was done."""
        path = self.folder / "stages.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}

    def _timed(self, name: str, stage: Callable[[], None]) -> None:
        done = self.record()
        if name in done:
            self.say(f"{self.site.engine}: {name} is there")
            return
        begun_s = time.monotonic()
        stage()
        done[name] = round(time.monotonic() - begun_s, 1)
        (self.folder / "stages.json").write_text(json.dumps(done), encoding="utf-8")
        self.say(f"{self.site.engine}: {name} took {done[name]:.0f} s")

    def _paths(self) -> list[Path]:
        end = ".gguf" if self.site.format == "gguf" else ""
        return [self.folder / "models" / f"{name}{end}" for name in SIZES_MB]

    def _checkpoints(self) -> None:
        if not (self.folder / "scenario.yaml").exists():
            shutil.copy(self.scenario_file, self.folder / "scenario.yaml")
        for path, (like, size_mb) in zip(self._paths(), SIZES_MB.values(), strict=True):
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                params = size_mb * 1e6 / bytes_per_weight(self.site.quantization)
                spec = scaled_model(get_model(like), params)
                write_checkpoint(spec, path, format=self.site.format, quantization=self.site.quantization)

    def _profile(self) -> None:
        self._sweep("profile", self.scale.profile_s)

    def _sweep(self, name: str, budget_s: float) -> None:
        settings = replace(self.grid, gpu_layers=self.site.levels, budget_s=budget_s)
        out = self.folder / f"{name}.parquet"
        out.unlink(missing_ok=True)  # what a killed sweep left is in its journal, which resume reads
        engine, device = self.site.engine, self.site.device
        profile_models(self._paths(), engine=engine, device=device, out=out, settings=settings, mode="resume")

    def _fit(self) -> None:
        frame = read_dataset(self.folder / "profile.parquet")
        PerformanceModel().fit(frame).save(self.folder / "perf")

    def _footprints(self) -> None:
        world = make_world(self.folder / "scenario.yaml", PerformanceModel.load(self.folder / "perf"))
        with open_engines(world) as engines:
            bound = bind_footprints(world, engines)
        np.save(self.folder / "footprints.npy", bound.tables.footprint_bytes)

    def _capacity(self) -> None:
        scale = self.scale
        found = capacity(
            self.world(),
            [make_policy(name) for name in CONTENDERS],
            CAPACITY_SEEDS[: scale.capacity_seeds],
            requests=scale.capacity_requests,
        )
        write_capacity(self.folder / "scenario.yaml", found.rate_per_s)
        self.say(
            f"{self.site.engine}: capacity {found.rate_per_s:.3g} requests/s "
            f"({found.low:.3g} to {found.high:.3g}), by {found.policy}"
        )

    def _learn(self) -> None:
        out = self.folder / "policy.safetensors"
        if self.given is not None:
            shutil.copy(self.given, out)
            return
        train_until(time.monotonic() + self.scale.train_s, [self.world(load) for load in LOADS], out)


def train_until(deadline_s: float, worlds: Sequence[World], out: Path) -> None:
    """Searches a policy until a time on the monotonic clock, with model error drawn from the intervals."""
    settings = EvolutionSettings(minutes=max(0.1, (deadline_s - time.monotonic()) / 60), noise=True)
    train_policy(worlds, settings).policy.save(out)


def _simulated_s(worlds: Sequence[World], policies: Sequence[Policy], seed: int) -> float:
    """How long every policy takes with one request sequence at every load."""
    return sum(simulate(world, policy, seed).makespan_s for world in worlds for policy in policies)


def _lengths(world: World, seed: int) -> set[tuple[int, int]]:
    drawn = world.draw(seed)
    return set(zip(drawn.prompt_tokens.tolist(), drawn.decode_tokens.tolist(), strict=True))
