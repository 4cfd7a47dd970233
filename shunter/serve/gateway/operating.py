"""What a device is told to load and unload, done on the servers; the core hears how it went."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from shunter.catalog.devices import parse_device
from shunter.serve.boundary import ServerFailed
from shunter.serve.core.effects import Start
from shunter.serve.gateway.launches import launch_of

if TYPE_CHECKING:
    from shunter.serve.gateway.gateway import Gateway

_LOG = logging.getLogger(__name__)


async def operate(gateway: Gateway, start: Start) -> None:
    """Unloads what is evicted and loads what is wanted; tells the core how it went."""
    device = gateway.world.scenario.devices[start.device].name
    for model in start.evict:
        await gateway.fleet.unload(start.device, model)
        gateway.tell("unloaded", model=gateway.names[model], device=device, reason=start.cause)
    failure = await _load(gateway, start) if start.model >= 0 else None
    why = None if failure is None else str(failure)
    gateway.core.ended(gateway.now_ns(), start.device, why, memory=bool(failure and failure.out_of_memory))
    gateway.act()


async def _load(gateway: Gateway, start: Start) -> ServerFailed | None:
    """Loads a model; returns why that failed."""
    device = gateway.world.scenario.devices[start.device].name
    name, begun_s = gateway.names[start.model], time.monotonic()
    gateway.tell("load", model=name, device=device, reason=start.cause)
    engine, launch = launch_of(gateway.world, start.device, start.model, start.level)
    free_bytes = gateway.core.free_bytes(start.device, start.model)
    try:
        await gateway.fleet.load(start.device, start.model, engine, launch, free_bytes)
    except ServerFailed as failure:
        _LOG.warning("%s was not loaded on %s: %s", name, device, failure)
        gateway.tell("failed", model=name, device=device, why=str(failure))
        if gateway.recorder is not None:
            gateway.recorder.failed(start.device, str(failure))
        return failure
    gateway.tell("ready", model=name, device=device, took_s=time.monotonic() - begun_s)
    note_memory(gateway, start.device, start.model, start.level)
    return None


def note_memory(gateway: Gateway, device: int, model: int, level: int) -> None:
    """Has the core count a model with what its server takes, where that is more than was predicted."""
    place = gateway.world.scenario.devices[device].device
    if place is None or parse_device(place).kind == "cpu":
        return  # the host's memory is nobody's budget there
    taken = gateway.fleet.memory_bytes(device, model)
    if taken is not None:
        gateway.core.measured(device, model, level, taken)
