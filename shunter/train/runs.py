"""Trainings side by side: what is told of them on their way, kept in files, logged and registered."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from shunter.agents.learned.file import training_of
from shunter.agents.learned.policy import LearnedPolicy
from shunter.envs.world.world import World, with_absolute_paths
from shunter.errors import InputError
from shunter.files import write_text
from shunter.jobs import Runner
from shunter.sinks import registry_name_of
from shunter.tracking.lineage import where
from shunter.tracking.policies import register_policy
from shunter.tracking.runs import Tracker, check_store, tracking
from shunter.tracking.trainings import events_of, log_policy, log_training
from shunter.train.algorithms import check_checkpoint, check_installed
from shunter.train.result import Curve, TrainResult
from shunter.train.seeds import SeedsShared, SeedTraining, TrainingTasks, train_seed
from shunter.train.settings import TrainSettings, algorithm_of, length_of, plain
from shunter.train.training import training_digest
from shunter.train.verdict import kept_words, shown, verdict_of

__all__ = ["Listener", "TrainingRun", "are_complete", "train_runs"]

PARTS = 100
"""In which a training's progress is counted."""


class Listener(NamedTuple):
    """Who is told of trainings on their way; by default nobody.

    Attributes:
        line: Called with a line that says what begins.
        progress: Called with where the trainings stand, how much is done, and how much there is in all.
    """

    line: Callable[[str], None] = lambda text: None
    progress: Callable[[str, int, int], None] = lambda text, done, total: None


NOBODY = Listener()
"""The default."""


def checkpoint_of(out: Path) -> Path:
    """Where the checkpoint of a policy file's training is."""
    return out.with_suffix(".checkpoint")


def run_key(out: Path, *, resume: bool) -> str:
    """Names the MLflow run of a policy file's training: the one that is resumed, or a new one."""
    noted = key_file(out)
    known = noted.read_bytes().decode(errors="replace").strip() if resume and noted.is_file() else ""
    return known if re.fullmatch(r"[0-9a-f]{32}", known) else uuid4().hex


def key_file(out: Path) -> Path:
    """Where it is noted which MLflow run an unfinished training is."""
    return out.with_suffix(".run")


class Group(NamedTuple):
    """Trainings that belong together.

    Attributes:
        tracker: MLflow run that those of the trainings are part of.
        out: Policy file that comes of all of them.
    """

    tracker: Tracker
    out: Path


class TrainingRun(NamedTuple):
    """A training that is wanted.

    Attributes:
        out: Policy file.
        settings: Settings of the algorithm, the seed included.
        worlds: Worlds to train in.
        validation: Worlds that choose the numbers to keep; if there are none, those to train in.
    """

    out: Path
    settings: TrainSettings
    worlds: Sequence[World]
    validation: Sequence[World] = ()


@dataclass(frozen=True)
class Trained:
    """A policy that was trained.

    Attributes:
        out: File of the policy.
        policy: The policy.
        ratio: The policy's validation response over the best heuristic's.
        how: How long it was trained, and how it did in validation, in words.
        run_id: MLflow's id of the run; None if it had been finished before, empty if MLflow has not got it.
        registered: Name and version in MLflow's registry, in words; empty if it was not registered.
        interrupted: Whether Ctrl-C cut it short.
    """

    out: Path
    policy: LearnedPolicy
    ratio: float
    how: str
    run_id: str | None = None
    registered: str = ""
    interrupted: bool = False

    @property
    def words(self) -> list[str]:
        """What training added, what it took, and what MLflow made of it."""
        verdict = verdict_of(self.policy)
        added = () if verdict is None else verdict.words
        written = f"{self.out}: {self.how}"
        return [line for line in (*added, kept_words(self.policy), written, self.registered) if line]


def are_complete(trained: Sequence[Trained], runs: Sequence[TrainingRun]) -> bool:
    """Whether all trainings that were wanted came to their end."""
    return len(trained) == len(runs) and not any(one.interrupted for one in trained)


