"""One policy for each scenario, and one network that was taught what they all decide."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from shunter.agents.learned import LearnedPolicy
from shunter.agents.policy_file import training_of, training_record
from shunter.agents.registry import make_policy
from shunter.agents.score_card import Cell, ScoreCard, score_card_of
from shunter.cli.options import progress
from shunter.cli.train_run import Run, Trained, register_and_log, title, train_and_save
from shunter.envs.world import World
from shunter.eval.tracking import Tracker, tracking
from shunter.jobs import Runner
from shunter.train.settings import DistillSettings, TrainSettings

__all__ = ["train_specialists"]


def train_specialists(
    console: Console,
    scenarios: Sequence[Sequence[World]],
    settings: TrainSettings,
    distillation: DistillSettings,
    out: Path,
    *,
    start: LearnedPolicy | None,
    resume: bool,
    runner: Runner,
) -> bool:
    """Trains a policy for each scenario, then one for all; logs all of them to MLflow.

    Args:
        console: To talk to.
        scenarios: Worlds of each.
        settings: Of each scenario's training.
        distillation: See ``shunter.train.distill``.
        out: Policy file of the one network; the others' are in a folder of its name.
        start: What all trainings start from.
        resume: Whether finished trainings are kept and others gone on with.
        runner: Where trainings run.

    Returns:
        Whether all was done; False if Ctrl-C cut it short.
    """
    folder = out.with_suffix("")
    names = [worlds[0].scenario.name for worlds in scenarios]
    runs = [
        Run(folder / f"{name}.safetensors", settings, worlds)
        for name, worlds in zip(names, scenarios, strict=True)
    ]
    trained = train_and_save(console, runs, start=start, resume=resume, runner=runner)
    if len(trained) < len(runs) or any(one.interrupted for one in trained):
        return False
    worlds = [world for group in scenarios for world in group]
    with tracking("train", title(worlds)) as tracker:
        tracker.params({"train": asdict(settings), "distill": asdict(distillation), "scenarios": names})
        policy = _taught(console, scenarios, trained, settings, distillation, tracker)
        policy.save(out)
        register_and_log(console, out, policy, worlds, tracker)
    return True


def _taught(
    console: Console,
    scenarios: Sequence[Sequence[World]],
    trained: Sequence[Trained],
    settings: TrainSettings,
    distillation: DistillSettings,
    tracker: Tracker,
) -> LearnedPolicy:
    """The one network, with what its file says of it."""
    from shunter.train.distill import Lesson, Progress, distill

    begun_s = time.monotonic()
    teachers = [one.policy for one in trained]
    lessons = [
        Lesson(teacher, world)
        for teacher, worlds in zip(teachers, scenarios, strict=True)
        for world in worlds
    ]
    with progress(console) as bar:
        passes = 0

        def follow(at: Progress) -> None:
            nonlocal passes
            passes += 1
            bar(f"learning from {len(teachers)} teachers", passes, distillation.rounds * distillation.passes)
            tracker.metrics({"distill": {"divergence": at.loss, "agreement": at.agreement}}, step=passes)

        policy = distill(lessons, distillation, follow)
    elapsed_s = sum(float(teacher.metadata["elapsed_s"]) for teacher in teachers)
    steps = [training.steps for teacher in teachers if (training := training_of(teacher)) is not None]
    policy.metadata |= training_record(
        [lesson.world for lesson in lessons],
        steps=sum(steps),
        seed=settings.seed,
        settings={**asdict(settings), "distilled": asdict(distillation), "teachers": len(teachers)},
    )
    policy.metadata["elapsed_s"] = f"{elapsed_s + time.monotonic() - begun_s:.1f}"
    policy.metadata |= _card(policy, scenarios, teachers).record()
    return policy


def _card(
    policy: LearnedPolicy, scenarios: Sequence[Sequence[World]], teachers: Sequence[LearnedPolicy]
) -> ScoreCard:
    """A score card against the baselines that were best when the teachers were judged."""
    from shunter.train.seeds import CARD_SEEDS
    from shunter.train.selection import make_score_card

    cells: list[Cell] = []
    for teacher, worlds in zip(teachers, scenarios, strict=True):
        card = score_card_of(teacher)
        for world, cell in zip(worlds, card.cells if card is not None else [], strict=True):
            best = {cell.baseline: make_policy(cell.baseline)}
            cells += make_score_card(policy, [world], best, CARD_SEEDS).cells
    return ScoreCard(seeds=list(CARD_SEEDS), cells=cells)
