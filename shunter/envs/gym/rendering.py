"""An environment as text: what is resident, what each device does, and who waits."""

from __future__ import annotations

import numpy as np

from shunter.envs.rules.candidates import used_bytes
from shunter.envs.state.state import EVICT, IDLE, LOAD, RUN, WAIT, State
from shunter.envs.world.world import World

_VERBS = {IDLE: "asks", WAIT: "waits", RUN: "runs", LOAD: "loads", EVICT: "evicts"}
_MEMORY, _QUEUE = 10, 30  # widths of bars, in characters


def describe(world: World, state: State, last: tuple[int, int] | None = None) -> str:
    """A few lines: the clock, the last decision, a line per device and one per model's queue.

    Args:
        world: The compiled scenario.
        state: State of one environment, without a batch axis.
        last: Device and action of the last decision, if there was one.
    """
    lines = [_clock(state)]
    if last is not None:
        device, action = last
        choice = world.action_name(action) if action < world.actions else "no candidate"
        lines.append(f"last: {world.scenario.devices[device].name} chose {choice}")
    return "\n".join([*lines, *_aligned(_devices(world, state)), *_aligned(_queues(world, state))])


def _clock(state: State) -> str:
    clock, counts = state.clock[0], state.counts[0]
    return (
        f"t = {clock['now_ns'] * 1e-9:.3f} s: {clock['in_system']} requests in the system, "
        f"{clock['served']} served, {counts['swaps']} swaps, {counts['preemptions']} preemptions"
    )


def _devices(world: World, state: State) -> list[list[str]]:
    rows = []
    for d, device in enumerate(world.scenario.devices):
        levels = state.place["resident"][d]
        held = [m for m in range(world.models) if levels[m] >= 0]
        used = float(used_bytes(world.tables, state, d))
        asleep = np.flatnonzero(state.place["asleep"][d] >= 0).tolist()
        capacity = float(world.tables.capacity_bytes[d])
        memory = f"[{_bar(used / capacity, _MEMORY):.<{_MEMORY}}] {used / 1e9:.3g} of {capacity / 1e9:.3g} GB"
        residents = [_at_level(world, d, m, int(levels[m])) for m in held]
        residents += [f"{world.scenario.models[m].name} asleep" for m in asleep]
        rows.append([device.name, memory, ", ".join(residents) or "nothing", _doing(world, state, d)])
    return rows


def _doing(world: World, state: State, d: int) -> str:
    device = state.device[d]
    kind, model, level = (int(device[name]) for name in ("op_kind", "op_model", "op_level"))
    if kind == IDLE and int(device["pending_model"]) >= 0:
        name = world.scenario.models[int(device["pending_model"])].name
        return f"asks what makes room for {name}"
    text = "wakes" if kind == LOAD and device["op_wakes"] else _VERBS[kind]
    if kind == LOAD:
        text += f" {_at_level(world, d, model, level)}"
    elif kind in (RUN, EVICT):
        text += f" {world.scenario.models[model].name}"
    if kind == RUN:
        text += f", batch {device['op_batch']}"
    return text if kind == IDLE else f"{text}, until {device['op_end_ns'] * 1e-9:.3f} s"


def _queues(world: World, state: State) -> list[list[str]]:
    rows = []
    running = state.device["op_kind"] == RUN
    for m, model in enumerate(world.scenario.models):
        length = int(state.model["queue_length"][m])
        batches = state.device["op_batch"][running & (state.device["op_model"] == m)]
        bar = "#" * min(length, _QUEUE) + ("+" if length > _QUEUE else "")
        rows.append([model.name, f"{length} ({int(batches.sum())} running)", bar])
    return rows


def _at_level(world: World, device: int, model: int, level: int) -> str:
    share = float(world.tables.gpu_share[device, model, level])
    return f"{world.scenario.models[model].name}@{world.gpu_layers[model][level]} ({share:.0%})"


def _bar(share: float, width: int) -> str:
    return "#" * min(width, round(share * width))


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
