"""The cells that policies are compared in: scenarios of the library at three shares of their capacity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from shunter.envs.scenario.library import scenario_names
from shunter.envs.scenario.scenario import load_scenario
from shunter.envs.workload.shares import shares_of
from shunter.envs.world.world import World, make_world
from shunter.errors import InputError

__all__ = ["DRAIN", "LOADS", "Cell", "cell_world", "cells", "kinds"]

LOADS = (0.5, 0.7, 0.9)
"""Shares of a scenario's capacity, as ``shunter scenarios check`` measures it."""

DRAIN = 10.0
"""An episode that has not drained by this many times its last arrival is unstable, and cut off."""

SKEWED = 0.74
"""Share of requests of the most popular model from which on demand is skewed."""

STARVING = 20.0
"""Requests of the busy model for each of the rare one's."""


@dataclass(frozen=True)
class Cell:
    """One scenario at one load.

    Attributes:
        scenario: Name in the library.
        load: Share of its capacity.
    """

    scenario: str
    load: float

    @property
    def name(self) -> str:
        """In tables."""
        return f"{self.scenario} at {self.load:g}"


def cells(split: str | None = None, loads: Sequence[float] = LOADS) -> list[Cell]:
    """All cells of the library, or of one of its splits."""
    names = [name for name in scenario_names() if split in (None, load_scenario(name).split)]
    return [Cell(name, load) for name in names for load in loads]


def cell_world(cell: Cell, seeds: Sequence[int]) -> World:
    """The world of a cell; its episodes are cut off once the last of these seeds' is unstable.

    Raises:
        InputError: The scenario's capacity was not measured.
    """
    world = _world(cell.scenario)
    if world.scenario.workload.capacity_rate_per_s is None:
        raise InputError(cell.scenario, "have a capacity: shunter scenarios check --write", None)
    world = world.at_rate(world.rate_at(cell.load))
    last_s = max(float(world.draw(seed).arrival_ns[-1]) for seed in seeds) * 1e-9
    return cut_off(world, DRAIN * last_s)


def cut_off(world: World, max_time_s: float) -> World:
    """The same world with another limit on its episodes' time."""
    limits = world.scenario.limits.model_copy(update={"max_time_s": max_time_s})
    scenario = world.scenario.model_copy(update={"limits": limits})
    return replace(world, scenario=scenario, tables=world.tables.changed(max_time_ns=round(max_time_s * 1e9)))


def kinds(scenario: str) -> tuple[str, ...]:
    """What is hard about a scenario, as its file shows; a scenario may be of several kinds."""
    loaded = load_scenario(scenario)
    workload, devices, models = loaded.workload, len(loaded.devices), len(loaded.models)
    shares = shares_of(loaded)
    skewed, equal = shares.max() >= SKEWED, len({d.hardware_name for d in loaded.devices}) == 1
    crowded = models > 2 * devices
    changing = workload.sessions is not None or workload.popularity_drift_s is not None
    arrivals = workload.arrivals
    bursty = any(one is not None for one in (arrivals.bursts, arrivals.diurnal, arrivals.steps))
    found = {
        "several devices": devices > 1,
        "prefetch": devices > 1 and workload.sessions is not None,
        "half resident": models == 2 and any(len(m.levels) > 1 for m in loaded.models),
        "alternation and drift": changing,
        "bursts and swings": bursty,
        "SLO tails": loaded.objective.slo is not None,
        "starvation": devices == 1 and models == 2 and shares[0] >= STARVING * shares[1],
        "replicas": devices > 1 and equal and not crowded and (skewed or models < devices),
        "skew": devices > 1 and crowded and skewed,
        "steady plus rare": devices <= 2 and crowded and skewed and not changing,
        "one device, steady": devices == 1 and not changing and not bursty,
        "held out": loaded.split == "test",
    }
    return tuple(kind for kind, holds in found.items() if holds)


@cache
def _world(scenario: str) -> World:
    return make_world(scenario)