def train_runs(
    runs: Sequence[TrainingRun],
    *,
    start: LearnedPolicy | None = None,
    folder: Path = Path(),
    resume: bool = False,
    runner: Runner | None = None,
    register: bool = True,
    listener: Listener = NOBODY,
    group: Group | None = None,
) -> list[Trained]:
    """Trains, writes policy files and, beside each, what it does in its first world; logs to MLflow.

    Goes on from checkpoints that are there, and in the MLflow runs of the trainings that left them. A policy
    that Ctrl-C cut short is kept and not registered.

    Args:
        runs: Trainings that are wanted, all in the same worlds or each in its own.
        start: A policy to start from, trained by either algorithm, if there is one.
        folder: Where MLflow's files are made if ``MLFLOW_TRACKING_URI`` is not set.
        resume: Whether a policy file without a checkpoint is a training that is finished; if its events are
            not there, they, MLflow's run and registration are made up for.
        runner: Where trainings run; by default here.
        register: Whether policies go into MLflow's registry; runs are logged either way.
        listener: Who is told.
        group: What they are part of, if there are several.

    Returns:
        All that were not cut off before they had anything to keep.
    """
    for run in runs:
        check_installed(run.settings)
    tasks = {run.out: training_digest(run.worlds, run.validation, start) for run in runs}
    for run in runs:
        if checkpoint_of(run.out).exists():
            check_checkpoint(checkpoint_of(run.out), run.settings, tasks[run.out])
    board = _Board(listener.progress, len(runs))
    with ExitStack() as stack:
        shared = _Shared(stack, folder, board, register, start, group, resume)
        finished = {run.out: _finished(run, tasks[run.out], shared) for run in runs if resume}
        left = [run for run in runs if finished.get(run.out) is None]
        if left:
            check_store(folder)
            listener.line(_beginning(left))
            _begin_group(group, runs, start)
        under_way = [_Training(run, shared) for run in left]
        task_sets, places = _task_sets(left)
        try:
            jobs = [one.job(place) for one, place in zip(under_way, places, strict=True)]
            (runner or Runner()).run(train_seed, SeedsShared(task_sets, start), jobs)
        except KeyboardInterrupt:  # what was trained so far is kept
            if group is not None:
                group.tracker.status = "KILLED"
        new = {one.run.out: one.keep() for one in under_way if one.result is not None}
    every = [new.get(run.out) or finished.get(run.out) for run in runs]
    return [one for one in every if one is not None]


def _begin_group(group: Group | None, runs: Sequence[TrainingRun], start: LearnedPolicy | None) -> None:
    """Logs what trainings have in common, and their seeds, and notes which MLflow run that is."""
    if group is None:
        return
    write_text(key_file(group.out), group.tracker.key)
    worlds = list({id(world): world for run in runs for world in run.worlds}.values())
    validation = list({id(world): world for run in runs for world in run.validation}.values())
    seeds = ", ".join(dict.fromkeys(str(run.settings.seed) for run in runs))
    settings = {**plain(runs[0].settings), "seed": seeds, "trainings": len(runs)}
    log_training(group.tracker, settings, worlds, validation, start, file=group.out)


def _beginning(runs: Sequence[TrainingRun]) -> str:
    """What begins; compiling takes a while after an installation, and nothing else can be shown till then."""
    settings = runs[0].settings
    many = f"{len(runs)} trainings" if len(runs) > 1 else "training"
    where = title([world for run in runs for world in run.worlds])
    return f"{many} on {where}: {algorithm_of(settings)}, {length_of(settings)}; first compiling ..."


def _task_sets(runs: Sequence[TrainingRun]) -> tuple[list[TrainingTasks], list[int]]:
    """The task sets of some trainings, each once, and which one is each training's."""
    task_sets: list[TrainingTasks] = []
    places: dict[tuple[int, int], int] = {}
    of_runs = []
    for run in runs:
        key = id(run.worlds), id(run.validation)
        if key not in places:
            places[key] = len(task_sets)
            validation = [with_absolute_paths(world) for world in run.validation]
            task_sets.append(TrainingTasks([with_absolute_paths(world) for world in run.worlds], validation))
        of_runs.append(places[key])
    return task_sets, of_runs


def _names(worlds: Sequence[World]) -> list[str]:
    return sorted({world.scenario.name for world in worlds})


def title(worlds: Sequence[World]) -> str:
    """What is trained on, short enough for the name of a run or a model."""
    names = _names(worlds)
    return "-".join(names) if len(names) < 4 else f"{names[0]}-and-{len(names) - 1}-more"


def _finished(run: TrainingRun, task: str, shared: _Shared) -> Trained | None:
    """The policy that an earlier call trained to the end, or whose file alone it left; None if there is none.

    What comes after the file is then made up for: events, MLflow's run and registration.
    """
    out, settings = run.out, run.settings
    if not out.exists() or checkpoint_of(out).exists():
        return None
    policy = LearnedPolicy.load(out)
    if "interrupted" in policy.metadata:
        return None
    training = training_of(policy)
    if training is None or training.settings != plain(settings):
        raise InputError("--out", "be of a training with these settings to --resume", str(out))
    if training.task != task:
        raise InputError("--out", "be of a training on these scenarios and loads, from this start", str(out))
    ratio = policy.number("validation_ratio")
    how = f"finished before; in validation {ratio:.3f} of what the best heuristic there costs"
    if events_of(out).exists() and not key_file(out).exists():
        return Trained(out, policy, ratio, how)
    tracker = _open_run(run, shared)
    return Trained(out, policy, ratio, how, tracker.run_id, _complete(run, policy, tracker, shared.register))


