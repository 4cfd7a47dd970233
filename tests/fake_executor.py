"""The real executor on fake engines with virtual clocks: the slow reference of the simulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shunter.agents.base import Policy
from shunter.engines.fake.engine import FakeEngine, LinearDurations
from shunter.engines.fake.engine import FakeVirtualClock as VirtualEngineClock
from shunter.envs.rules.durations import interpolate, step_s
from shunter.envs.world.world import World
from shunter.eval.execution.backends import EngineBackend
from shunter.eval.execution.clocks import VirtualClock
from shunter.eval.execution.device_executor import DeviceExecutor
from shunter.eval.execution.runs import Run, run_policy


@dataclass(frozen=True)
class TableDurations(LinearDurations):
    """What a device's tables say."""

    world: World | None = None
    device: int = 0

    def at(self, model: str, gpu_layers: int) -> tuple[int, int, int]:
        assert self.world is not None
        m = [entry.name for entry in self.world.scenario.models].index(model)
        return self.device, m, self.world.gpu_layers[m].index(gpu_layers)

    def load_s(self, model: str, checkpoint: str, gpu_layers: int) -> float:
        return float(self.world.tables.load_s[self.at(model, gpu_layers)])

    def unload_s(self, model: str, gpu_layers: int) -> float:
        return float(self.world.tables.unload_s[self.at(model, gpu_layers)])

    def prefill_s(self, model: str, gpu_layers: int, tokens: int) -> float:
        tables = self.world.tables
        return interpolate(float(tokens), tables.prefill_tokens, tables.prefill_s[self.at(model, gpu_layers)])

    def decode_step_s(self, model: str, gpu_layers: int, batch: int, context_tokens: float) -> float:
        return step_s(self.world.tables, *self.at(model, gpu_layers), batch, context_tokens)

    def kv_save_s(self, model: str, gpu_layers: int, tokens: int) -> float:
        tables = self.world.tables
        return interpolate(float(tokens), tables.context_tokens, tables.kv_save_s[self.at(model, gpu_layers)])

    def kv_restore_s(self, model: str, gpu_layers: int, tokens: int) -> float:
        tables = self.world.tables
        return interpolate(
            float(tokens), tables.context_tokens, tables.kv_restore_s[self.at(model, gpu_layers)]
        )

    def wake_s(self, model: str, checkpoint: str, gpu_layers: int, level: int) -> float:
        return float(self.world.tables.wake_s[self.at(model, gpu_layers)])

    def fall_asleep_s(self, model: str, gpu_layers: int, level: int) -> float:
        return float(self.world.tables.fall_asleep_s[self.at(model, gpu_layers)])

    def asleep_bytes(self, model: str, gpu_layers: int) -> int:
        return int(self.world.tables.asleep_bytes[self.at(model, gpu_layers)])

    def device_bytes(self, model: str, gpu_layers: int) -> int:
        return int(self.world.tables.footprint_bytes[self.at(model, gpu_layers)])


def execute(
    world: World, policy: Policy, seed: int, durations: Callable[..., TableDurations] = TableDurations
) -> Run:
    """Runs a policy on fake engines that take as long as the tables say; leaves them empty."""
    device_executors = [
        fake_device_executor(world, d, durations(world=world, device=d)) for d in range(world.devices)
    ]
    return execute_on(world, policy, seed, device_executors)


def fake_device_executor(
    world: World, device: int, durations: TableDurations, **options: Any
) -> DeviceExecutor:
    """A fake engine for all models; one that is started again goes on with the same clock."""
    layers = {m.name: max(levels) for m, levels in zip(world.scenario.models, world.gpu_layers, strict=True)}
    clock = VirtualEngineClock()
    device_executor = DeviceExecutor(
        device,
        world.scenario.devices[device].name,
        worker_of={model.name: "fake" for model in world.scenario.models},
        start=lambda _: FakeEngine(
            durations, clock, total_layers=layers, memory_bytes=int(world.tables.capacity_bytes[device])
        ),
        now_s=lambda: clock.now_s,
        **options,
    )
    device_executor.open()
    return device_executor


def execute_on(world: World, policy: Policy, seed: int, device_executors: list[DeviceExecutor]) -> Run:
    """Runs a policy on device_executors of fake engines; leaves them empty."""
    clocks = [device_executor.workers["fake"].clock for device_executor in device_executors]
    requests = world.draw(seed)
    run = run_policy(
        world,
        requests,
        policy,
        seed=seed,
        make_backend=lambda on_end: EngineBackend(
            world,
            requests,
            on_end,
            device_executors,
            VirtualClock(clocks),
            [512] * world.models,
            seed,
        ),
        mode="real",
    )
    assert all(
        device_executor.is_empty and device_executor.memory().device_bytes == 0
        for device_executor in device_executors
    )
    return run
