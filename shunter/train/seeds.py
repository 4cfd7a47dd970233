"""Trainings that differ in their seed or worlds, as jobs: one after another, or side by side on a cluster.

A training's checkpoints are the driver's: where a node dies, it goes on elsewhere from the last one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from shunter.agents.learned.policy import LearnedPolicy
from shunter.envs.workload.seed_ranges import SEED_RANGES
from shunter.envs.world.world import World
from shunter.files import write_bytes
from shunter.jobs import Job, Report
from shunter.reading import read_bytes
from shunter.train.algorithms import train_policy
from shunter.train.result import Curve, OnProgress, TrainResult
from shunter.train.settings import TrainSettings
from shunter.train.verdict import judge

__all__ = ["CARD_SEEDS"]

CARD_SEEDS = SEED_RANGES["score card"]
"""Workload seeds of the score card in a policy's file; they chose nothing."""


class TrainingTasks(NamedTuple):
    """Where a training takes place.

    Attributes:
        worlds: Worlds to train in.
        validation: Worlds that choose the numbers to keep; if there are none, those to train in.
    """

    worlds: list[World]
    validation: list[World]


@dataclass(frozen=True)
class SeedsShared:
    """What the trainings share.

    Attributes:
        task_sets: Each training has one of them.
        start: A policy to start from.
    """

    task_sets: list[TrainingTasks]
    start: LearnedPolicy | None = None


class SeedTask(NamedTuple):
    """What a training is told.

    Attributes:
        task_set: Index into ``SeedsShared.task_sets``.
        settings: Settings of the algorithm, the seed included.
        checkpoint: Bytes of the last checkpoint, if there is one.
    """

    task_set: int
    settings: TrainSettings
    checkpoint: bytes | None


class _Progress(NamedTuple):
    share: float
    point: Curve
    checkpoint: bytes | None


@dataclass
class SeedTraining(Job):
    """One training.

    Attributes:
        settings: Settings of the algorithm, the seed included.
        checkpoint: File that is kept up to date, and gone on from if it is there.
        on_progress: Called with how much is done, 0 to 1, and the latest validation.
        on_result: Called with the result.
        task_set: Index into ``SeedsShared.task_sets``.
        on_begin: Called when it begins, again if a worker is lost.
    """

    settings: TrainSettings
    checkpoint: Path
    on_progress: OnProgress
    on_result: Callable[[TrainResult], None]
    task_set: int = 0
    on_begin: Callable[[], object] = lambda: None

    @property
    def name(self) -> str:
        """Name of the training, for people."""
        return f"the training of {self.checkpoint.name.split('.')[0]}"

    def task(self) -> SeedTask:
        """What differs from the others'."""
        self.on_begin()
        checkpoint = read_bytes(self.checkpoint) if self.checkpoint.exists() else None
        return SeedTask(self.task_set, self.settings, checkpoint)

    def on_message(self, message: _Progress) -> None:
        """Keeps a checkpoint and tells of progress."""
        if message.checkpoint is not None:
            write_bytes(self.checkpoint, message.checkpoint)
        self.on_progress(message.share, message.point)

    def done(self, value: TrainResult) -> None:
        """Hands the result on."""
        self.on_result(value)


def train_seed(shared: SeedsShared, report: Report, task: SeedTask) -> TrainResult:
    """Trains; the policy has its score card and what training added, on requests that chose nothing.

    Ctrl-C while that is found out leaves the policy without it, as one that was interrupted.
    """
    worlds, validation = shared.task_sets[task.task_set]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint"
        if task.checkpoint is not None:
            path.write_bytes(task.checkpoint)
        sent_steps = -1

        def on_progress(share: float, point: Curve) -> None:
            nonlocal sent_steps
            is_new = point.steps != sent_steps and path.exists()
            sent_steps = point.steps
            report(_Progress(share, point, path.read_bytes() if is_new else None))

        result = train_policy(
            worlds,
            task.settings,
            validation=validation or None,
            start=shared.start,
            checkpoint=path,
            on_progress=on_progress,
        )
    try:
        result.policy.metadata.update(judge(result.policy, worlds, CARD_SEEDS, start=shared.start))
    except KeyboardInterrupt:  # what was trained is kept; to go on judges it
        return replace(result, interrupted=True)
    return result
