"""Trainings that differ in their seed or worlds, as jobs: one after another, or side by side on a cluster.

A training's checkpoints are the driver's: where a node dies, it goes on elsewhere from the last one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from shunter.agents.learned import LearnedPolicy
from shunter.agents.registry import POLICIES, make_policy
from shunter.envs.seed_ranges import SEED_RANGES
from shunter.envs.world import World
from shunter.jobs import Job, Report
from shunter.train.courses import Course
from shunter.train.ppo import Curve, TrainResult, train_ppo
from shunter.train.selection import make_score_card
from shunter.train.settings import TrainSettings

__all__ = ["CARD_SEEDS", "Ground", "SeedTraining", "SeedsShared", "train_seed"]

CARD_SEEDS = SEED_RANGES["score card"]
"""Workload seeds of the score card in a policy's file; they chose nothing."""


class Ground(NamedTuple):
    """Where a training takes place.

    Attributes:
        courses: To train in.
        validation: Worlds that choose the weights to keep; if there are none, those of the courses.
    """

    courses: list[Course]
    validation: list[World]


@dataclass(frozen=True)
class SeedsShared:
    """What the trainings share.

    Attributes:
        grounds: Each training has one of them.
        start: A policy to start from.
    """

    grounds: list[Ground]
    start: LearnedPolicy | None = None


class SeedTask(NamedTuple):
    """What a training is told.

    Attributes:
        ground: Its place in ``SeedsShared.grounds``.
        settings: With its seed.
        checkpoint: The last one, if there is one.
    """

    ground: int
    settings: TrainSettings
    checkpoint: bytes | None


class _Progress(NamedTuple):
    steps: int
    point: Curve
    checkpoint: bytes | None


@dataclass
class SeedTraining(Job):
    """One training.

    Attributes:
        settings: With its seed.
        checkpoint: File that is kept up to date, and gone on from if it is there.
        on_progress: Called with the decisions so far and the latest validation.
        on_result: Called with the result.
        ground: Its place in ``SeedsShared.grounds``.
    """

    settings: TrainSettings
    checkpoint: Path
    on_progress: Callable[[int, Curve], None]
    on_result: Callable[[TrainResult], None]
    ground: int = 0

    @property
    def name(self) -> str:
        """For people."""
        return f"the training of {self.checkpoint.name.split('.')[0]}"

    def task(self) -> SeedTask:
        """What differs from the others'."""
        checkpoint = self.checkpoint.read_bytes() if self.checkpoint.exists() else None
        return SeedTask(self.ground, self.settings, checkpoint)

    def heard(self, message: _Progress) -> None:
        """Keeps a checkpoint and tells of progress."""
        if message.checkpoint is not None:
            part = self.checkpoint.with_name(self.checkpoint.name + ".part")
            part.write_bytes(message.checkpoint)
            part.replace(self.checkpoint)
        self.on_progress(message.steps, message.point)

    def done(self, value: TrainResult) -> None:
        """Hands the result on."""
        self.on_result(value)


def train_seed(shared: SeedsShared, report: Report, task: SeedTask) -> TrainResult:
    """Trains; the policy has its score card, on requests that chose nothing."""
    courses, validation = shared.grounds[task.ground]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pt"
        if task.checkpoint is not None:
            path.write_bytes(task.checkpoint)
        sent_steps = -1

        def tell(steps: int, point: Curve) -> None:
            nonlocal sent_steps
            is_new = point.steps != sent_steps and path.exists()
            sent_steps = point.steps
            report(_Progress(steps, point, path.read_bytes() if is_new else None))

        result = train_ppo(
            courses,
            task.settings,
            validation=validation or None,
            start=shared.start,
            checkpoint=path,
            on_progress=tell,
        )
    baselines = {name: make_policy(name) for name in POLICIES}
    card = make_score_card(result.policy, [course.world for course in courses], baselines, CARD_SEEDS)
    result.policy.metadata.update(card.record())
    return result
