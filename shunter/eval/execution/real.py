"""Reality: engines in worker processes, on the wall clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np

from shunter.agents.base import Policy, is_oracle
from shunter.catalog.checkpoints import Checkpoint, read_checkpoint
from shunter.engines.base import DeviceMemoryError, Engine, UnsupportedLevelError
from shunter.engines.caller.entries import engine_entry, start_engine
from shunter.envs.world.world import World, with_footprints
from shunter.errors import InputError
from shunter.eval.execution.backends import EngineBackend
from shunter.eval.execution.clocks import WallClock
from shunter.eval.execution.device_executor import Deadline, DeviceExecutor
from shunter.eval.execution.faults.chaos import Chaos
from shunter.eval.execution.follow import Follower
from shunter.eval.execution.runs import Run, run_policy

__all__ = ["bind_footprints", "open_engines", "run_real"]

WARM_UP_TOKENS = 8

MODEL_EACH = ("vllm",)
"""Engines of which every model gets a worker of its own: they give memory back only with their process."""


def check_binding(world: World) -> list[Checkpoint]:
    """Checks that a scenario can be run for real, before anything starts.

    Returns:
        The checkpoint of each model.

    Raises:
        InputError: A device names no real one; a model names no checkpoint, one that cannot be read, or one
            in a format that the engine does not load; or KV of a type that workers do not keep; or loads come
            from where workers have nothing, or models sleep and an engine cannot.
    """
    for device in world.scenario.devices:
        if device.device is None:
            raise InputError(
                f"devices.{device.name}.device", "be given to run on real engines", device.device
            )
    _check_load_source(world)
    checkpoints = []
    for model in world.scenario.models:
        field = f"models.{model.name}.checkpoint"
        if model.kv_share != 1.0:
            rule = "be f16: workers keep KV as their engines do, only servers take another type"
            raise InputError(f"models.{model.name}.kv_type", rule, model.kv_type)
        if model.checkpoint is None:
            raise InputError(field, "be given to run on real engines", model.checkpoint)
        checkpoint = read_checkpoint(model.checkpoint, field=field)
        engine = world.scenario.engine_of(model)
        formats = engine_entry(engine).checkpoint_formats
        if checkpoint.format not in formats:
            rule = f"be {' or '.join(formats)} for the engine {engine}"
            raise InputError(field, rule, checkpoint.format)
        checkpoints.append(checkpoint)
    return checkpoints


def _check_load_source(world: World) -> None:
    """Checks that engines load from where the scenario says, and can sleep; see ``check_binding``."""
    source = world.scenario.limits.load_source
    asleep = source in ("sleep-1", "sleep-2") and world.scenario.engines == ["vllm"]
    if source not in (None, "page-cache", "unknown") and not asleep:
        rule = "be page-cache, or left out, on real engines: they keep no weights in pinned memory"
        raise InputError("limits.load_source", f"{rule}, and none but vllm sleeps", source)
    if world.scenario.limits.sleep:
        engines = ", ".join(world.scenario.engines)
        rule = f"be 0 on real engines: workers, here of {engines}, cannot be told to sleep"
        raise InputError("limits.sleep", rule, world.scenario.limits.sleep)


@contextmanager
def open_engines(
    world: World,
    *,
    python: str | Mapping[str, str] | None = None,
    deadline: Deadline | None = None,
    chaos: Chaos | None = None,
) -> Iterator[list[DeviceExecutor]]:
    """Starts the workers of every device, one per engine, checks what they can do, and warms them up.

    Args:
        world: Its scenario names engines, devices and checkpoints.
        python: Interpreter of the workers, for all engines or by engine; None: this one.
        deadline: When a call is taken for hung; None: ``Deadline()``.
        chaos: What happens to engines on purpose, once all are warm.

    Raises:
        InputError: See ``check_binding``; or a device holds no model beside what its engine takes.
        EngineError: A worker cannot run the engine, or not at the scenario's levels.
    """
    checkpoints = check_binding(world)
    device_executors = [
        _device_executor(world, checkpoints, d, python, deadline or Deadline()) for d in range(world.devices)
    ]
    with ExitStack() as stack:
        for device_executor, device in zip(device_executors, world.scenario.devices, strict=True):
            stack.callback(device_executor.close)
            try:
                device_executor.open()
            except DeviceMemoryError as error:
                rule = f"hold at least one model at one level ({error})"
                raise InputError(f"devices.{device.name}", rule, device.device) from None
        for device_executor in device_executors:
            device_executor.chaos = chaos
        yield device_executors


def _device_executor(
    world: World,
    checkpoints: Sequence[Checkpoint],
    index: int,
    python: str | Mapping[str, str] | None,
    deadline: Deadline,
) -> DeviceExecutor:
    scenario, device = world.scenario, world.scenario.devices[index]
    engines = [scenario.engine_of(model) for model in scenario.models]
    names = [
        f"{engine} for {model.name}" if engine in MODEL_EACH else engine
        for engine, model in zip(engines, scenario.models, strict=True)
    ]
    engine_of = dict(zip(names, engines, strict=True))

    def start(worker: str) -> Engine:
        engine = engine_of[worker]
        interpreter = python if python is None or isinstance(python, str) else python.get(engine)
        started = start_engine(engine, device.spec.name, python=interpreter)
        models = [m for m, name in enumerate(names) if name == worker]
        try:
            _check_levels(world, checkpoints, started, models)
            # Beside residents of another engine there may be no room for it.
            if device_executor.is_empty:
                _warm_up(world, checkpoints, started, index, models)
        except BaseException:
            started.close()
            raise
        return started

    device_executor = DeviceExecutor(
        index,
        device.name,
        worker_of={model.name: name for model, name in zip(scenario.models, names, strict=True)},
        start=start,
        budget_bytes=device.memory_bytes,
        deadline=deadline,
    )
    return device_executor


def _check_levels(
    world: World, checkpoints: Sequence[Checkpoint], engine: Engine, models: Sequence[int]
) -> None:
    can = engine.capabilities()
    for m in models:
        total, levels = checkpoints[m].spec.total_layers, world.gpu_layers[m]
        if not can.partial_offload and any(level != total for level in levels):
            raise UnsupportedLevelError(
                f"models.{world.scenario.models[m].name}.levels: {can.engine} on {can.device} holds all "
                f"{total} layers on the device or none; asked for {list(levels)}"
            )


def _warm_up(
    world: World, checkpoints: Sequence[Checkpoint], engine: Engine, device: int, models: Sequence[int]
) -> None:
    """Pays for what only a process's first load and step cost, as the profile's warm-up does."""
    fits, scenario = world.tables.level_ok[device], world.scenario
    models = [m for m in models if fits[m].any()]
    if not models:
        return
    smallest = min(models, key=lambda m: checkpoints[m].weight_bytes)
    engine.load(
        "warm-up",
        str(checkpoints[smallest].path),
        world.gpu_layers[smallest][int(fits[smallest].argmax())],
        context_tokens=scenario.context_of(scenario.models[smallest]),
        max_batch=scenario.batch_of(scenario.models[smallest]),
    )
    engine.prefill("warm-up", "0", list(range(WARM_UP_TOKENS)))
    engine.decode("warm-up", {"0": WARM_UP_TOKENS}, max_steps=WARM_UP_TOKENS)
    engine.unload("warm-up")


def bind_footprints(world: World, engines: Sequence[DeviceExecutor]) -> World:
    """A world that counts memory as its engines do: a load that it allows, they do not refuse.

    Raises:
        InputError: A device then holds no model, or a model fits no device.
    """
    footprint_bytes = np.zeros_like(world.tables.footprint_bytes)
    for d, device_executor in enumerate(engines):
        for m, model in enumerate(world.scenario.models):
            for level, gpu_layers in enumerate(world.gpu_layers[m]):
                footprint_bytes[d, m, level] = device_executor.engine(model.name).footprint_bytes(
                    model.name,
                    str(model.checkpoint),
                    gpu_layers,
                    context_tokens=world.scenario.context_of(model),
                    max_batch=world.scenario.batch_of(model),
                )
    return with_footprints(world, footprint_bytes)


def run_real(
    world: World,
    policy: Policy,
    seed: int,
    engines: Sequence[DeviceExecutor],
    *,
    on_progress: Callable[[int], None] | None = None,
    follow: bool = False,
) -> Run:
    """Runs a policy on real engines, in real time, on the requests that ``simulate`` would draw.

    Args:
        world: The compiled scenario.
        policy: Decides.
        seed: Seed of the workload.
        engines: From ``open_engines``; nothing is resident before and after. An error ends them.
        on_progress: Called with the number of finished requests.
        follow: Whether predicted durations follow the machine; see ``shunter.eval.execution.follow``.

    Raises:
        InterruptedRun: Ctrl-C.
        BrokenRun: An engine failed and cannot be started again.
    """
    requests = world.draw(seed)
    vocab_sizes = [checkpoint.spec.vocab_size for checkpoint in check_binding(world)]
    clock = WallClock(world.devices)
    follower = Follower(world.tables.changed(oracle=int(is_oracle(policy)))) if follow else None
    try:
        return run_policy(
            world,
            requests,
            policy,
            seed=seed,
            make_backend=lambda on_end: EngineBackend(
                world, requests, on_end, engines, clock, vocab_sizes, seed, follower
            ),
            mode="real",
            on_progress=on_progress,
            follower=follower,
        )
    except BaseException:
        for device_executor in engines:
            device_executor.abandon()
        raise
    finally:
        clock.close()
