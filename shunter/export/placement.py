"""A home device and level for each model, and which models fit together: what static schedulers need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from shunter.catalog.devices import GPU_KINDS
from shunter.envs.scenario.model import Model
from shunter.envs.scenario.scenario import Device, Scenario
from shunter.envs.workload.shares import shares_of
from shunter.envs.world.load_times import predicted_for
from shunter.envs.world.tabulation import Tabulation, mean_work_s
from shunter.errors import InputError
from shunter.models.performance import PerformanceModel

__all__ = ["Home", "checkpoint_path", "homes_of"]

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
        share: Share of the requests that it is to take: those for its model, divided by its model's homes.
        footprint_bytes: Device memory: weights, KV of a full batch and buffers.
        weight_bytes: What its weights take in the host's memory.
        kv_bytes_per_token: Keys and values of one token.
        process_bytes: Device memory that a server's process takes besides, as its CUDA context.
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
    process_bytes: float
    load: Estimate
    is_cold: bool
    unload: Estimate


def homes_of(
    scenario: Scenario,
    performance: PerformanceModel,
    *,
    process_bytes: float = 0.0,
    replicas: int | None = None,
) -> list[Home]:
    """Gives every model a home, or several: static schedulers move none between devices.

    Models are placed in the order of the work that they bring, each where the busiest device then has least;
    at its fastest level that fits beside its process. A level that fits only where nothing but the weights,
    KV and buffers counts is taken if the device holds the model at no other. What is pinned or preloaded has
    the place that it begins with.

    Args:
        scenario: The models and devices.
        performance: Predicts times and memory.
        process_bytes: Memory of a GPU that each server's process takes besides.
        replicas: Homes of a model that states no ``replicas_max``; those that state it have so many, all of
            them no more than there are devices for it. None: every model has one.

    Returns:
        The homes by model, those of one model in the order in which they are to be filled.

    Raises:
        InputError: As ``shunter.envs.world.tabulation.Tabulation``.
    """
    tabulation = Tabulation(scenario, performance)
    tables = tabulation.tables
    process = np.array([process_bytes if _has_driver(device) else 0.0 for device in scenario.devices])
    roomy = tables.footprint_bytes + process[:, None, None] <= tables.capacity_bytes[:, None, None]
    roomy &= tables.level_ok
    level_ok = np.where(roomy.any(axis=2, keepdims=True), roomy, tables.level_ok)
    work_s = np.where(level_ok, mean_work_s(tables, tabulation.lengths), np.inf)
    shares = shares_of(scenario)
    least_s = work_s.min(axis=2)  # (devices, models)
    best_s = np.multiply(least_s, shares, out=np.full_like(least_s, np.inf), where=np.isfinite(least_s))
    places = _places(scenario.models, best_s, tables.start_device, replicas)
    return [
        _home(
            tabulation, m, d, int(work_s[d, m].argmin()), float(shares[m]) / len(devices), float(process[d])
        )
        for m, devices in sorted(places.items())
        for d in devices
    ]


def _has_driver(device: Device) -> bool:
    return device.device is None or device.spec.kind in GPU_KINDS


def _places(
    models: Sequence[Model],
    best_s: NDArray[np.float64],
    start_device: NDArray[np.int64],
    replicas: int | None,
) -> dict[int, list[int]]:
    """Devices of every model; ``best_s`` (devices, models) is its work there, infinite without room."""
    placed_s = np.zeros(len(best_s))
    places: dict[int, list[int]] = {}
    for m in map(int, np.argsort(-np.where(np.isfinite(best_s), best_s, 0.0).max(axis=0), kind="stable")):
        asked = 1 if replicas is None else models[m].replicas_max or replicas
        count = min(asked, int(np.isfinite(best_s[:, m]).sum()))
        free_s = best_s[:, m] / count
        places[m] = []
        for _ in range(count):
            first = int(start_device[m])
            device = first if first >= 0 and not places[m] else int(np.argmin(placed_s + free_s))
            placed_s[device] += free_s[device]
            free_s[device] = np.inf
            places[m].append(device)
    return places


def _home(tabulation: Tabulation, m: int, d: int, level: int, share: float, process_bytes: float) -> Home:
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
        row = predicted_for(tabulation.scenario.limits, tabulation.performance, asked).iloc[0]
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
        process_bytes=process_bytes,
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


def checkpoint_path(model: Model, models_dir: Path | None, suffix: str = "") -> Path:
    """Where a model's checkpoint is, absolute.

    Args:
        model: Names it.
        models_dir: Where checkpoints of models without one lie, as the model's name with the suffix.
        suffix: ``.gguf`` for files.

    Raises:
        InputError: The model names none, and no folder is given, or its name leads out of the folder.
    """
    if model.checkpoint is not None:
        return model.checkpoint.absolute()
    if models_dir is None:
        rule = f"be given, or --models-dir with the folder that holds {model.name}{suffix}"
        raise InputError(f"models.{model.name}.checkpoint", rule, None)
    name = PurePath(f"{model.name}{suffix}")
    if name.is_absolute() or ".." in name.parts:
        rule = f"be given: {model.name} leads out of --models-dir"
        raise InputError(f"models.{model.name}.checkpoint", rule, None)
    return models_dir.absolute() / name


def gpu_environment(device: Device, d: int) -> dict[str, str]:
    """Variables with which a process sees one CUDA device alone; none for other devices.

    An index counts as nvidia-smi does, by PCI address: by itself CUDA puts the fastest GPU first, and who
    pins processes of unequal GPUs by index gets another. GPUs of the catalogue count as the d-th.

    Raises:
        InputError: It is the loopback device, which only shunter starts, or named by its PCI address.
    """
    index = str(d)
    if device.device is not None:
        spec, field = device.spec, f"devices.{device.name}.device"
        if spec.kind == "loopback":
            rule = "be a GPU or the CPU: shunter's loopback device exists only while shunter runs"
            raise InputError(field, rule, device.device)
        if ":" in spec.address:
            rule = "have an index or a UUID (nvidia-smi -L lists them): CUDA takes no PCI address"
            raise InputError(field, rule, device.device)
        if spec.kind != "cuda":
            return {}
        if spec.address:
            return {"CUDA_VISIBLE_DEVICES": spec.address}
        index = str(spec.index)
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": index}
