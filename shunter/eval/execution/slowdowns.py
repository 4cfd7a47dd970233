"""Machines slower or quicker than profiled: a world whose operations take longer, and a course of factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, FiniteFloat

from shunter.envs.scenario.fields import checked
from shunter.envs.world.world import World
from shunter.errors import InputError
from shunter.eval.execution.sentinel import PARTS
from shunter.reading import read_json

__all__ = ["Slowdowns"]

MOST = 100.0
"""A factor beyond this, or below its inverse, is a mistake: nothing runs on such a machine."""


@dataclass(frozen=True)
class Slowdowns:
    """How many times as long as predicted operations take, over a run.

    Attributes:
        at_s: (K,) seconds since the run's start from which factors hold, ascending from 0.
        factors: (K, D, 3) for each device's loads, prefills and decodes, which begin from then on.
        source: What they are of, for who reads of it.

    Raises:
        InputError: Times do not ascend from 0, or a factor is not between 1/100 and 100.
    """

    at_s: NDArray[np.float64]
    factors: NDArray[np.float64]
    source: str = "a course of factors"

    def __post_init__(self) -> None:
        at_s = np.asarray(self.at_s)
        if len(at_s) == 0 or at_s[0] != 0 or not (np.diff(at_s) > 0).all():
            raise InputError("at_s", "ascend from 0", at_s.tolist())
        if self.factors.ndim != 3 or self.factors.shape[::2] != (len(at_s), len(PARTS)):
            rule = f"be ({len(at_s)}, devices, {len(PARTS)}): times, devices and parts"
            raise InputError("factors", rule, self.factors.shape)
        if not ((self.factors >= 1 / MOST) & (self.factors <= MOST)).all():
            raise InputError("factors", f"lie between {1 / MOST:g} and {MOST:g}", self.factors.tolist())

    def worlds(self, world: World) -> list[World]:
        """The world as it is from each time on.

        Raises:
            InputError: The factors are of another number of devices.
        """
        if self.factors.shape[1] != world.devices:
            raise InputError("factors", f"be of {world.devices} devices", self.factors.shape[1])
        return [
            slowed(world, [dict(zip(PARTS, map(float, one), strict=True)) for one in each])
            for each in self.factors
        ]

    @property
    def words(self) -> str:
        """What was simulated, in a line."""
        mean, least, most = np.exp(np.log(self.factors).mean()), self.factors.min(), self.factors.max()
        return (
            f"Simulated on a machine {mean:.2f} × as slow as when profiled, {least:.2f} to {most:.2f} ×: "
            f"{self.source}."
        )

    def at(self, time_s: float) -> int:
        """Which factors hold at a time: an index of ``at_s``."""
        return max(0, int(np.searchsorted(self.at_s, time_s, side="right")) - 1)


class _Seen(BaseModel):
    """What the sentinel saw on a device once; see ``shunter.eval.execution.sentinel.Reading``."""

    at_s: FiniteFloat
    device: str
    slowdowns: dict[str, Annotated[float, Field(ge=1 / MOST, le=MOST)]]


class _Machine(BaseModel):
    sentinel: Annotated[list[_Seen], Field(min_length=1)]


class _Results(BaseModel):
    machine: _Machine


def read_slowdowns(path: Path, world: World) -> Slowdowns:
    """How slow the machine was while real runs went on, as the sentinel saw it, from its first look on.

    Args:
        path: A folder that ``shunter eval --real`` wrote, or its ``results.json``.
        world: Its devices are those of the evaluation, by name.

    Raises:
        BrokenFileError: The file cannot be read.
        InputError: It is of an evaluation that measured no machine, or of other devices.
    """
    file = path / "results.json" if path.is_dir() else path
    found = checked(_Results, read_json(file), source=str(file), whole="results")
    seen = sorted(found.machine.sentinel, key=lambda one: one.at_s)
    names = [device.name for device in world.scenario.devices]
    if {one.device for one in seen} != set(names):
        rule = f"be of an evaluation on the devices {', '.join(names)}"
        raise InputError("--slowdowns", rule, ", ".join(dict.fromkeys(one.device for one in seen)))
    first = [next(one for one in seen if one.device == name) for name in names]
    now = np.array([_factors(one) for one in first])
    course = {0.0: now.copy()}
    for one in seen:
        now[names.index(one.device)] = _factors(one)
        course[one.at_s - seen[0].at_s] = now.copy()
    return Slowdowns(np.array([*course]), np.array([*course.values()]), f"as {file} recorded it")


def _factors(one: _Seen) -> list[float]:
    missing = [part for part in PARTS if part not in one.slowdowns]
    if missing:
        raise InputError("--slowdowns", f"tell slowdowns of {', '.join(PARTS)}", one.slowdowns)
    return [one.slowdowns[part] for part in PARTS]


def slowed(world: World, factors: Sequence[dict[str, float]]) -> World:
    """A world whose operations take longer than predicted.

    Args:
        world: The compiled scenario.
        factors: For each device by how much a ``load``, a ``prefill`` and a ``decode`` do; unloads go with
            loads, and KV copies, which are memory's, with decodes.
    """
    load, prefill, decode = (np.array([one[part] for one in factors])[:, None, None] for part in PARTS)
    tables = world.tables
    loads = ("load_s", "cold_load_s", "unload_s", "wake_s", "fall_asleep_s")
    times = {name: getattr(tables, name) * load for name in loads}
    copies = {name: getattr(tables, name) * decode[..., None] for name in ("kv_save_s", "kv_restore_s")}
    changed = tables.changed(**times)._replace(
        prefill_s=tables.prefill_s * prefill[..., None],
        step_s=tables.step_s * decode[..., None, None],
        **copies,
    )
    return replace(world, tables=changed)
