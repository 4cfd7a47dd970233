"""One home device and level for each model, and which models fit together: what static schedulers need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shunter.envs.scenario.scenario import Device, Scenario
from shunter.envs.workload.draw import shares_of
from shunter.envs.world.tabulation import Tabulation, mean_work_s
from shunter.errors import InputError
from shunter.models.performance import PerformanceModel

__all__ = ["checkpoint_path", "homes_of"]

MOST_SETS = 200
"""Sets of one device that are listed; of more, any models of the largest number that always fits."""


@dataclass(frozen=True)
class Estimate:
    """A predicted time with its 90 % interval, in seconds.

    Attributes:
        seconds: The predicted time.
        low: Lower end of the 90 % interval.
        high: Upper end of the 90 % interval.
        out_of_range: Whether it was asked for beyond the data of the performance model.
    """

    seconds: float
    low: float
    high: float
    out_of_range: bool

    def rounded(self) -> list[float]:
        """The time and both ends of its interval, as files say them."""
        return [float(f"{s:.3g}") for s in (self.seconds, self.low, self.high)]


@dataclass(frozen=True)
class Home:
    """Where one model runs.

    Attributes:
        model: Its name.
        device: Index of its device.
        gpu_layers: Layers there.
        total_layers: Layers that it has.
        share: Share of the requests that ask for it.
        footprint_bytes: Device memory: weights, KV of a full batch and buffers.
        weight_bytes: What its weights take in the host's memory.
        kv_bytes_per_token: Keys and values of one token.
        load: Time of a load: from the page cache, or from disk where not all weights fit the host's memory.
        is_cold: Whether ``load`` is from disk.
        unload: Time of freeing it.
    """

    model: str
    device: int
    gpu_layers: int
    total_layers: int
    share: float
    footprint_bytes: float
    weight_bytes: float
    kv_bytes_per_token: float
    load: Estimate
    is_cold: bool
    unload: Estimate


def homes_of(scenario: Scenario, performance: PerformanceModel) -> list[Home]:
    """Gives every model a home: static schedulers move none between devices.

    Models are placed in the order of the work that they bring, each where the busiest device then has least;
    at its fastest level that fits.

    Raises:
        InputError: As ``shunter.envs.world.tabulation.Tabulation``.
    """
    tabulation = Tabulation(scenario, performance)
    tables = tabulation.tables
    work_s = np.where(tables.level_ok, mean_work_s(tables, tabulation.lengths), np.inf)
    shares = shares_of(scenario)
    least_s = work_s.min(axis=2)  # (devices, models)
    best_s = np.multiply(least_s, shares, out=np.full_like(least_s, np.inf), where=np.isfinite(least_s))
    placed_s = np.zeros(len(scenario.devices))
    device_of: dict[int, int] = {}
    for m in np.argsort(-np.where(np.isfinite(best_s), best_s, 0.0).max(axis=0), kind="stable"):
        device = int(np.argmin(placed_s + best_s[:, m]))
        placed_s[device] += best_s[device, m]
        device_of[int(m)] = device
    return [
        _home(tabulation, m, d, int(work_s[d, m].argmin()), float(shares[m]))
        for m, d in sorted(device_of.items())
    ]


def _home(tabulation: Tabulation, m: int, d: int, level: int, share: float) -> Home:
    tables, facts = tabulation.tables, tabulation.facts[m]
    most = tabulation.scenario.context_of(tabulation.scenario.models[m])
    is_cold = bool(tables.weight_bytes.sum() > tables.limits[0]["host_bytes"])
    configurations = tabulation.configurations(np.array([most]), np.array([most]))
    mine = (
        (configurations.h == tabulation.hardware_of[d])
        & (configurations.m == m)
        & (configurations.l == level)
    )
    is_f32 = facts.get("checkpoint_format") == "safetensors" and facts.get("quantization") == "F32"

    def estimate(operation: str, page_cache: str) -> Estimate:
        asked = configurations[mine & (configurations.operation == operation)].assign(page_cache=page_cache)
        row = tabulation.performance.predict(asked).iloc[0]
        seconds, low, high = map(float, row[["duration_s_predicted", "duration_s_low", "duration_s_high"]])
        return Estimate(seconds, low, high, bool(row.out_of_range))

    return Home(
        model=tabulation.scenario.models[m].name,
        device=d,
        gpu_layers=tabulation.gpu_layers[m][level],
        total_layers=int(facts["total_layers"]),
        share=share,
        footprint_bytes=float(tables.footprint_bytes[d, m, level]),
        weight_bytes=float(tables.weight_bytes[m]),
        kv_bytes_per_token=float(facts["kv_bytes_per_token"]) * (2 if is_f32 else 1),
        load=estimate("load", "cold" if is_cold else "warm"),
        is_cold=is_cold,
        unload=estimate("unload", "warm"),
    )


def fitting_sets(sizes: Sequence[float], capacity: float) -> list[tuple[int, ...]] | None:
    """All sets that fit and to which nothing can be added.

    Args:
        sizes: Size of each thing, in the unit of ``capacity``; every one fits alone.
        capacity: What a set may take.

    Returns:
        Indices of each set, ascending, the sets in order; None if there are more than ``MOST_SETS``.
    """
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    found: list[tuple[int, ...]] = []

    def extend(at: int, chosen: tuple[int, ...], free: float, left_out: float) -> None:
        rest = sum(sizes[i] for i in order[at:])
        if len(found) > MOST_SETS or free - rest >= left_out:
            return  # what was left out would still fit in the end
        if at == len(order):
            found.append(tuple(sorted(chosen)))
            return
        size = sizes[order[at]]
        if size <= free:
            extend(at + 1, (*chosen, order[at]), free - size, left_out)
        extend(at + 1, chosen, free, min(left_out, size))

    extend(0, (), capacity, np.inf)
    return sorted(found) if len(found) <= MOST_SETS else None


def checkpoint_path(scenario: Scenario, m: int, models_dir: Path | None, suffix: str = "") -> Path:
    """Where a model's checkpoint is, absolute.

    Args:
        scenario: Names it.
        m: Index of the model.
        models_dir: Where checkpoints of models without one lie, as the model's name with the suffix.
        suffix: ``.gguf`` for files.

    Raises:
        InputError: The scenario names none, and no folder is given.
    """
    model = scenario.models[m]
    if model.checkpoint is not None:
        return model.checkpoint.absolute()
    if models_dir is None:
        rule = f"be given, or --models-dir with the folder that holds {model.name}{suffix}"
        raise InputError(f"models.{model.name}.checkpoint", rule, None)
    return models_dir.absolute() / f"{model.name}{suffix}"


def gpu_index(device: Device, d: int) -> int | None:
    """The CUDA ordinal of a device; None if it is none. GPUs of the catalogue count as the d-th.

    Raises:
        InputError: It is the loopback device, a process that only shunter starts.
    """
    if device.device is None:
        return d
    if device.spec.kind == "loopback":
        rule = "be a GPU or the CPU: shunter's loopback device exists only while shunter runs"
        raise InputError(f"devices.{device.name}.device", rule, device.device)
    return device.spec.index if device.spec.kind == "cuda" else None
