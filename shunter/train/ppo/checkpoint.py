"""Checkpoints of a training: weights, optimiser and curve, written whole and read without running code."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeInt

from shunter.files import write_bytes
from shunter.reading import reading
from shunter.train.search.checkpoint import Progress, check_settings


class Steps(Progress):
    """How far a training is.

    Attributes:
        steps: Decisions so far.
    """

    steps: NonNegativeInt


@dataclass(frozen=True)
class PpoCheckpoint:
    """All that a training needs to go on.

    Attributes:
        settings: Settings of the training, by name.
        policy: State of the torch module.
        average: State of the running average of its weights.
        optimizer: State of Adam.
        best: Weights of the best validation, as in a policy file.
        steps: Decisions so far.
        elapsed_s: Seconds spent on these decisions.
        curve: (steps, elapsed_s, ratio) of each validation.
    """

    settings: dict[str, Any]
    policy: dict[str, Any]
    average: dict[str, Any]
    optimizer: dict[str, Any]
    best: dict[str, NDArray[np.float32]]
    steps: int
    elapsed_s: float
    curve: list[tuple[int, float, float]]


def write_checkpoint(checkpoint: PpoCheckpoint, path: Path) -> None:
    """Writes a checkpoint, whole or not at all."""
    content = {name: getattr(checkpoint, name) for name in PpoCheckpoint.__dataclass_fields__}
    content["best"] = {key: torch.from_numpy(value) for key, value in checkpoint.best.items()}
    held = io.BytesIO()
    torch.save(content, held)
    write_bytes(path, held.getvalue())


def read_checkpoint(path: Path, settings: dict[str, Any]) -> PpoCheckpoint:
    """Reads a checkpoint of a training with these settings.

    Raises:
        InputError: It was written with others; names the first.
        BrokenFileError: It is damaged, or no checkpoint.
    """
    with reading(path, "no checkpoint of a training: "):
        # weights_only: tensors and plain values, so that a stranger's file cannot run code.
        content = torch.load(path, weights_only=True)
        content["best"] = {key: value.numpy() for key, value in content["best"].items()}
        checkpoint = PpoCheckpoint(**content)
        weights = [*checkpoint.policy.values(), *checkpoint.average.values()]
        if not all(torch.isfinite(one).all() for one in weights):
            raise ValueError("its weights must be finite numbers")
    check_settings(path, checkpoint.settings, settings)
    return checkpoint
