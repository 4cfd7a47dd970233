"""Several policies on the same requests, simulated and - if engines are given - real, beside each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from shunter.agents.base import Policy
from shunter.envs.world import World
from shunter.eval.event_log import EventLog
from shunter.eval.failure_log import failure_rows
from shunter.eval.metrics import metric_names, overhead_share, paired_change, summarize
from shunter.eval.real import bind_footprints, run_real
from shunter.eval.replay import Replayed, replay_predicted
from shunter.eval.runs import BrokenRun, InterruptedRun, Run, simulate
from shunter.eval.station import Station

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
        real: Likewise; empty if no engines were given.
        replays: The real runs' decisions with predicted durations, in the same order.
        interrupted: Whether Ctrl-C cut it short.
        broken: What ended it: an engine that failed and could not be started again.
        partial: The real run that was under way then; its events and failures count, its figures do not.
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
        real = summarize(self.real[policy])[metric]
        simulated = summarize(self.simulated[policy][: len(self.real[policy])])[metric]
        return (simulated - real) / real if real else math.nan

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

    def to_dict(self) -> dict[str, Any]:
        """Everything that the tables show, as plain data."""
        scenario = self.world.scenario
        return {
            "scenario": scenario.model_dump(mode="json"),
            "rate_per_s": self.world.rate_per_s,
            "time_scale_s": self.world.time_scale_s,
            "interpolation_error": self.world.interpolation_error,
            "seeds": self.seeds,
            "interrupted": self.interrupted,
            "broken": None if self.broken is None else str(self.broken),
            "partial": None if self.partial is None else self.partial.log.run["run_id"],
            "failures": failure_rows(self.real_runs),
            "metrics": metric_names(scenario.objective),
            "changes_against": self.policies[0],
            "policies": {name: self._policy_dict(name) for name in self.policies if name in self.simulated},
        }

    def _policy_dict(self, name: str) -> dict[str, Any]:
        first = self.policies[0]
        out: dict[str, Any] = {}
        for kind, runs in (("simulated", self.simulated), ("real", self.real)):
            if not runs.get(name):
                continue
            count = min(len(runs[name]), len(runs[first]))
            out[kind] = {
                **summarize(runs[name]),
                "runs": len(runs[name]),
                "decision_mean_s": sum(r.decision_s for r in runs[name]) / len(runs[name]),
                "response_change": paired_change(runs[name][:count], runs[first][:count]),
            }
        if self.real.get(name):
            out["real"]["overhead_share"] = overhead_share(self.real[name])
            out["real"]["failures"] = sum(len(run.failures) for run in self.real[name])
            metrics = metric_names(self.world.scenario.objective)
            errors = {metric: self.error(name, metric) for metric in metrics if metric != "unfinished"}
            out["error_split"] = self.error_split(name)
            out["simulation_error"] = {k: v if math.isfinite(v) else None for k, v in errors.items()}
        return out


def evaluate(
    world: World,
    policies: Sequence[Policy],
    seeds: Sequence[int],
    *,
    engines: Sequence[Station] | None = None,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Runs every policy on every seed's requests; after Ctrl-C what is complete is returned.

    Real runs are interleaved over policies, so that a machine that drifts is unfair to none.

    Args:
        world: The compiled scenario.
        policies: With distinct names.
        seeds: Workload seeds.
        engines: From ``open_engines``; None: simulation only. With engines, simulation counts device memory
            as they do. They are of no further use after Ctrl-C.
        on_progress: See ``OnProgress``.
    """
    if engines is not None:
        world = bind_footprints(world, engines)
    result = Evaluation(world, [p.name for p in policies], list(seeds))
    total = len(seeds) * len(policies) * world.scenario.workload.requests
    done = 0

    def reporter(text: str) -> Callable[[int], None]:
        def report(finished: int) -> None:
            if on_progress is not None:
                on_progress(text, done + finished, total)

        return report

    try:
        for policy in policies:
            result.simulated[policy.name] = [simulate(world, policy, seed) for seed in seeds]
        for seed in seeds if engines is not None else ():
            for policy in policies:
                report = reporter(f"real: {policy.name}, seed {seed}")
                run = run_real(world, policy, seed, engines or (), on_progress=report)
                replayed = replay_predicted(world, world.draw(seed), run.log.frame())
                result.real.setdefault(policy.name, []).append(run)
                result.replays.setdefault(policy.name, []).append(replayed)
                done += world.scenario.workload.requests
    except KeyboardInterrupt as stop:
        result.interrupted = True
        if isinstance(stop, InterruptedRun) and stop.run.world == "real":
            result.partial = stop.run
    except BrokenRun as broken:
        result.broken, result.partial = broken, broken.run
    return result
