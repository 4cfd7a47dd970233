"""The real world: engines in worker processes, one per device, on the wall clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np

from shunter.agents.base import Policy
from shunter.catalog.checkpoints import Checkpoint, read_checkpoint
from shunter.envs.world import World, with_footprints
from shunter.errors import InputError
from shunter.eval.clocks import WallClock
from shunter.eval.plants import EnginePlant
from shunter.eval.runs import Run, run_policy
from shunter.profiling.engine_entries import engine_entry, start_engine
from shunter.profiling.engines.base import Engine, UnsupportedLevelError

__all__ = ["bind_footprints", "check_binding", "open_engines", "run_real"]

WARM_UP_TOKENS = 8


def check_binding(world: World) -> list[Checkpoint]:
    """Checks that a scenario can be run for real, before anything starts.

    Returns:
        The checkpoint of each model.

    Raises:
        InputError: A device names no real one; a model names no checkpoint, one that cannot be read, or one
            in a format that the engine does not load.
    """
    for device in world.scenario.devices:
        if device.device is None:
            raise InputError(
                f"devices.{device.name}.device", "be given to run on real engines", device.device
            )
    entry = engine_entry(world.scenario.engine)
    checkpoints = []
    for model in world.scenario.models:
        field = f"models.{model.name}.checkpoint"
        if model.checkpoint is None:
            raise InputError(field, "be given to run on real engines", model.checkpoint)
        checkpoint = read_checkpoint(model.checkpoint, field=field)
        if checkpoint.format not in entry.checkpoint_formats:
            rule = f"be {' or '.join(entry.checkpoint_formats)} for the engine {world.scenario.engine}"
            raise InputError(field, rule, checkpoint.format)
        checkpoints.append(checkpoint)
    return checkpoints


@contextmanager
def open_engines(world: World, *, python: str | None = None) -> Iterator[list[Engine]]:
    """Starts one worker per device, checks what it can do, and warms it up.

    Args:
        world: Its scenario names engine, devices and checkpoints.
        python: Interpreter of the workers; None: this one.

    Raises:
        InputError: See ``check_binding``.
        EngineError: A worker cannot run the engine, or not at the scenario's levels.
    """
    checkpoints = check_binding(world)
    with ExitStack() as stack:
        engines: list[Engine] = []
        for device in world.scenario.devices:
            engine: Engine = stack.enter_context(
                start_engine(world.scenario.engine, device.spec.name, python=python)
            )
            _check_levels(world, checkpoints, engine)
            engines.append(engine)
        for engine in engines:
            _warm_up(world, checkpoints, engine)
        yield engines


def _check_levels(world: World, checkpoints: Sequence[Checkpoint], engine: Engine) -> None:
    can = engine.capabilities()
    for model, levels, checkpoint in zip(world.scenario.models, world.gpu_layers, checkpoints, strict=True):
        total = checkpoint.spec.total_layers
        if not can.partial_offload and any(level != total for level in levels):
            raise UnsupportedLevelError(
                f"models.{model.name}.levels: {can.engine} on {can.device} holds all {total} layers on the "
                f"device or none; asked for {list(levels)}"
            )


def _warm_up(world: World, checkpoints: Sequence[Checkpoint], engine: Engine) -> None:
    """Pays for what only a process's first load and step cost, as the profile's warm-up does."""
    smallest = min(range(world.models), key=lambda m: checkpoints[m].weight_bytes)
    limits = world.scenario.limits
    engine.load(
        "warm-up",
        str(checkpoints[smallest].path),
        world.gpu_layers[smallest][0],
        context_tokens=limits.context_tokens,
        max_batch=limits.max_batch,
    )
    engine.prefill("warm-up", "0", list(range(WARM_UP_TOKENS)))
    engine.decode("warm-up", {"0": WARM_UP_TOKENS}, max_steps=WARM_UP_TOKENS)
    engine.unload("warm-up")


def bind_footprints(world: World, engines: Sequence[Engine]) -> World:
    """A world that counts memory as its engines do: a load that it allows, they do not refuse.

    Raises:
        InputError: A device then holds no model, or a model fits no device.
    """
    footprint_bytes = np.zeros_like(world.tables.footprint_bytes)
    limits = world.scenario.limits
    for d, engine in enumerate(engines):
        for m, model in enumerate(world.scenario.models):
            for level, gpu_layers in enumerate(world.gpu_layers[m]):
                footprint_bytes[d, m, level] = engine.footprint_bytes(
                    model.name,
                    str(model.checkpoint),
                    gpu_layers,
                    context_tokens=limits.context_tokens,
                    max_batch=limits.max_batch,
                )
    return with_footprints(world, footprint_bytes)


def run_real(
    world: World,
    policy: Policy,
    seed: int,
    engines: Sequence[Engine],
    *,
    on_progress: Callable[[int], None] | None = None,
) -> Run:
    """Runs a policy on real engines, in real time, on the requests that ``simulate`` would draw.

    Args:
        world: The compiled scenario.
        policy: Decides.
        seed: Of the workload.
        engines: From ``open_engines``; nothing is resident before and after.
        on_progress: Called with the number of finished requests.

    Raises:
        EngineError: An engine failed.
    """
    requests = world.draw(seed)
    vocab_sizes = [checkpoint.spec.vocab_size for checkpoint in check_binding(world)]
    clock = WallClock(world.devices)
    try:
        return run_policy(
            world,
            requests,
            policy,
            seed=seed,
            make_plant=lambda on_end: EnginePlant(world, requests, on_end, engines, clock, vocab_sizes, seed),
            world_name="real",
            on_progress=on_progress,
        )
    finally:
        clock.close()
