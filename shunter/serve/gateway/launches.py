"""What servers are started with, and which of them another scenario would start the same."""

from __future__ import annotations

import numpy as np

from shunter.envs.world.world import World
from shunter.serve.boundary import Launch
from shunter.serve.core.core import Core
from shunter.serve.core.learning import Places

__all__ = ["launch_of"]


def launch_of(world: World, device: int, model: int, level: int) -> tuple[str, Launch]:
    """The engine of a model on a device, and what its server is started with."""
    scenario = world.scenario
    asked, place = scenario.models[model], scenario.devices[device]
    return scenario.engine_of(asked), Launch(
        model=asked.name,
        checkpoint=str(asked.checkpoint),
        device=str(place.device),
        gpu_layers=world.gpu_layers[model][level],
        context_tokens=scenario.context_of(asked),
        max_batch=scenario.batch_of(asked),
        kv_type=asked.kv_type or "f16",
        args=tuple(asked.args),
        memory_bytes=round(float(world.tables.footprint_bytes[device, model, level])),
    )


def alike(old: World, world: World) -> Places:
    """What another world starts just as this one does: the places of ``old`` by those of ``world``."""

    def launches(of: World) -> dict[tuple[str, str, Launch], tuple[int, int, int]]:
        names = [device.name for device in of.scenario.devices]
        places = np.argwhere(of.tables.level_ok).tolist()
        return {(names[d], *launch_of(of, d, m, level)): (d, m, level) for d, m, level in places}

    before = launches(old)
    return {to: before[launch] for launch, to in launches(world).items() if launch in before}


Kept = dict[tuple[int, int], tuple[tuple[int, int], int]]
"""Where and at which level another world has what is loaded, by device and model in this one."""


def compare(core: Core, world: World) -> tuple[Kept, list[tuple[int, int]]]:
    """What of the residents another world keeps: place by place and level; and what it does not."""
    old = core.world
    devices = [device.name for device in world.scenario.devices]
    names = [model.name for model in world.scenario.models]
    kept, unwanted = {}, []
    for device in range(old.devices):
        place = old.scenario.devices[device].name
        for model, level, _ in core.residents(device):
            layers, name = old.gpu_layers[model][level], old.scenario.models[model].name
            to = (devices.index(place), names.index(name)) if place in devices and name in names else None
            ours = launch_of(old, device, model, level)
            if to and layers in world.gpu_layers[to[1]]:
                at = world.gpu_layers[to[1]].index(layers)
                if launch_of(world, *to, at) == ours and world.tables.level_ok[*to, at]:
                    kept[device, model] = (to, at)
                    continue
            unwanted.append((device, model))
    return kept, unwanted
