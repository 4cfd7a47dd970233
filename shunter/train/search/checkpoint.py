"""Checkpoints of a search: numbers and curve, written whole and read without running code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, NonNegativeInt

from shunter.envs.scenario.fields import checked
from shunter.errors import InputError
from shunter.reading import reading
from shunter.tensors import read_tensors, write_tensors

__all__ = ["ARRAYS", "SearchCheckpoint", "read_search", "write_search"]

ARRAYS = {"center", "average", "first", "second", "best"}

ADDED = {"shared": 0.0}
"""Settings that older checkpoints do not name, with what they did."""


class Progress(BaseModel):
    """What checkpoints of all trainings say of how far they are.

    Attributes:
        curve: (steps, elapsed_s, ratio) of each validation.
        elapsed_s: Seconds spent.
    """

    curve: Annotated[list[tuple[int, float, float]], Field(min_length=1)]
    elapsed_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class SearchState(Progress):
    """What a search's state says besides its settings.

    Attributes:
        width: Width of the network.
        generation: Generations so far.
        generations: As many as are planned; 0: that is not known yet.
        decisions: Simulated so far.
    """

    width: int
    generation: NonNegativeInt
    generations: NonNegativeInt
    decisions: NonNegativeInt


@dataclass(frozen=True)
class SearchCheckpoint:
    """All that a search needs to go on.

    Attributes:
        arrays: Vectors: where it is, the running average and Adam's two means, of one size; the best found.
        state: Plain data: settings, curve, counts and time.
    """

    arrays: dict[str, NDArray[np.float64]]
    state: dict[str, Any]


def write_search(checkpoint: SearchCheckpoint, path: Path) -> None:
    """Writes a checkpoint, whole or not at all."""
    state = json.dumps(checkpoint.state)
    write_tensors(path, checkpoint.arrays, {"state": state})


def read_search(path: Path, settings: dict[str, Any]) -> SearchCheckpoint:
    """Reads a checkpoint of a search with these settings.

    Raises:
        InputError: It was written with others, names the first; or its state cannot be.
        BrokenFileError: It is damaged, or no checkpoint.
    """
    found, header, _ = read_tensors(path)
    with reading(path, "no checkpoint of a search: "):
        state = json.loads(header["state"])
        arrays = {key: found[key] for key in ARRAYS}
        known = {**ADDED, **state["settings"]}
        moved = {array.shape for key, array in arrays.items() if key != "best"}  # has the network too
        if len(moved) != 1 or {array.ndim for array in arrays.values()} != {1}:
            raise ValueError("its vectors are not of one size")
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise ValueError("its vectors must hold finite numbers")
    check_settings(path, known, settings)
    progress = checked(SearchState, state, source=str(path), whole="state")
    return SearchCheckpoint(arrays, {**state, **progress.model_dump()})


def check_settings(path: Path, known: dict[str, Any], settings: dict[str, Any]) -> None:
    """Refuses to go on with another task or other settings than a checkpoint's.

    Raises:
        InputError: Names the first that differs.
    """
    for name, value in settings.items():
        if known.get(name) != value and name == "task":
            rule = f"be of the scenarios, loads and start (--from) of the checkpoint {path}, to go on from it"
            raise InputError("--resume", rule, "others, or a checkpoint of before that does not tell")
        if known.get(name) != value:
            rule = f"be that of the checkpoint {path}, {known.get(name)}, to go on from it"
            raise InputError(f"--{name.replace('_', '-')}", rule, value)
