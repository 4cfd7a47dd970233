"""What loads and servers teach: the tables that decisions are made by come to hold what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from shunter.envs.state.tables import Tables

_WEIGHT = 0.5
"""Of a load that was measured, in what the next is expected to take."""

Places = Mapping[tuple[int, int, int], tuple[int, int, int]]
"""Indices of device, model and level in one scenario, by those in another."""


def learn_load(
    tables: Tables, device: int, model: int, level: int, took_s: float, evicted: Iterable[int]
) -> None:
    """Expects of the next load what this one took, its evictions apart, as much as what was expected."""
    at = tables.level[device, model, level]
    unloads_s = sum(float(tables.level["unload_s"][device, m].max()) for m in evicted)
    at["load_s"] += _WEIGHT * (max(0.0, took_s - unloads_s) - float(at["load_s"]))


def learn_memory(tables: Tables, device: int, model: int, level: int, device_bytes: float) -> bool:
    """Counts a model with what its server was seen to take, if that is more; returns whether it is.

    It is never counted with more than its device has: it is there, and so it fits.
    """
    at, capacity = tables.level[device, model, level], float(tables.device["capacity_bytes"][device])
    counted = float(at["footprint_bytes"])
    at["footprint_bytes"] = min(capacity, max(counted, device_bytes))
    return float(at["footprint_bytes"]) > counted


def keep_learned(predicted: Tables, learned: Tables, tables: Tables, same: Places) -> None:
    """Takes over what was learned of servers that another scenario starts alike.

    Args:
        predicted: What the other scenario began with.
        learned: What had become of it.
        tables: Of this scenario; changed where something had been learned.
        same: The places of ``learned`` by those of ``tables``.
    """
    for to, at in same.items():
        if learned.level["load_s"][at] != predicted.level["load_s"][at]:
            tables.level["load_s"][to] = learned.level["load_s"][at]
        if learned.level["footprint_bytes"][at] != predicted.level["footprint_bytes"][at]:
            learn_memory(tables, *to, float(learned.level["footprint_bytes"][at]))
