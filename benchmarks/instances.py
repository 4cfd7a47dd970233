"""Small instances for the clairvoyant bound: 12 to 30 requests, 3 or 4 models, memory for at most two."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from benchmarks.sim_worlds import synthetic_world
from shunter.envs.state.state import Requests
from shunter.envs.world.world import World

__all__ = ["INSTANCES", "Instance", "small_world"]

FOOTPRINT_SHARE = (0.48, 0.36, 2.0)
"""Share of the device's memory that a model takes at each level: two fit, never three; at level 0 none."""

QUANTUM_STEPS, QUANTUM_S, WAIT_S = 256, 30.0, 120.0
"""Longer than a server would choose, so that an instance has tens of decisions and not hundreds."""


@dataclass(frozen=True)
class Instance:
    """One instance.

    Attributes:
        requests: How many.
        models: How many.
        devices: All alike.
        rate_per_s: Arrivals.
        seed: Seed of the workload.
    """

    requests: int
    models: int
    devices: int
    rate_per_s: float
    seed: int

    @property
    def name(self) -> str:
        """In tables."""
        return f"{self.requests}r-{self.models}m-{self.devices}d-{self.rate_per_s:g}/s-{self.seed}"

    def world(self) -> World:
        """The world."""
        return small_world(self.models, self.devices, rate_per_s=self.rate_per_s, requests=self.requests)

    def make(self) -> tuple[World, Requests]:
        """The world and the requests."""
        world = self.world()
        return world, world.draw(self.seed)


def small_world(models: int, devices: int, *, rate_per_s: float, requests: int) -> World:
    """A synthetic world whose devices hold at most two models each, at two levels.

    Args:
        models: How many.
        devices: All alike.
        rate_per_s: Arrivals.
        requests: Requests of an episode.
    """
    world = synthetic_world(models, devices, rate_per_s=rate_per_s, requests=requests)
    capacity = world.tables.capacity_bytes[0]
    footprint = np.broadcast_to(np.array(FOOTPRINT_SHARE) * capacity, world.levels)
    tables = world.tables.changed(
        footprint_bytes=footprint,
        level_ok=world.tables.level_ok & (footprint <= capacity),
        quantum_steps=QUANTUM_STEPS,
        quantum_ns=round(QUANTUM_S * 1e9),
        max_wait_ns=round(WAIT_S * 1e9),
    )
    return replace(world, tables=tables)


INSTANCES = tuple(
    Instance(requests, models, devices, rate_per_s, seed)
    for requests, models, devices, rate_per_s in (
        (12, 3, 1, 0.1),
        (12, 3, 1, 0.3),
        (12, 4, 2, 0.4),
        (20, 3, 1, 0.15),
        (20, 4, 1, 0.15),
        (20, 4, 2, 0.3),
        (30, 4, 1, 0.15),
        (30, 4, 2, 0.3),
    )
    for seed in (0, 1)
)
"""The committed ones."""
