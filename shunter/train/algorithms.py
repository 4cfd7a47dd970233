"""Trainings by any algorithm, behind one function."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shunter.agents.learned.policy import LearnedPolicy
from shunter.envs.world.world import World
from shunter.errors import InputError, ShunterError
from shunter.reading import reading
from shunter.train.result import OnProgress, TrainResult
from shunter.train.settings import EvolutionSettings, PpoSettings, TrainSettings, algorithm_of, plain
from shunter.train.training import Training, run

__all__ = ["train_policy"]


def train_policy(
    worlds: World | Sequence[World],
    settings: TrainSettings | None = None,
    *,
    validation: Sequence[World] | None = None,
    start: LearnedPolicy | None = None,
    checkpoint: Path | None = None,
    on_progress: OnProgress | None = None,
) -> TrainResult:
    """Trains a policy on worlds; after Ctrl-C the best so far is returned.

    Args:
        worlds: The world, or worlds, to be good in.
        settings: Settings of the algorithm, whose type says which: ``EvolutionSettings`` (the default) or
            ``PpoSettings``.
        validation: Worlds that choose the numbers to keep; by default those to be good in.
        start: A policy to start from, trained by either algorithm.
        checkpoint: File to write at every validation, and to go on from if it is there.
        on_progress: Called with how much is done, 0 to 1, and the latest validation.

    Raises:
        InputError: The checkpoint is of a training with other settings, the start has a network of another
            width, or an objective is none that the algorithm takes.
        BrokenFileError: The checkpoint is damaged.
        ShunterError: The algorithm needs an extra that is not installed.
    """
    settings = settings or EvolutionSettings()
    every = [worlds] if isinstance(worlds, World) else list(worlds)
    training: Training
    if isinstance(settings, EvolutionSettings):
        from shunter.train.search.evolution import Search

        training = Search(every, settings, validation=validation, start=start)
    else:
        check_installed(settings)
        from shunter.train.ppo.ppo import PpoTraining

        training = PpoTraining(every, settings, validation=validation, start=start)
    return run(training, checkpoint=checkpoint, on_progress=on_progress)


def check_installed(settings: TrainSettings) -> None:
    """Whether what an algorithm needs is there.

    Raises:
        ShunterError: It is not; says what to install.
    """
    if isinstance(settings, PpoSettings):
        try:
            import shunter.train.ppo.ppo  # noqa: F401 - to see whether it can be
        except ImportError as error:
            raise ShunterError(
                f"maskable-ppo needs the extra: pip install 'shunter[train]' ({error})"
            ) from None


def check_checkpoint(path: Path, settings: TrainSettings, task: str) -> None:
    """Whether a training of this task (``training.training_digest``) can go on from a checkpoint.

    Raises:
        InputError: It was written with other settings, of another task or by another algorithm.
        BrokenFileError: It is damaged, or no checkpoint.
    """
    algorithm, written_by = algorithm_of(settings), _writer_of(path)
    if written_by not in (None, algorithm):
        rule = f"be that of the checkpoint {path}, {written_by}, to go on from it"
        raise InputError("--algorithm", rule, algorithm)
    if isinstance(settings, EvolutionSettings):
        from shunter.train.search.checkpoint import read_search

        read_search(path, {**plain(settings), "task": task})
    else:
        from shunter.train.ppo.checkpoint import read_checkpoint

        read_checkpoint(path, {**plain(settings), "task": task})


def _writer_of(path: Path) -> str | None:
    """Whose checkpoint a file is, by how it begins: torch writes zip archives, a search safetensors."""
    with reading(path), path.open("rb") as file:
        begin = file.read(9)
    if begin.startswith(b"PK"):
        return "maskable-ppo"
    return "evolution" if begin.endswith(b"{") else None
