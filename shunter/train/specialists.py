"""One policy for each scenario, and one network that was taught what they all decide."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from shunter.agents.learned.file import training_of, training_record
from shunter.agents.learned.policy import LearnedPolicy
from shunter.jobs import Runner
from shunter.tracking.lineage import where
from shunter.tracking.runs import Tracker, tracking
from shunter.tracking.trainings import log_policy
from shunter.train.runs import (
    Group,
    Listener,
    Trained,
    TrainingRun,
    are_complete,
    key_file,
    register_trained,
    run_key,
    train_runs,
)
from shunter.train.seeds import CARD_SEEDS
from shunter.train.settings import DistillSettings, plain
from shunter.train.verdict import judge


def train_specialists(
    runs: Sequence[TrainingRun],
    distillation: DistillSettings,
    out: Path,
    *,
    start: LearnedPolicy | None,
    resume: bool,
    runner: Runner,
    listener: Listener,
) -> tuple[list[Trained], Trained | None]:
    """Trains a policy for each scenario, then one for all; logs all of them to MLflow and registers that one.

    Args:
        runs: The training of each scenario.
        distillation: How the one network learns, see ``shunter.train.distill.distill``.
        out: Policy file of the one network.
        start: What all trainings start from.
        resume: Whether finished trainings are kept and others gone on with.
        runner: Where trainings run.
        listener: Who is told.

    Returns:
        The policies of the scenarios, and the one for all; None if Ctrl-C cut it short.
    """
    worlds = [world for run in runs for world in run.worlds]
    settings = {**plain(runs[0].settings), "distill": asdict(distillation), "teachers": len(runs)}
    name = f"train {where(worlds)}: specialists and one network"
    with tracking("train", name, key=run_key(out, resume=resume)) as tracker:
        group = Group(tracker, out)
        trained = train_runs(
            runs, start=start, resume=resume, runner=runner, register=False, listener=listener, group=group
        )
        if not are_complete(trained, runs):
            return trained, None
        tracker.params({"distill": asdict(distillation)})
        policy = _taught(runs, [one.policy for one in trained], distillation, tracker, listener)
        policy.metadata |= judge(policy, worlds, CARD_SEEDS, start=start)
        known = [training_of(one.policy) for one in trained]
        steps = sum(training.steps for training in known if training is not None)
        seed = runs[0].settings.seed
        policy.metadata |= training_record(worlds, steps=steps, seed=seed, settings=settings)
        policy.save(out)
        log_policy(out, policy, worlds, tracker)
        how = f"taught what the {len(trained)} policies in {out.with_suffix('')} decide"
        registered = register_trained(out, worlds, tracker)
        key_file(out).unlink(missing_ok=True)
        return trained, Trained(out, policy, math.nan, how, tracker.run_id, registered)


def _taught(
    runs: Sequence[TrainingRun],
    teachers: Sequence[LearnedPolicy],
    distillation: DistillSettings,
    tracker: Tracker,
    listener: Listener,
) -> LearnedPolicy:
    """The one network, with the seconds of cores that all took."""
    from shunter.train.distill.distill import DistillationTask, Progress, distill  # needs torch

    begun_s = time.monotonic()
    pairs = zip(teachers, runs, strict=True)
    distillation_tasks = [DistillationTask(teacher, world) for teacher, run in pairs for world in run.worlds]

    def follow(at: Progress) -> None:
        of = distillation.rounds * distillation.passes
        listener.progress(f"learning from {len(teachers)} teachers", at.passes, of)
        tracker.metrics({"distill": {"divergence": at.loss, "agreement": at.agreement}}, step=at.passes)

    policy = distill(distillation_tasks, distillation, follow)
    before_s = sum(teacher.number("elapsed_s") for teacher in teachers)
    policy.metadata["elapsed_s"] = f"{before_s + distillation.threads * (time.monotonic() - begun_s):.1f}"
    return policy
