"""Whether a load is predicted to fit the device and the host, before it is tried."""

from __future__ import annotations

import psutil

from shunter.catalog.checkpoints import Checkpoint
from shunter.engines.base import Engine
from shunter.profiling.sweep.plan import Group, SweepPlan


def host_weight_bytes(checkpoint: Checkpoint, gpu_layers: int) -> int:
    """Bytes of the weights that stay on the host with this many layers on a device.

    llama.cpp, which alone reads GGUF, always keeps the embedding there, and takes the output layer off last.
    The other engines differ in which layers go first; there each layer is taken to have its share of all.
    """
    away = checkpoint.spec.total_layers - gpu_layers
    if checkpoint.format != "gguf" or not gpu_layers:
        return checkpoint.weight_bytes * away // checkpoint.spec.total_layers
    outside_bytes = checkpoint.weight_bytes - checkpoint.spec.layers * checkpoint.layer_weight_bytes
    embedding_bytes = outside_bytes // (1 if checkpoint.spec.tied_embeddings else 2)
    return embedding_bytes + away * checkpoint.layer_weight_bytes


def shortage(plan: SweepPlan, group: Group, engine: Engine) -> str | None:
    """Says in one line why a group's load is predicted not to fit; None if it is, or if it is tried anyway.

    The device holds what the engine says that it would count there. The host holds the other layers, and the
    device's share too where the device is a process of the host.

    Args:
        plan: Names the device's budget and the load's limits, and whether loads are tried all the same.
        group: The model and its layers on the device.
        engine: Asked for the footprint; holds no model now.
    """
    if plan.settings.allow_overcommit:
        return None
    checkpoint, level = group.checkpoint, group.gpu_layers
    on_device = engine.footprint_bytes(
        checkpoint.name,
        str(checkpoint.path),
        level,
        context_tokens=plan.max_context_tokens,
        max_batch=plan.max_batch,
    )
    on_host = host_weight_bytes(checkpoint, level)
    on_host += 0 if plan.device.kind == "cuda" else on_device
    what = f"{group.label} is predicted to need"
    override = "--allow-overcommit tries it all the same"
    budget, free = plan.device.memory_bytes, psutil.virtual_memory().available
    if budget is not None and on_device > budget:
        place = f"{on_device / 1e6:.0f} MB of the device's {budget / 1e6:.0f} MB"
        return f"{what} {place}; {override}"
    if on_host > free:
        place = f"{on_host / 1e6:.0f} MB of host memory, of which {free / 1e6:.0f} MB are free"
        return f"{what} {place}; {override}"
    return None