def _open_run(run: TrainingRun, shared: _Shared) -> Tracker:
    """A training's MLflow run, the one that is resumed or a new one; it ends with the stack."""
    (out, settings, worlds, validation) = run
    name = f"train {where(worlds)}: {algorithm_of(settings)}, {length_of(settings)}, seed {settings.seed}"
    key = run_key(out, resume=shared.resume or checkpoint_of(out).exists())
    parent = None if shared.group is None else shared.group.tracker
    tracker = shared.stack.enter_context(
        tracking("train", name, folder=shared.folder, key=key, parent=parent)
    )
    tracker.status = "KILLED"  # until it is complete
    write_text(key_file(out), key)
    log_training(tracker, plain(settings), worlds, validation, shared.start, file=out)
    return tracker


def _complete(run: TrainingRun, policy: LearnedPolicy, tracker: Tracker, register: bool) -> str:
    """Logs a policy that is trained to the end and registers it if wanted; says as what, in words.

    Only then is neither the checkpoint needed any more, nor which MLflow run it is.
    """
    log_policy(run.out, policy, run.worlds, tracker)
    registered = register_trained(run.out, run.worlds, tracker) if register else ""
    tracker.status = "FINISHED"
    for left in (checkpoint_of(run.out), key_file(run.out)):
        left.unlink(missing_ok=True)
    return registered


class _Board:
    """How far all trainings are, on one bar."""

    def __init__(self, bar: Callable[[str, int, int], None], count: int) -> None:
        self.bar, self.count = bar, count
        self.shares: dict[Path, float] = {}
        bar("compiling", 0, PARTS * count)

    def show(self, out: Path, share: float, point: Curve) -> None:
        """Shows one training's progress."""
        self.shares[out] = share
        which = f"{out.stem}: " if self.count > 1 else ""
        text = f"{which}{point.ratio:.3f} of the best heuristic's cost"
        self.bar(text, round(PARTS * sum(self.shares.values())), PARTS * self.count)


class _Shared(NamedTuple):
    """What trainings side by side have in common: see ``train_runs``."""

    stack: ExitStack
    folder: Path
    board: _Board
    register: bool
    start: LearnedPolicy | None
    group: Group | None
    resume: bool


class _Training:
    """One training: what is told of it on its way, and kept of it."""

    def __init__(self, run: TrainingRun, shared: _Shared) -> None:
        self.run, self.shared = run, shared
        self.result: TrainResult | None = None
        self._logged = -1

    @cached_property
    def tracker(self) -> Tracker:
        """The training's MLflow run, begun with the training; it ends with the stack."""
        return _open_run(self.run, self.shared)

    def job(self, task_set: int) -> SeedTraining:
        """The training as a job."""
        self.run.out.parent.mkdir(parents=True, exist_ok=True)
        return SeedTraining(
            self.run.settings,
            checkpoint_of(self.run.out),
            self._follow,
            self._take,
            task_set=task_set,
            on_begin=lambda: self.tracker,
        )

    def _follow(self, share: float, point: Curve) -> None:
        self._log(point)
        self.shared.board.show(self.run.out, share, point)

    def _log(self, point: Curve) -> None:
        if point.steps > self._logged:
            self._logged = point.steps
            figures = {"response_ratio": point.ratio, "elapsed_s": point.elapsed_s}
            self.tracker.metrics({"validation": figures, **point.diagnostics}, step=point.steps)

    def _take(self, result: TrainResult) -> None:
        for point in result.curve:
            self._log(point)
        self.result = result
        if result.interrupted:
            result.policy.metadata["interrupted"] = "yes"
        result.policy.save(self.run.out)
        if result.interrupted:
            raise KeyboardInterrupt

    def keep(self) -> Trained:
        """Logs the policy, and registers it if wanted."""
        if self.result is None:
            raise RuntimeError("nothing was trained")
        result, out, worlds = self.result, self.run.out, self.run.worlds
        ratio = min(point.ratio for point in result.curve)
        how = (
            f"{result.curve[-1].steps} decisions in {result.curve[-1].elapsed_s:.0f} s; "
            f"in validation {ratio:.3f} of what {shown(result.baseline)} costs, the best heuristic there "
            f"(at first {result.curve[0].ratio:.3f})"
        )
        if result.interrupted:
            log_policy(out, result.policy, worlds, self.tracker)
            registered = "not registered in MLflow: it was cut short" if self.shared.register else ""
        else:
            registered = _complete(self.run, result.policy, self.tracker, self.shared.register)
        return Trained(
            out, result.policy, ratio, how, self.tracker.run_id, registered, interrupted=result.interrupted
        )


def register_trained(out: Path, worlds: Sequence[World], tracker: Tracker) -> str:
    """Registers a policy; returns which version it is, and whether the champion, in words."""
    name = registry_name_of(title(worlds))
    return register_policy(out, name=name, worlds=worlds, tracker=tracker).words
