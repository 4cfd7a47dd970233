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
from shunter.engines.fake.engine import FakeVirtualClock as EngineClock
from shunter.envs.state.state import KV_LIVE, KV_SAVED, State, in_use
from shunter.envs.world.world import World
from shunter.eval.execution.backends import EngineBackend
from shunter.eval.execution.clocks import VirtualClock
from shunter.eval.execution.device_executor import DeviceExecutor
from shunter.eval.execution.faults.failures import Failure, Fault
from shunter.eval.execution.runs import Run, run_policy
from tests.fake_executor import TableDurations

HANG_S = 3.0
START_S = 0.5
ERRORS: dict[str, type[EngineError]] = {
    "killed": WorkerDiedError,
    "hung": WorkerTimeoutError,
    "out of memory": DeviceMemoryError,
    "error": EngineError,
}
STRUCK = ("load", "unload", "fall_asleep", "prefill", "decode", "save_kv", "restore_kv")


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


class CheckedBackend(EngineBackend):
    """Looks at the books after every failure."""

    def _fail(self, state: State, device: int, fault: Fault) -> Failure:
        failure = super()._fail(state, device, fault)
        check_books(state)
        lost = [name in fault.lost for name in self._names]
        slots = state.slot[in_use(state)]
        held = slots[(slots["home"] == device) & np.isin(slots["model"], np.flatnonzero(lost))]
        assert not np.isin(held["kv"], (KV_LIVE, KV_SAVED)).any()
        assert (state.place["resident"][device, lost] == -1).all()
        assert (state.place["asleep"][device, lost] == -1).all()
        return failure


def check_books(state: State) -> None:
    """What the state counts is what its slots hold."""
    slots = state.slot[in_use(state)]
    free = slots[slots["owner"] < 0]
    assert len(slots) == state.clock["in_system"][0]
    for m in range(len(state.model)):
        mine = free[free["model"] == m]
        unassigned = mine[mine["home"] < 0]
        assert (slots["model"] == m).sum() == state.model["queue_length"][m]
        assert len(unassigned) == state.model["unassigned"][m]
        assert (unassigned["generated"] > 0).sum() == state.model["unassigned_started"][m]
        for d in range(len(state.device)):
            assert (mine["home"] == d).sum() == state.place["held"][d, m]


def faulty_device_executor(
    world: World, device: int, fate: Fate, durations: TableDurations | None = None
) -> DeviceExecutor:
    """A device_executor whose engine takes START_S to start again."""
    layers = {m.name: max(levels) for m, levels in zip(world.scenario.models, world.gpu_layers, strict=True)}
    clock = EngineClock()
    durations = durations or TableDurations(world=world, device=device)
    capacity = int(world.tables.capacity_bytes[device])

    def start(_: str) -> FaultyEngine:
        clock.now_s += START_S if device_executor.workers else 0.0
        return FaultyEngine(fate, durations, clock, total_layers=layers, memory_bytes=capacity)

    device_executor = DeviceExecutor(
        device,
        world.scenario.devices[device].name,
        worker_of={model.name: "fake" for model in world.scenario.models},
        start=start,
        now_s=lambda: clock.now_s,
    )
    device_executor.open()
    return device_executor


def execute_faulty(world: World, policy: Policy, seed: int, fate: Fate) -> tuple[Run, list[list[int]]]:
    """Runs a policy on engines that fail; returns the run and all tokens of every request."""
    device_executors = [faulty_device_executor(world, d, fate) for d in range(world.devices)]
    requests = world.draw(seed)
    backends: list[EngineBackend] = []

    def make_backend(on_end: Any) -> EngineBackend:
        clock = VirtualClock([device_executor.workers["fake"].clock for device_executor in device_executors])
        backends.append(
            CheckedBackend(world, requests, on_end, device_executors, clock, [512] * world.models, seed)
        )
        return backends[0]

    run = run_policy(world, requests, policy, seed=seed, make_backend=make_backend, mode="real")
    assert all(
        device_executor.is_empty and device_executor.memory().device_bytes == 0
        for device_executor in device_executors
    )
    return run, backends[0].tokens
