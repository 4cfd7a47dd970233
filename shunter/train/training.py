"""A training under way, whatever its algorithm: validated now and then, resumed from checkpoints."""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shunter.agents.learned.file import training_record
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.learned.weights import to_vector
from shunter.envs.world.world import World, with_absolute_paths
from shunter.reading import reading
from shunter.train.result import Curve, OnProgress, TrainResult
from shunter.train.settings import VALIDATION_SEEDS, TrainSettings, plain
from shunter.train.validation import PolicyValidation, cut_off_late

__all__ = ["run"]


def training_digest(
    worlds: Sequence[World], validation: Sequence[World] = (), start: LearnedPolicy | None = None
) -> str:
    """Names what a training is of besides its settings: worlds, loads, predictions, and what it starts from.

    A checkpoint or a policy of another task is not gone on with.
    """
    found = hashlib.sha256()
    for part in (worlds, validation):
        found.update(f"{len(part)} worlds".encode())
        for world in part:
            found.update(with_absolute_paths(world).content())
    if start is not None:
        found.update(to_vector(start.weights).tobytes())
    return found.hexdigest()[:16]


class Training(ABC):
    """A training, segment by segment, with a validation after each.

    What is random in a segment is drawn anew for it, so that a checkpoint between segments holds no state of
    random numbers: a resumed training is the uninterrupted one.

    Args:
        worlds: Worlds to be good in; episodes that take far too long are cut off.
        settings: Settings of the algorithm.
        validation: Worlds that choose the numbers to keep; by default those to be good in.
        start: A policy to start from.

    Attributes:
        curve: All validations so far.
        best: The policy of the best validation; None before the first.
        before_s: Seconds spent on training before a resumption.
        start_s: Seconds spent on the policy that it starts from.
    """

    settings: TrainSettings

    def __init__(
        self,
        worlds: Sequence[World],
        settings: TrainSettings,
        *,
        validation: Sequence[World] | None = None,
        start: LearnedPolicy | None = None,
    ) -> None:
        self.begun_s, self.before_s = time.monotonic(), 0.0
        self.settings, self.start = settings, start
        self.start_s = 0.0 if start is None else start.number("elapsed_s", 0.0)
        self.task = training_digest(worlds, validation or (), start)
        self.worlds = [cut_off_late(world) for world in worlds]
        judged = self.worlds if validation is None else list(validation)
        self.validation = PolicyValidation(judged, VALIDATION_SEEDS[: settings.validation_seeds])
        self.curve: list[Curve] = []
        self.best: LearnedPolicy | None = None

    @property
    def asked(self) -> dict[str, Any]:
        """What a checkpoint must have been written for, to go on from it: the settings and the task."""
        return {**plain(self.settings), "task": self.task}

    @property
    @abstractmethod
    def decisions(self) -> int:
        """Simulated for the training so far."""

    @property
    @abstractmethod
    def share(self) -> float:
        """How much is done, 0 to 1; nothing until it is known how much there is."""

    @abstractmethod
    def candidate(self) -> LearnedPolicy:
        """What it has come to, to be validated."""

    @abstractmethod
    def segment(self, report: Callable[[], None] = lambda: None) -> None:
        """Trains until the next validation; calls ``report`` in between, but not at its end."""

    @abstractmethod
    def restore(self, path: Path) -> None:
        """Goes on where a checkpoint was written.

        Raises:
            InputError: It was written with other settings or of another task; names the first difference.
            BrokenFileError: It is damaged, or no checkpoint.
        """

    @abstractmethod
    def save(self, path: Path) -> None:
        """Writes a checkpoint, whole or not at all."""

    @abstractmethod
    def close(self) -> None:
        """Ends its threads."""

    def begin(self) -> None:
        """What comes first where there is no checkpoint: a validation of what it begins as."""
        self.validate()

    def facts(self) -> dict[str, str]:
        """What else the policy's file says of it."""
        return {}

    def diagnostics(self) -> dict[str, float]:
        """How training itself goes, by name; nothing before it has begun."""
        return {}

    @property
    def elapsed_s(self) -> float:
        """Spent on training, before a resumption too."""
        return self.before_s + time.monotonic() - self.begun_s

    @property
    def tired(self) -> bool:
        """Whether nothing has become better for as many validations as the settings have patience for."""
        ratios = [point.ratio for point in self.curve]
        waited = len(ratios) - 1 - ratios.index(min(ratios))
        return 0 < self.settings.patience <= waited

    def validate(self) -> None:
        """Scores what it has come to; of equals the earlier is kept."""
        policy = self.candidate()
        ratio = self.validation.ratio(policy)
        if self.best is None or ratio < min(point.ratio for point in self.curve):
            self.best = policy
        self.curve.append(Curve(self.decisions, self.elapsed_s, ratio, self.diagnostics()))

    @property
    def over(self) -> bool:
        """Whether all is done, or nothing has become better for long."""
        return self.tired or self.share >= 1.0

    def result(self, *, interrupted: bool = False) -> TrainResult:
        """What came of it; the policy's time includes that of the policy it started from.

        Raises:
            KeyboardInterrupt: It was interrupted before anything was validated.
        """
        if self.best is None:
            raise KeyboardInterrupt
        settings = plain(self.settings)
        ratios = [point.ratio for point in self.curve]
        if ratios[0] == min(ratios):
            self.best.metadata["kept"] = "untrained" if self.start is None else "start"
        self.best.metadata.update(
            training_record(
                self.worlds, steps=self.decisions, seed=self.settings.seed, settings=settings, task=self.task
            ),
            baseline=self.validation.baseline,
            elapsed_s=f"{self.start_s + self.elapsed_s:.1f}",
            validation_ratio=f"{min(ratios):.4f}",
            **self.facts(),
        )
        return TrainResult(self.best, self.curve, self.validation.baseline, interrupted)


def run(
    training: Training, *, checkpoint: Path | None = None, on_progress: OnProgress | None = None
) -> TrainResult:
    """Takes a training to its end; after Ctrl-C the best so far is returned.

    Args:
        training: Just made; closed at the end.
        checkpoint: File to write at every validation, and to go on from if it is there.
        on_progress: Called with how much is done, 0 to 1, and the latest validation.

    Raises:
        InputError: The checkpoint is of a training with other settings.
        BrokenFileError: The checkpoint is damaged.
        KeyboardInterrupt: Ctrl-C came before anything was validated.
    """

    def report() -> None:
        if on_progress is not None:
            on_progress(training.share, training.curve[-1])

    interrupted = False
    try:
        if checkpoint is not None and checkpoint.exists():
            with reading(checkpoint, "no checkpoint of this training: "):
                training.restore(checkpoint)
        else:
            training.begin()
        while not training.over:
            training.segment(report)
            training.validate()
            if checkpoint is not None:
                training.save(checkpoint)
            report()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        training.close()
    return training.result(interrupted=interrupted)
