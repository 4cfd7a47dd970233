"""All that ``shunter eval`` does, as one function: policies compared, and what came of it in a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shunter.agents.base import Policy
from shunter.agents.learned.file import distance_from_training
from shunter.agents.registry import DEFAULT_POLICIES
from shunter.envs.scenario.scenario import Scenario
from shunter.envs.world.world import World
from shunter.errors import InputError
from shunter.eval.asked import prepare
from shunter.eval.compare import Comparison, compare
from shunter.eval.evaluation import Evaluation, OnProgress, evaluate
from shunter.eval.execution.device_executor import Deadline
from shunter.eval.execution.faults.chaos import Chaos
from shunter.eval.execution.real import bind_footprints, check_binding, open_engines
from shunter.eval.execution.slowdowns import read_slowdowns
from shunter.eval.provenance import capabilities_of, provenance
from shunter.eval.quiet import check_quiet
from shunter.eval.read_back import read_evaluation
from shunter.eval.saved import save_evaluation
from shunter.files import check_place, finite, write_bytes, write_json
from shunter.jobs import Runner, open_runner
from shunter.models.performance import PerformanceModel
from shunter.outputs import replaced_folder, sole_writer
from shunter.report.compare import load_words, write_comparison
from shunter.report.words import best_of
from shunter.tracking.evaluations import (
    evaluation_name,
    log_comparison,
    log_evaluation,
    log_loads,
)
from shunter.tracking.runs import Tracker, tracking

__all__ = ["RealRuns", "SavedEvaluations", "evaluate_and_save"]


@dataclass(frozen=True)
class RealRuns:
    """How policies run on real engines.

    Attributes:
        python: Interpreters that have the engines, ``ENGINE=INTERPRETER`` or one for all; by default this
            one.
        deadline: When a call is taken for hung, and its engine started again.
        chaos: What happens to engines on purpose.
        repeats: Runs of each policy and seed: two or more say how far reality is from itself.
        quiet: What to do where other programs use the machine: one of ``QUIET_MACHINE``; None: go on.
    """

    python: Sequence[str] = ()
    deadline: Deadline = field(default_factory=Deadline)
    chaos: Chaos | None = None
    repeats: int = 1
    quiet: str | None = None


@dataclass(frozen=True)
class SavedEvaluation:
    """An evaluation and where it was written.

    Attributes:
        evaluation: The evaluation.
        files: From ``shunter.eval.saved.save_evaluation``.
        tracker: Its run in MLflow.
    """

    evaluation: Evaluation
    files: dict[str, Path]
    tracker: Tracker


@dataclass(frozen=True)
class SavedEvaluations:
    """What ``evaluate_and_save`` did.

    Attributes:
        saved: An evaluation for each load; those from the one on that was cut short are missing, or are the
            last.
        warnings: A line for each policy that was trained for other worlds than these.
        lost: A line for each worker of the cluster that was lost on the way.
        comparison: Comparison of several loads; None if there is one, or it was cut short.
        page: Page of the comparison; None where there is no comparison.
        tracker: Run in MLflow that those of several loads are part of; None if there is one load.
        interrupted: Whether Ctrl-C cut it short.
    """

    saved: tuple[SavedEvaluation, ...]
    warnings: tuple[str, ...]
    lost: tuple[str, ...] = ()
    comparison: Comparison | None = None
    page: Path | None = None
    tracker: Tracker | None = None
    interrupted: bool = False


@dataclass(frozen=True)
class _Plan:
    """What is done at each load."""

    policies: Sequence[Policy]
    sources: dict[str, str]
    seeds: Sequence[int]
    performance: PerformanceModel
    real: RealRuns | None
    slowdowns: Path | None
    follow: bool
    python: dict[str, str]
    on_progress: OnProgress | None

    def title(self, worlds: Sequence[World]) -> str:
        """The name of a run in MLflow."""
        names = [policy.name for policy in self.policies]
        return evaluation_name(worlds, names, self.seeds, real=self.real is not None)

    def evaluate(
        self, world: World, folder: Path, runner: Runner, whole: Tracker | None = None
    ) -> SavedEvaluation | None:
        """Runs everything in one world and keeps it; None if Ctrl-C came before any policy was complete."""
        with tracking("eval", self.title([world]), parent=whole) as tracker:
            evaluation, made = self._run(world, runner)
            if not evaluation.simulated:
                return None
            files = save_evaluation(
                evaluation,
                folder,
                title=f"shunter eval: {world.scenario.name}",
                performance=self.performance,
                provenance=made,
                sources=self.sources,
            )
            log_evaluation(tracker, files, world, self.policies, self.sources)
            if evaluation.interrupted or evaluation.broken is not None:
                tracker.status = "KILLED" if evaluation.interrupted else "FAILED"
        return SavedEvaluation(evaluation, files, tracker)

    def _run(self, world: World, runner: Runner) -> tuple[Evaluation, dict[str, Any]]:
        """Runs everything in one world; also says what it was made with."""
        with ExitStack() as stack:
            engines = None
            if self.real is not None:
                deadline, chaos = self.real.deadline, self.real.chaos
                opened = open_engines(world, python=self.python, deadline=deadline, chaos=chaos)
                engines = stack.enter_context(opened)
                bind_footprints(world, engines)  # before anything is written: a device may be too small
            made = provenance(self.performance, capabilities_of(world, engines or ()))
            evaluation = evaluate(
                world,
                self.policies,
                self.seeds,
                engines=engines,
                repeats=1 if self.real is None else self.real.repeats,
                follow=self.follow,
                slowdowns=None if self.slowdowns is None else read_slowdowns(self.slowdowns, world),
                on_progress=self.on_progress,
                runner=runner,
            )
        return evaluation, made


def evaluate_and_save(
    scenario: Scenario | str | Path,
    policies: Sequence[str | Policy] = tuple(DEFAULT_POLICIES),
    seeds: Sequence[int] = range(20),
    *,
    out: Path,
    performance: PerformanceModel | str | Path | None = None,
    engine: str | None = None,
    loads: Sequence[float] = (),
    duration_s: float | None = None,
    real: RealRuns | None = None,
    slowdowns: Path | None = None,
    follow: bool = False,
    ray: str | None = None,
    json_path: Path | None = None,
    unpickle: bool = False,
    on_progress: OnProgress | None = None,
) -> SavedEvaluations:
    """Compares policies on the same requests, writes report, results and logs, and logs them to MLflow.

    After Ctrl-C, or when an engine failed for good (``Evaluation.broken``), what is complete is written and
    returned.

    Args:
        scenario: It, its file, or a name of the library.
        policies: As ``shunter.agents.registry.make_policy`` takes them, or made; the first is what others are
            set against. Files whose policies have the same name are called by where they are.
        seeds: Workload seeds.
        out: Folder to write, whatever is in it; with several loads each gets a folder in it.
        performance: A fitted model, or where it is; None: see ``performance_of``.
        engine: Instead of the scenario's.
        loads: Instead of the scenario's, as shares of its capacity; several are compared on a page.
        duration_s: Time that one run may take.
        real: How to run on real engines too; None: simulation only.
        slowdowns: Results of a real evaluation: simulated machines are as fast as that one was. Not with
            ``real``.
        follow: Whether predicted durations follow the machine, on real engines or with ``slowdowns``.
        ray: Address of a cluster for simulated runs; see ``shunter.jobs.open_runner``.
        json_path: Also write the results here, if nothing was cut short.
        unpickle: Whether policies may be pickles, which run what their author wrote; see ``make_policy``.
        on_progress: See ``OnProgress``.

    Raises:
        InputError: Something that was asked for breaks a rule, or another command writes the folder; then
            nothing was written.
        KeyboardInterrupt: Ctrl-C came before anything was complete.
        EngineError: A real engine does not start.
    """
    check_place("--json", json_path)
    check_place("--out", out, folder=True, make=True)
    asked = prepare(
        scenario,
        policies,
        seeds,
        performance=performance,
        engine=engine,
        loads=loads,
        duration_s=duration_s,
        unpickle=unpickle,
    )
    worlds, made = asked.worlds, asked.policies
    python = {} if real is None else _interpreters(worlds[0].scenario, real.python)
    if real is not None:
        check_binding(worlds[0])
    if slowdowns is not None:
        if real is not None:
            raise InputError(
                "--slowdowns", "be left out with --real: engines are as fast as they are", slowdowns
            )
        read_slowdowns(slowdowns, worlds[0])  # before anything is written
    elif follow and real is None:
        raise InputError(
            "--follow", "come with --real or --slowdowns: simulation is as fast as predicted", follow
        )
    plan = _Plan(made, asked.sources, seeds, asked.performance, real, slowdowns, follow, python, on_progress)
    several, beyond = len(worlds) > 1, _warnings(made, worlds)
    folders = [out / _load_name(world) for world in worlds] if several else [out]
    with ExitStack() as stack:
        for folder in dict.fromkeys((out, *folders)):
            stack.enter_context(sole_writer("--out", folder, folder=True))
        if real is not None:
            beyond = (*beyond, *check_quiet(real.quiet, say=_sayer(on_progress)))
        done = (
            _at_several_loads(plan, worlds, out, folders, ray, beyond)
            if several
            else _at_each_load(plan, worlds, folders, ray, beyond)
        )
        if json_path is not None and not _is_cut_short(done):
            results = done.saved[0].files["results"] if done.page is None else out / "results.json"
            write_bytes(json_path, results.read_bytes())
    return done


def _at_each_load(
    plan: _Plan,
    worlds: Sequence[World],
    folders: Sequence[Path],
    ray: str | None,
    warnings: tuple[str, ...],
    whole: Tracker | None = None,
) -> SavedEvaluations:
    saved: list[SavedEvaluation] = []
    with open_runner(ray) as runner:
        for world, folder in zip(worlds, folders, strict=True):
            one = plan.evaluate(world, folder, runner, whole)
            if one is None and not saved:
                raise KeyboardInterrupt
            saved += [] if one is None else [one]
            interrupted = one is None or one.evaluation.interrupted
            lost = tuple(runner.lost)
            done = SavedEvaluations(tuple(saved), warnings, lost, tracker=whole, interrupted=interrupted)
            if _is_cut_short(done):
                break
    return done


def _at_several_loads(
    plan: _Plan,
    worlds: Sequence[World],
    out: Path,
    folders: Sequence[Path],
    ray: str | None,
    warnings: tuple[str, ...],
) -> SavedEvaluations:
    """Runs at each load, in a folder and a run of its own, and sets them beside each other."""
    with tracking("eval", plan.title(worlds)) as whole:
        log_loads(whole, worlds, plan.policies, plan.sources, plan.seeds)
        done = _at_each_load(plan, worlds, folders, ray, warnings, whole)
        if _is_cut_short(done):
            whole.status = "KILLED" if done.interrupted else "FAILED"
            return done
        comparison = compare([read_evaluation(str(folder)) for folder in folders])
        lines = load_words(comparison)
        with replaced_folder(out, last="results.json") as staged:
            page = staged / "report.html"
            write_comparison(comparison, page, title="shunter eval: several loads", lines=lines)
            write_json(staged / "results.json", finite(comparison.to_dict()))
        log_comparison(whole, out, lines, [best_of(run.result)[0] for run in comparison.runs])
    return replace(done, comparison=comparison, page=out / page.name)


def _load_name(world: World) -> str:
    """Name of a load's folder; other loads have others."""
    return f"load-{world.scenario.workload.load!r}".removesuffix(".0")


def _is_cut_short(done: SavedEvaluations) -> bool:
    return done.interrupted or done.saved[-1].evaluation.broken is not None


def _warnings(policies: Sequence[Policy], worlds: Sequence[World]) -> tuple[str, ...]:
    lines = (
        f"{policy.name} is beyond its training: {line}"
        for policy in policies
        for world in worlds
        for line in distance_from_training(policy, world)
    )
    return tuple(dict.fromkeys(lines))


def _sayer(on_progress: OnProgress | None) -> Callable[[str], None]:
    """Says something before there is progress."""
    return lambda text: None if on_progress is None else on_progress(text, 0, 0)


def _interpreters(scenario: Scenario, given: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in given:
        engine, separator, path = text.partition("=")
        if not separator:
            found.update(dict.fromkeys(scenario.engines, text))
        elif engine in scenario.engines:
            found[engine] = path
        else:
            used = ", ".join(scenario.engines)
            raise InputError("--python", f"name an engine that the scenario uses ({used})", text)
    return found
