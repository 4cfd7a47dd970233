"""Several policies on the same requests, simulated and - if engines are given - real, beside each other."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from shunter.agents.base import Policy
from shunter.envs.world.world import World, with_absolute_paths
from shunter.errors import InputError
from shunter.eval.budgets import budgets
from shunter.eval.execution.course import MachineCourse, watched
from shunter.eval.execution.device_executor import DeviceExecutor
from shunter.eval.execution.event_log import EventLog
from shunter.eval.execution.faults.failure_log import failure_rows
from shunter.eval.execution.order import Turn, run_order
from shunter.eval.execution.real import bind_footprints, run_real
from shunter.eval.execution.runs import BrokenRun, InterruptedRun, Run, as_repeat, simulate
from shunter.eval.execution.slowdowns import Slowdowns
from shunter.eval.fidelity.gap import Fidelity, fidelity, same_seeds
from shunter.eval.fidelity.replay import Replayed, replay_predicted
from shunter.eval.fidelity.slowed import simulate_slowed
from shunter.eval.metrics.changes import (
    RESOLUTION,
    TYPICAL_SPREAD,
    interleaved_change,
    paired_change,
    run_spread,
    runs_needed,
)
from shunter.eval.metrics.metrics import (
    DEFINITIONS,
    ILLEGAL,
    illegal_share,
    metric_names,
    overhead_share,
    summarize,
)
from shunter.eval.metrics.policies import policy_statistics
from shunter.eval.metrics.starvation import waits
from shunter.files import finite
from shunter.jobs import Job, Report, Runner

__all__ = ["Evaluation", "evaluate"]

OnProgress = Callable[[str, int, int], None]
"""Called with what is running, finished requests, and requests in all."""


@dataclass
class Evaluation:
    """What came of it; complete unless ``interrupted``.

    Attributes:
        world: The compiled scenario.
        policies: Names, in the order given; changes are relative to the first.
        seeds: Workload seeds, the same for every policy.
        simulated: Runs by policy, in order of seeds.
        real: Real runs by policy, all seeds of a repeat before the next; empty if no engines were given.
        replays: The real runs' decisions with predicted durations, in the same order.
        interrupted: Whether Ctrl-C cut it short.
        broken: What ended it: an engine that failed and could not be started again.
        partial: The real run that was under way then; its events and failures count, its figures do not.
        repeats: How often each policy ran each seed for real.
        follow: Whether predicted durations followed the machine: in real runs, or on a simulated slower one.
        order: The plan of the real runs, in order; policies by index.
        course: The machine while they went on.
        slowdowns: How fast the machine was that simulated runs were made on; None: as predicted.
        slowed: For each real run the simulated one at the speed that the sentinel saw around it.
        predicted: The scenario before engines were asked what models take; None: it is ``world``.
    """

    world: World
    policies: list[str]
    seeds: list[int]
    simulated: dict[str, list[Run]] = field(default_factory=dict)
    real: dict[str, list[Run]] = field(default_factory=dict)
    replays: dict[str, list[Replayed]] = field(default_factory=dict)
    interrupted: bool = False
    broken: BrokenRun | None = None
    partial: Run | None = None
    repeats: int = 1
    follow: bool = False
    order: list[Turn] = field(default_factory=list)
    course: MachineCourse | None = None
    slowed: dict[str, list[Run]] = field(default_factory=dict)
    slowdowns: Slowdowns | None = None
    predicted: World | None = None
    _compared: tuple[int, Fidelity] | None = field(default=None, repr=False)

    def logs(self) -> list[EventLog]:
        """Event logs of all runs."""
        return [run.log for runs in self.simulated.values() for run in runs] + [r.log for r in self.real_runs]

    @property
    def real_runs(self) -> list[Run]:
        """All of them, the one that was cut short included."""
        partial = [] if self.partial is None else [self.partial]
        return [*(run for runs in self.real.values() for run in runs), *partial]

    def error(self, policy: str, metric: str) -> float:
        """(simulated - real) / real of a metric on the same requests; NaN where real is 0 or missing."""
        return self._error(policy, metric, same_seeds(self.simulated[policy], self.real[policy]))

    def _error(self, policy: str, metric: str, simulated: Sequence[Run]) -> float:
        real, predicted = summarize(self.real[policy])[metric], summarize(simulated)[metric]
        return (predicted - real) / real if real else math.nan

    def error_split(self, policy: str) -> dict[str, float | int]:
        """The error in mean response, split by replaying the real decisions with predicted durations.

        Returns:
            ``durations``: what the performance model's durations make of it; ``decisions``: what deciding
            differently adds, both relative to real; and how many of the logged ``decisions_logged`` the
            replay had to pass over (``infeasible``) or make itself (``missing``).
        """
        real, replays = self.real[policy], self.replays[policy]
        measured_s = summarize(real)["response_mean_s"]
        replayed_s = summarize([replay.run for replay in replays])["response_mean_s"]
        durations = (replayed_s - measured_s) / measured_s
        return {
            "durations": durations,
            "decisions": self.error(policy, "response_mean_s") - durations,
            "decisions_logged": sum(len(run.log.rows) for run in real),
            "infeasible": sum(replay.infeasible for replay in replays),
            "missing": sum(replay.missing for replay in replays),
        }

    def fidelity(self) -> Fidelity:
        """Simulation beside reality, and reality beside itself; computed anew once there are more runs."""
        count = len(self.logs())
        if self._compared is None or self._compared[0] != count:
            self._compared = count, fidelity(self.simulated, self.real)
        return self._compared[1]

    def to_dict(self) -> dict[str, Any]:
        """Everything that the tables show, as plain data."""
        scenario = self.world.scenario
        compared = self.fidelity()
        found: dict[str, Any] = {}
        if self.real:
            found = {"fidelity": compared.to_dict(), "real_runs": self._runs_dict()}
            found |= {} if self.course is None else {"machine": self.course.to_dict(self.policies)}
        return {
            "scenario": scenario.model_dump(mode="json"),
            "rate_per_s": self.world.rate_per_s,
            "time_scale_s": self.world.time_scale_s,
            "interpolation_error": self.world.interpolation_error,
            "seeds": self.seeds,
            "slowdowns": None if self.slowdowns is None else self.slowdowns.words,
            "interrupted": self.interrupted,
            "broken": None if self.broken is None else str(self.broken),
            "partial": None if self.partial is None else self.partial.log.run["run_id"],
            "failures": failure_rows(self.real_runs),
            "repeats": self.repeats,
            "metrics": {**metric_names(scenario.objective), **(ILLEGAL if self._any_illegal() else {})},
            "definitions": DEFINITIONS,
            "budgets": [asdict(budget) for budget in budgets(self.world, self.predicted or self.world)],
            "changes_against": self.policies[0],
            "policies": {
                name: self._policy_dict(name, compared) for name in self.policies if name in self.simulated
            },
            **found,
        }

    def _runs_dict(self) -> dict[str, Any]:
        """How real runs were interleaved, and how many tell a difference of ``RESOLUTION``."""
        complete = [runs for runs in self.real.values() if {r.seed for r in runs} == set(self.seeds)]
        spread = run_spread(complete) if complete else math.nan
        return {
            "follow": self.follow,
            "rounds": min(len(self.real.get(name, [])) for name in self.policies),
            "spread": spread if math.isfinite(spread) else None,
            "resolution": RESOLUTION,
            "runs_needed": runs_needed(spread if math.isfinite(spread) else TYPICAL_SPREAD),
            "order": [{**asdict(turn), "policy": self.policies[turn.policy]} for turn in self.order],
        }

    def _any_illegal(self) -> bool:
        """Whether any policy chose illegally in any run."""
        all_runs = [*self.simulated.values(), *self.real.values()]
        return any(illegal_share(runs) > 0 for runs in all_runs)

    def _policy_dict(self, name: str, compared: Fidelity) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for kind, runs in (("simulated", self.simulated), ("real", self.real)):
            if runs.get(name):
                out[kind] = _mode_dict(kind, runs[name], runs.get(self.policies[0], []))
        if self.real.get(name):
            out["real"]["overhead_share"] = overhead_share(self.real[name])
            out["real"]["failures"] = sum(len(run.failures) for run in self.real[name])
        if self.real.get(name) and not compared.refused:
            metrics = metric_names(self.world.scenario.objective)
            errors = {metric: self.error(name, metric) for metric in metrics if metric != "unfinished"}
            out["error_split"] = self.error_split(name)
            out["simulation_error"] = finite(errors)
            slowed = self.slowed.get(name, [])
            if len(slowed) == len(self.real[name]):
                out["corrected_error"] = finite({m: self._error(name, m, slowed) for m in errors})
        return out


def _mode_dict(kind: str, runs: Sequence[Run], first: Sequence[Run]) -> dict[str, Any]:
    """One policy in one mode, beside the first one on the seeds that both have."""
    shared = {run.seed for run in runs} & {run.seed for run in first}
    mine, theirs = ([run for run in each if run.seed in shared] for each in (runs, first))
    change = interleaved_change if kind == "real" else paired_change
    return {
        **summarize(runs),
        "runs": len(runs),
        "decision_mean_s": float(np.mean([run.decision_s for run in runs])),
        "response_change": finite(change(mine, theirs)),
        "statistics": policy_statistics(mine, theirs),
        "waits": waits(runs).drop(columns="jain").to_dict(orient="index"),
    }


def evaluate(
    world: World,
    policies: Sequence[Policy],
    seeds: Sequence[int],
    *,
    engines: Sequence[DeviceExecutor] | None = None,
    repeats: int = 1,
    follow: bool = False,
    slowdowns: Slowdowns | None = None,
    on_progress: OnProgress | None = None,
    runner: Runner | None = None,
) -> Evaluation:
    """Runs every policy on every seed's requests; after Ctrl-C what is complete is returned.

    Real runs are interleaved over policies as ``shunter.eval.execution.order`` plans them, so that a machine
    that drifts is unfair to none.

    Args:
        world: The compiled scenario.
        policies: Policies with distinct names.
        seeds: Workload seeds.
        engines: From ``open_engines``; None: simulation only. With engines, simulation counts device memory
            as they do. They are of no further use after Ctrl-C.
        repeats: How often every policy runs every seed for real: twice or more tells how far reality is from
            itself.
        follow: Whether predicted durations follow the machine: in real runs, see ``run_real``; without
            engines in simulated ones, see ``simulate``.
        slowdowns: How fast the simulated machine is; None: as predicted. Without engines only.
        on_progress: See ``OnProgress``.
        runner: Where simulated runs are made; by default here, one after another.

    Raises:
        InputError: Fewer than one repeat, or slowdowns beside engines or of other devices.
        ShunterError: A cluster's workers were lost.
    """
    if repeats < 1:
        raise InputError("repeats", "be at least 1", repeats)
    if slowdowns is not None:
        if engines is not None:
            raise InputError(
                "slowdowns", "be left out with engines: these are as fast as they are", slowdowns.source
            )
        slowdowns.worlds(world)
    predicted = world
    if engines is not None:
        world = bind_footprints(world, engines)
    names = [p.name for p in policies]
    result = Evaluation(world, names, list(seeds), repeats=repeats, predicted=predicted, follow=follow)
    result.slowdowns = slowdowns
    try:
        _simulate_all(result, policies, runner or Runner(), on_progress if engines is None else None)
        if engines is not None:
            _run_all(result, policies, engines, on_progress)
    except KeyboardInterrupt as stop:
        result.interrupted = True
        if isinstance(stop, InterruptedRun) and stop.run.mode == "real":
            result.partial = stop.run
    except BrokenRun as broken:
        result.broken, result.partial = broken, broken.run
    return result


def _run_all(
    result: Evaluation,
    policies: Sequence[Policy],
    engines: Sequence[DeviceExecutor],
    on_progress: OnProgress | None,
) -> None:
    """Adds the real runs one by one, each with its replay on predicted durations."""
    world, requests = result.world, result.world.scenario.workload.requests
    rounds = [(seed, repeat) for repeat in range(result.repeats) for seed in result.seeds]
    result.order = run_order(len(policies), rounds)
    total, done = len(result.order) * requests, 0

    def reporter(text: str) -> Callable[[int], None]:
        def report(finished: int) -> None:
            if on_progress is not None:
                on_progress(text, done + finished, total)

        return report

    try:
        with watched(world, engines) as result.course:
            for turn in result.order:
                policy = policies[turn.policy]
                report = reporter(f"real: {policy.name}, seed {turn.seed}")
                with result.course.run(turn):
                    run = run_real(
                        world, policy, turn.seed, engines, on_progress=report, follow=result.follow
                    )
                replayed = replay_predicted(world, world.draw(turn.seed), run.log.frame())
                result.real.setdefault(policy.name, []).append(as_repeat(run, turn.repeat))
                result.replays.setdefault(policy.name, []).append(replayed)
                done += requests
    finally:
        _tell_slowdowns(result)
    for stretch in result.course.stretches:
        policy = policies[stretch.turn.policy]
        slowed = simulate_slowed(world, policy, result.course, stretch)
        result.slowed.setdefault(policy.name, []).extend([] if slowed is None else [slowed])


def _tell_slowdowns(result: Evaluation) -> None:
    """Writes into each real run what the sentinel saw around it."""
    course, told = result.course, Counter[str]()
    if course is None:
        return
    for stretch in course.stretches:
        name = result.policies[stretch.turn.policy]
        runs, number = result.real.get(name, []), told[name]
        if number < len(runs):
            runs[number] = replace(runs[number], slowdown=course.slowdown(stretch))
        told[name] += 1


def _simulate_all(
    result: Evaluation, policies: Sequence[Policy], runner: Runner, on_progress: OnProgress | None
) -> None:
    """Fills in the simulated runs of all policies of which every seed's is complete."""
    follow = result.follow and result.slowdowns is not None
    jobs = [
        _Simulation(result.world, policy, seed, result.slowdowns, follow)
        for policy in policies
        for seed in result.seeds
    ]
    each, requests = len(result.seeds), result.world.scenario.workload.requests

    def report(job: _Simulation) -> None:
        if on_progress is not None:
            done = sum(job.run is not None for job in jobs)
            on_progress(f"simulated: {job.name}", done * requests, len(jobs) * requests)

    for job in jobs:
        job.on_done = report
    try:
        runner.run(_simulate, with_absolute_paths(result.world), jobs)
    finally:
        for first, name in zip(range(0, len(jobs), each), result.policies, strict=True):
            runs = [job.run for job in jobs[first : first + each] if job.run is not None]
            if len(runs) == each:
                result.simulated[name] = runs


_Task = tuple[Policy, int, Slowdowns | None, bool]


def _simulate(world: World, report: Report, task: _Task) -> Run:
    policy, seed, slowdowns, follow = task
    return simulate(world, policy, seed, slowdowns=slowdowns, follow=follow)


@dataclass
class _Simulation(Job):
    """One policy on one seed's requests."""

    world: World
    policy: Policy
    seed: int
    slowdowns: Slowdowns | None = None
    follow: bool = False
    run: Run | None = None
    on_done: Callable[[_Simulation], None] | None = None

    @property
    def name(self) -> str:
        return f"{self.policy.name}, seed {self.seed}"

    def task(self) -> _Task:
        return self.policy, self.seed, self.slowdowns, self.follow

    def done(self, value: Run) -> None:
        value.log.world = self.world  # not a copy of it for each run
        self.run = value
        if self.on_done is not None:
            self.on_done(self)
