"""Memory budgets of simulated and real runs: unlike ones are not compared.

A simulator that gives the KV cache another budget than the engine does predicts another system; published
comparisons have been off by 4.6 times for that alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from shunter.envs.world.tabulation import existing_levels
from shunter.envs.world.world import World
from shunter.eval.execution.runs import Run

TOLERANCE = 0.15
"""Share of a device's budget by which measured memory may be off: pages, KV saved in its process."""


@dataclass(frozen=True)
class Budget:
    """What a resident counts on a device.

    Attributes:
        device: Its name.
        model: Its name.
        gpu_layers: Layers on the device.
        capacity_bytes: The device's budget.
        predicted_bytes: Weights, KV budget and buffers by the performance model alone.
        counted_bytes: What both modes count: the engine's figure where that is more.
        kv_tokens: Tokens of KV in it: requests of a batch, times the context limit.
    """

    device: str
    model: str
    gpu_layers: int
    capacity_bytes: float
    predicted_bytes: float
    counted_bytes: float
    kv_tokens: int


def budgets(world: World, predicted: World) -> list[Budget]:
    """Budgets of every resident that there may be.

    Args:
        world: The world as it was run.
        predicted: The world before engines were asked; the same where there are none.
    """
    exists = existing_levels(world.gpu_layers, world.devices)
    scenario = world.scenario
    tokens = [scenario.batch_of(model) * scenario.context_of(model) for model in scenario.models]
    return [
        Budget(
            world.scenario.devices[d].name,
            world.scenario.models[m].name,
            world.gpu_layers[m][level],
            float(world.tables.capacity_bytes[d]),
            float(predicted.tables.footprint_bytes[d, m, level]),
            float(world.tables.footprint_bytes[d, m, level]),
            tokens[m],
        )
        for d, m, level in np.argwhere(exists)
    ]


def budget_problems(simulated: Sequence[Run], real: Sequence[Run]) -> list[str]:
    """Why the two may not be compared, a line for each reason; empty: they may."""
    ours, theirs = simulated[0].log.world, real[0].log.world
    return [*_unlike(ours, theirs), *_undercounted(real)]


def _unlike(ours: World, theirs: World) -> Iterator[str]:
    pairs = {
        "limits.max_batch": (ours.scenario.limits.max_batch, theirs.scenario.limits.max_batch),
        "limits.context_tokens": (ours.scenario.limits.context_tokens, theirs.scenario.limits.context_tokens),
        "gpu_layers": (ours.gpu_layers, theirs.gpu_layers),
    }
    for name, (one, other) in pairs.items():
        if one != other:
            yield f"{name} is {one} in simulation and {other} in reality"
    if ours.gpu_layers != theirs.gpu_layers:
        return
    exists = existing_levels(ours.gpu_layers, ours.devices)
    for d, device in enumerate(ours.scenario.devices):
        one, other = (float(world.tables.capacity_bytes[d]) for world in (ours, theirs))
        if one != other:
            yield f"{device.name} has {one / 1e6:.1f} MB in simulation and {other / 1e6:.1f} MB in reality"
        for m, level in np.argwhere(exists[d]):
            a, b = (float(world.tables.footprint_bytes[d, m, level]) for world in (ours, theirs))
            if a != b:
                name = f"{ours.scenario.models[m].name}@{ours.gpu_layers[m][level]} on {device.name}"
                yield f"{name} counts {a / 1e6:.1f} MB in simulation and {b / 1e6:.1f} MB in reality"


def _undercounted(real: Sequence[Run]) -> Iterator[str]:
    """Devices where residents take more than they count.

    What a process needs itself is unknown, but the same whatever is resident: so residents that count more
    must not measure more by more than that. Taking less than is counted is no harm: both modes count alike.
    """
    world = real[0].log.world
    if world.scenario.limits.sleep:
        return  # what is measured is of sleepers too
    for d, device in enumerate(world.scenario.devices):
        measured: dict[frozenset[tuple[int, int]], list[float]] = {}
        for run in real:
            for residents, bytes_ in _measured(run, d):
                measured.setdefault(residents, []).append(bytes_)
        counted = {
            residents: sum(float(world.tables.footprint_bytes[d, m, level]) for m, level in residents)
            for residents in measured
        }
        capacity, least = float(world.tables.capacity_bytes[d]), np.inf
        for residents in sorted(counted, key=lambda r: counted[r]):
            beyond = float(np.median(measured[residents])) - counted[residents]
            least = min(least, beyond)
            if beyond - least > TOLERANCE * capacity:
                names = " and ".join(sorted(world.scenario.models[m].name for m, _ in residents))
                more = f"{(beyond - least) / 1e6:.1f} MB of its {capacity / 1e6:.1f} MB"
                yield f"{device.name} with {names} takes {more} more than is counted"


def _measured(run: Run, device: int) -> Iterator[tuple[frozenset[tuple[int, int]], float]]:
    """Who was resident after each operation of a device, as (model, level), and what it measured then."""
    world = run.log.world
    index = {model.name: m for m, model in enumerate(world.scenario.models)}
    residents: dict[int, int] = {}
    for row in run.log.rows:
        if row["device"] != world.scenario.devices[device].name or row["end_s"] is None:
            continue
        for name in (*row["evicted"], *(row.get("lost") or ())):
            residents.pop(index[name], None)
        if row.get("fault") is not None:
            continue  # nothing came of it
        if row["operation"] == "load":
            m = index[row["model"]]
            residents[m] = world.gpu_layers[m].index(row["gpu_layers"])
        if row["device_bytes"] is not None:
            yield frozenset(residents.items()), float(row["device_bytes"])
