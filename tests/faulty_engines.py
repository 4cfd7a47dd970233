"""Fake engines that die, hang or run out of memory by a seeded chance, on virtual clocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shunter.agents.base import Policy
from shunter.engines.base import (
    DeviceMemoryError,
    EngineError,
    WorkerDiedError,
    WorkerTimeoutError,
)
from shunter.engines.fake.engine import FakeEngine
from shunter.engines.fake.engine import VirtualClock as EngineClock
from shunter.envs.state.state import KV_LIVE, KV_SAVED, State, in_use
from shunter.envs.world.world import World
from shunter.eval.execution.clocks import VirtualClock
from shunter.eval.execution.failures import Failure, Fault
from shunter.eval.execution.plants import EnginePlant
from shunter.eval.execution.runs import Run, run_policy
from shunter.eval.execution.station import Station
from tests.fake_executor import TableDurations

HANG_S = 3.0
START_S = 0.5
ERRORS: dict[str, type[EngineError]] = {
    "killed": WorkerDiedError,
    "hung": WorkerTimeoutError,
    "out of memory": DeviceMemoryError,
    "error": EngineError,
}
STRUCK = ("load", "unload", "prefill", "decode", "save_kv", "restore_kv")


@dataclass
class Fate:
    """Which calls fail, and how: chances by kind, and a seed.

    Attributes:
        calls: Names of the calls that may fail.
        struck: Kinds of the failures so far.
        most: Of failures.
    """

    chances: dict[str, float]
    seed: int = 0
    calls: tuple[str, ...] = STRUCK
    most: int = 10**9
    struck: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def draw(self, call: str) -> str | None:
        chance = self.random.random()
        for kind, p in self.chances.items():
            if call in self.calls and chance < p and len(self.struck) < self.most:
                self.struck.append(kind)
                return kind
            chance -= p
        return None


class FaultyEngine(FakeEngine):
    """Fails as its fate says, before or after the call did its work; once dead it stays so."""

    def __init__(self, fate: Fate, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fate = fate
        self.is_dead = False

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name not in (*STRUCK, "memory", "drop_kv"):
            return value

        def call(*args: Any, **options: Any) -> Any:
            if self.is_dead:
                raise WorkerDiedError("the worker takes no more calls")
            kind = self.fate.draw(name)
            result = None
            if kind is None or self.fate.random.random() < 0.5:
                result = value(*args, **options)
            if kind is None:
                return result
            self.clock.now_s += HANG_S if kind == "hung" else 0.0
            self.is_dead = kind in ("killed", "hung")
            raise ERRORS[kind](f"{name}: {kind}")

        return call


class CheckedPlant(EnginePlant):
    """Looks at the books after every failure."""

    def _fail(self, state: State, device: int, fault: Fault) -> Failure:
        failure = super()._fail(state, device, fault)
        check_books(state)
        lost = [name in fault.lost for name in self._names]
        slots = state.slot[in_use(state)]
        held = slots[(slots["home"] == device) & np.isin(slots["model"], np.flatnonzero(lost))]
        assert not np.isin(held["kv"], (KV_LIVE, KV_SAVED)).any()
        assert (state.place["resident"][device, lost] == -1).all()
        return failure


def check_books(state: State) -> None:
    """What the state counts is what its slots hold."""
    slots = state.slot[in_use(state)]
    free = slots[slots["owner"] < 0]
    assert len(slots) == state.clock["in_system"][0]
    for m in range(len(state.model)):
        mine = free[free["model"] == m]
        homeless = mine[mine["home"] < 0]
        assert (slots["model"] == m).sum() == state.model["queue_length"][m]
        assert len(homeless) == state.model["homeless"][m]
        assert (homeless["generated"] > 0).sum() == state.model["homeless_started"][m]
        for d in range(len(state.device)):
            assert (mine["home"] == d).sum() == state.place["held"][d, m]


def faulty_station(world: World, device: int, fate: Fate, durations: TableDurations | None = None) -> Station:
    """A station whose engine takes START_S to start again."""
    layers = {m.name: max(levels) for m, levels in zip(world.scenario.models, world.gpu_layers, strict=True)}
    clock = EngineClock()
    durations = durations or TableDurations(world=world, device=device)
    capacity = int(world.tables.capacity_bytes[device])

    def start(_: str) -> FaultyEngine:
        clock.now_s += START_S if station.workers else 0.0
        return FaultyEngine(fate, durations, clock, total_layers=layers, memory_bytes=capacity)

    station = Station(
        device,
        world.scenario.devices[device].name,
        worker_of={model.name: "fake" for model in world.scenario.models},
        start=start,
        now_s=lambda: clock.now_s,
    )
    station.open()
    return station


def execute_faulty(world: World, policy: Policy, seed: int, fate: Fate) -> tuple[Run, list[list[int]]]:
    """Runs a policy on engines that fail; returns the run and all tokens of every request."""
    stations = [faulty_station(world, d, fate) for d in range(world.devices)]
    requests = world.draw(seed)
    plants: list[EnginePlant] = []

    def make_plant(on_end: Any) -> EnginePlant:
        clock = VirtualClock([station.workers["fake"].clock for station in stations])
        plants.append(CheckedPlant(world, requests, on_end, stations, clock, [512] * world.models, seed))
        return plants[0]

    run = run_policy(world, requests, policy, seed=seed, make_plant=make_plant, world_name="real")
    assert all(station.is_empty and station.memory().device_bytes == 0 for station in stations)
    return run, plants[0].tokens
