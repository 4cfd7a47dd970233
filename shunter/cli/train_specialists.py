"""One policy for each scenario, and one network that was taught what they all decide."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from shunter.agents.learned.file import training_of, training_record
from shunter.agents.learned.policy import LearnedPolicy
from shunter.cli.options import progress
from shunter.cli.train_run import (
    Run,
    Trained,
    are_complete,
    log_policy,
    register_trained,
    say_added,
    title,
    train_and_save,
)
from shunter.jobs import Runner
from shunter.tracking.runs import Tracker, tracking
from shunter.train.settings import DistillSettings, plain

__all__ = ["train_specialists"]


def train_specialists(
    console: Console,
    runs: Sequence[Run],
    distillation: DistillSettings,
    out: Path,
    *,
    start: LearnedPolicy | None,
    resume: bool,
    runner: Runner,
) -> bool:
    """Trains a policy for each scenario, then one for all; logs all of them to MLflow and registers that one.

    Args:
        console: To talk to.
        runs: The training of each scenario.
        distillation: See ``shunter.train.distill.distill``.
        out: Policy file of the one network.
        start: What all trainings start from.
        resume: Whether finished trainings are kept and others gone on with.
        runner: Where trainings run.

    Returns:
        Whether all was done; False if Ctrl-C cut it short.
    """
    from shunter.train.seeds import CARD_SEEDS
    from shunter.train.verdict import judge

    trained = train_and_save(console, runs, start=start, resume=resume, runner=runner, register=False)
    if not are_complete(trained, runs):
        return False
    worlds = [world for run in runs for world in run.worlds]
    settings = {**plain(runs[0].settings), "distill": asdict(distillation), "teachers": len(runs)}
    with tracking("train", title(worlds)) as tracker:
        tracker.params({"train": settings, "scenarios": [run.worlds[0].scenario.name for run in runs]})
        policy = _taught(console, runs, [one.policy for one in trained], distillation, tracker)
        policy.metadata |= judge(policy, worlds, CARD_SEEDS, start=start)
        record = training_record(worlds, steps=_steps(trained), seed=runs[0].settings.seed, settings=settings)
        policy.metadata |= record
        policy.save(out)
        say_added(console, policy)
        log_policy(out, policy, worlds, tracker)
        register_trained(console, out, worlds, tracker)
    return True


def _steps(trained: Sequence[Trained]) -> int:
    known = [training_of(one.policy) for one in trained]
    return sum(training.steps for training in known if training is not None)


def _taught(
    console: Console,
    runs: Sequence[Run],
    teachers: Sequence[LearnedPolicy],
    distillation: DistillSettings,
    tracker: Tracker,
) -> LearnedPolicy:
    """The one network, with the seconds of cores that all took."""
    from shunter.train.distill.distill import Lesson, Progress, distill

    begun_s = time.monotonic()
    pairs = zip(teachers, runs, strict=True)
    lessons = [Lesson(teacher, world) for teacher, run in pairs for world in run.worlds]
    with progress(console) as bar:

        def follow(at: Progress) -> None:
            of = distillation.rounds * distillation.passes
            bar(f"learning from {len(teachers)} teachers", at.passes, of)
            tracker.metrics({"distill": {"divergence": at.loss, "agreement": at.agreement}}, step=at.passes)

        policy = distill(lessons, distillation, follow)
    before_s = sum(float(teacher.metadata["elapsed_s"]) for teacher in teachers)
    policy.metadata["elapsed_s"] = f"{before_s + distillation.threads * (time.monotonic() - begun_s):.1f}"
    return policy
