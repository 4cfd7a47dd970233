"""All that ``shunter train`` does, as one function: from a training file to a policy file and MLflow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from shunter.agents.learned.policy import LearnedPolicy
from shunter.envs.scenario.library import performance_of
from shunter.envs.scenario.scenario import load_scenario
from shunter.envs.world.world import World, load_note, make_world
from shunter.errors import InputError
from shunter.files import is_free
from shunter.jobs import open_runner
from shunter.outputs import sole_writer
from shunter.sinks import file_name
from shunter.tracking.lineage import where
from shunter.tracking.runs import tracking
from shunter.tracking.trainings import log_result
from shunter.train.random_scenarios import random_worlds
from shunter.train.runs import (
    NOBODY,
    Group,
    Listener,
    Trained,
    TrainingRun,
    are_complete,
    checkpoint_of,
    key_file,
    run_key,
    train_runs,
)
from shunter.train.settings import DistillSettings, TrainConfig, algorithm_of, length_of, shortened
from shunter.train.specialists import train_specialists

__all__ = ["TrainOutcome", "train_and_save", "worlds_of"]


@dataclass(frozen=True)
class TrainOutcome:
    """What came of the trainings of a training file.

    Attributes:
        policy: What the policy file holds; None if Ctrl-C came before there was anything to keep.
        trained: Each training: of each seed, or of each scenario with specialists.
        words: What training added and where the policy is; the answer first.
        complete: Whether all trainings came to their end.
        lost: A line for each worker of the cluster that was lost on the way.
    """

    policy: LearnedPolicy | None
    trained: tuple[Trained, ...]
    words: tuple[str, ...]
    complete: bool
    lost: tuple[str, ...]


def train_and_save(
    config: TrainConfig,
    out: Path,
    *,
    seeds: int = 1,
    start: LearnedPolicy | None = None,
    specialists: bool = False,
    ray: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    listener: Listener = NOBODY,
) -> TrainOutcome:
    """Trains in a training file's scenarios, writes the policy file and logs all of it to MLflow.

    After Ctrl-C what is trained so far is kept.

    Args:
        config: Scenarios and settings.
        out: Policy file to write; several trainings have theirs beside it, or in a folder beside it.
        seeds: Trainings, with seeds from the settings' on; the best is kept.
        start: A policy to start from.
        specialists: Whether each scenario gets a training of its own, and one network is taught what all
            decide; so also if ``config.distill`` says how.
        ray: Address of a cluster for trainings side by side; see ``shunter.jobs.open_runner``.
        resume: Whether to go on from checkpoints, and to keep trainings that are finished.
        overwrite: Whether to write over policy files.
        listener: Who is told on the way.

    Raises:
        InputError: Something that was asked for breaks a rule, there are files of an earlier training, or
            another command writes them.
        BrokenFileError: A checkpoint is damaged.
        ShunterError: The algorithm needs an extra that is not installed.
    """
    with_specialists = specialists or config.distill is not None
    if with_specialists and seeds > 1:
        raise InputError("--seeds", "be 1 with specialists", seeds)
    folder = out.with_suffix("")
    runs = _runs_of_specialists(config, folder) if with_specialists else _runs_of_seeds(config, out, seeds)
    paths = [out, folder] if with_specialists else [out, *(run.out for run in runs)]
    with ExitStack() as stack:
        for path in dict.fromkeys((out, *(run.out for run in runs))):
            stack.enter_context(sole_writer("--out", path))
        _refuse_leftovers(paths, resume, overwrite)
        runner = stack.enter_context(open_runner(ray))
        if with_specialists:
            distillation = config.distill or DistillSettings()
            trained, kept = train_specialists(
                runs, distillation, out, start=start, resume=resume, runner=runner, listener=listener
            )
        else:
            trained, kept = _train_seeds(
                runs, out, start=start, resume=resume, runner=runner, listener=listener
            )
    policy, words = None, [f"{len(trained)} of {len(runs)} trainings have something to keep"]
    if kept is not None:
        policy, words = kept.policy, list(kept.words)
    said = filter(None, (load_note(world) for run in runs for world in run.worlds))
    words += [f"note: {line}" for line in islice(said, 1)]  # of several loads and scenarios it holds for all
    return TrainOutcome(policy, tuple(trained), tuple(words), are_complete(trained, runs), tuple(runner.lost))


def _train_seeds(
    runs: Sequence[TrainingRun], out: Path, *, resume: bool, **how: Any
) -> tuple[list[Trained], Trained | None]:
    """Trains with one seed or several, which then are parts of one MLflow run; gives all and the best."""
    if len(runs) == 1:
        trained = train_runs(runs, resume=resume, **how)
        return trained, _best(out, trained)
    settings = runs[0].settings
    which = f"{algorithm_of(settings)}, {length_of(settings)}, {len(runs)} seeds"
    name = f"train {where(runs[0].worlds)}: {which}"
    with tracking("train", name, key=run_key(out, resume=resume)) as tracker:
        trained = train_runs(runs, resume=resume, group=Group(tracker, out), **how)
        best = _best(out, trained)
        if best is not None and any(one.run_id is not None for one in trained):
            ratios = {one.out.stem: one.ratio for one in trained}
            tracker.metrics({"validation": {"best_ratio": best.ratio, "of": ratios}})
            log_result(tracker, best.policy)
            tracker.artifact(out)
        if are_complete(trained, runs):
            key_file(out).unlink(missing_ok=True)
    return trained, best


def _best(out: Path, trained: Sequence[Trained]) -> Trained | None:
    """The best of all seeds, which goes into a file of its own if there are several."""
    best = min(trained, key=lambda one: one.ratio, default=None)
    if best is None or best.out == out:
        return best
    best.policy.save(out)
    ratios = ", ".join(f"{one.ratio:.3f}" for one in trained)
    return replace(best, out=out, how=f"the best of {len(trained)} seeds ({ratios})")


def _runs_of_seeds(config: TrainConfig, out: Path, seeds: int) -> list[TrainingRun]:
    """A training for each seed, in all scenarios at once."""
    worlds, validation = worlds_of(config, config.scenarios), worlds_of(config, config.validation)
    if config.random:
        validation = validation or worlds
        loads = config.loads or [0.7]
        for number in range(config.random):
            worlds = worlds + random_worlds(number, [loads[number % len(loads)]])
    runs = []
    for seed in range(config.settings.seed, config.settings.seed + seeds):
        one = out if seeds == 1 else out.with_name(f"{out.stem}-{seed}{out.suffix}")
        runs.append(TrainingRun(one, replace(config.settings, seed=seed), worlds, validation))
    return runs


def _runs_of_specialists(config: TrainConfig, folder: Path) -> list[TrainingRun]:
    """A training for each scenario.

    Raises:
        InputError: Two have one name, or there are scenarios for validation alone.
    """
    if config.validation:
        raise InputError("validation", "be empty with specialists", config.validation)
    scenarios = [worlds_of(config, [name]) for name in config.scenarios]
    drawn = [random_worlds(number, config.loads or [0.7]) for number in range(config.random)]
    shorter = shortened(config.settings, config.random_share)
    asked = [(worlds, config.settings) for worlds in scenarios] + [(worlds, shorter) for worlds in drawn]
    names = Counter(worlds[0].scenario.name for worlds, _ in asked)
    if max(names.values()) > 1:
        raise InputError("scenarios", "differ in their names", names.most_common(1)[0][0])
    return [
        TrainingRun(folder / f"{file_name(worlds[0].scenario.name)}.safetensors", own, worlds)
        for worlds, own in asked
    ]


def worlds_of(config: TrainConfig, names: Sequence[str]) -> list[World]:
    """The worlds of some of a training file's scenarios, at each of its loads."""
    worlds = []
    for name in names:
        scenario = load_scenario(name)
        if config.objective is not None:
            objective = scenario.objective.model_copy(update={"metric": config.objective})
            scenario = scenario.model_copy(update={"objective": objective})
        world = make_world(scenario, performance_of(name, config.performance))
        rates = [world.rate_per_s] if not config.loads else [world.rate_at(load) for load in config.loads]
        worlds += [world.at_rate(rate) for rate in rates]
    return worlds


def _refuse_leftovers(paths: Sequence[Path], resume: bool, overwrite: bool) -> None:
    if resume:
        return
    for path in dict.fromkeys(paths):
        if not overwrite and not is_free(path):
            raise InputError("--out", "not exist yet (or give --overwrite)", str(path))
        checkpoint = checkpoint_of(path)
        if checkpoint.exists():
            rule = f"be given where an unfinished training left {checkpoint} (or delete that)"
            raise InputError("--resume", rule, resume)
