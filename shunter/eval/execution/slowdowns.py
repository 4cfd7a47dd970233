"""Machines slower or quicker than profiled: a world whose operations take longer, and a course of factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shunter.envs.world.world import World
from shunter.errors import InputError
from shunter.eval.execution.sentinel import PARTS

__all__ = ["Slowdowns", "drawn_slowdowns", "slowed"]

MOST = 100.0
"""A factor beyond this, or below its inverse, is a mistake: nothing runs on such a machine."""


@dataclass(frozen=True)
class Slowdowns:
    """How many times as long as predicted operations take, over a run.

    Attributes:
        at_s: (K,) seconds since the run's start from which factors hold, ascending from 0.
        factors: (K, D, 3) for each device's loads, prefills and decodes, which begin from then on.

    Raises:
        InputError: Times do not ascend from 0, or a factor is not between 1/100 and 100.
    """

    at_s: NDArray[np.float64]
    factors: NDArray[np.float64]

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

    def at(self, time_s: float) -> int:
        """Which factors hold at a time: an index of ``at_s``."""
        return max(0, int(np.searchsorted(self.at_s, time_s, side="right")) - 1)


def drawn_slowdowns(
    devices: int, seed: int, *, until_s: float, mean_s: float, share: float = 0.5, most: float = 2.5
) -> Slowdowns:
    """A machine that others use now and then: each device by itself is as predicted, then slower, and so on.

    Args:
        devices: How many.
        seed: Of the course.
        until_s: Time from which on nothing changes.
        mean_s: Mean of a slow stretch; lengths are exponential.
        share: Share of the time that is slow.
        most: Factors of slow stretches are drawn between 1 and this, evenly in their logarithm; all that the
            device does takes so many times as long.
    """
    rng = np.random.default_rng(seed)
    changes: list[tuple[float, int, float]] = []
    for device in range(devices):
        at_s, slow = 0.0, bool(rng.random() < share)
        while at_s < until_s:
            changes.append((at_s, device, float(most ** rng.random()) if slow else 1.0))
            at_s += float(rng.exponential(mean_s if slow else mean_s * (1 - share) / share))
            slow = not slow
    times = sorted({at_s for at_s, _, _ in changes})
    factors = np.ones((len(times), devices, len(PARTS)))
    for at_s, device, factor in sorted(changes):
        factors[times.index(at_s) :, device] = factor
    return Slowdowns(np.array(times), factors)


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
