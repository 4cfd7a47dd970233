"""What the gateway shows of itself, as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from shunter.envs.state.records import FAR_NS
from shunter.serve.core.core import Core

if TYPE_CHECKING:
    from shunter.serve.gateway.gateway import Gateway


def predicted_wait_s(core: Core, model: int) -> float:
    """Seconds that a new request of a model is to expect until a server has it."""
    world, tables = core.world, core.tables
    fits = tables.level_ok[:, model].any(axis=1)
    batch = world.scenario.batch_of(world.scenario.models[model])
    decode = tables.remaining_tokens[min(model, len(tables.remaining_tokens) - 1), 0]
    step_s = tables.step_s[:, model, 0, batch - 1].mean(axis=1)
    is_here = core.state.place["resident"][:, model] >= 0
    load_s = np.where(is_here, 0.0, tables.load_s[:, model, 0])
    is_free = core.running(model) < batch and core.queued(model) == 0
    turns = 0.0 if is_free else (core.queued(model) + 1) / batch
    found = np.where(fits, load_s + turns * decode * step_s, np.inf).min()
    return float(found) if np.isfinite(found) else 0.0


def state_of(core: Core, model: int) -> str:
    """What a model is, as a whole."""
    place = core.state.place
    if (place["resident"][:, model] >= 0).any():
        return "ready"
    for device in range(core.world.devices):
        operation = core.operation(device)
        if operation is not None and operation.kind == "load" and operation.model == model:
            return "loading"
    if (place["evicting"][:, model] >= 0).any():
        return "draining"
    return "failed" if core.failure(model) else "unloaded"


def oldest_ns(core: Core, model: int) -> int | None:
    """Arrival of the request that waits longest for a model; None if none does."""
    waiting = [j.arrival_ns for j in core.jobs.values() if j.model == model and j.device < 0]
    return min(waiting, default=None)


def why_not_ready(gateway: Gateway) -> str | None:
    """See ``boundary.Scheduler.ready``."""
    guard_ns = int(gateway.world.tables.guard_ns[0])
    bound_s = gateway.settings.timeout_s / 2 if guard_ns == FAR_NS else guard_ns * 1e-9
    for model, name in enumerate(gateway.names):
        since_ns = oldest_ns(gateway.core, model)
        if since_ns is not None and gateway.now_ns() - since_ns > 2e9 * bound_s:
            waited_s = (gateway.now_ns() - since_ns) * 1e-9
            return f"A request for {name} waits for {waited_s:.0f} s; its bound is {bound_s:.0f} s."
    return None


def list_models(gateway: Gateway) -> list[dict[str, Any]]:
    """See ``boundary.Scheduler.models``."""
    scenario = gateway.world.scenario
    return [
        {
            "id": name,
            "aliases": list(model.aliases),
            "context_length": scenario.context_of(model),
            "status": state_of(gateway.core, m),
        }
        for m, (name, model) in enumerate(zip(gateway.names, scenario.models, strict=True))
    ]


def snapshot(gateway: Gateway) -> dict[str, Any]:
    """See ``boundary.Scheduler.snapshot``."""
    core = gateway.core
    return {
        "version": 1,
        "now_s": gateway.now_ns() * 1e-9,
        "policy": core.policy.name,
        "fallback": gateway.fallback,
        "shadow": None if core.shadow is None else core.shadow.name,
        "guard_s": None if np.isinf(gateway.world.guard_s) else gateway.world.guard_s,
        "devices": [_device(gateway, device) for device in range(gateway.world.devices)],
        "models": [_model(gateway, model) for model in range(gateway.world.models)],
        "decisions": [
            {
                "time_s": one.time_s,
                "device": one.device,
                "choice": one.choice,
                "why": one.why,
                "took_ms": one.took_ms,
                "shadow": one.shadow,
            }
            for one in reversed(core.decisions)
        ],
        "totals": {
            "served": core.totals.served,
            "refused": gateway.refused,
            "cancelled": core.totals.cancelled,
            "failed": core.totals.failed,
            "loads": core.totals.loads,
            "evictions": core.totals.evictions,
            "decisions": core.totals.decisions,
        },
    }


def _device(gateway: Gateway, device: int) -> dict[str, Any]:
    core, scenario, now_ns = gateway.core, gateway.world.scenario, gateway.now_ns()
    operation = core.operation(device)
    doing = None
    if operation is not None:
        doing = {
            "kind": operation.kind if operation.started else "drain",
            "model": gateway.names[operation.model],
            "gpu_layers": gateway.world.gpu_layers[operation.model][operation.level],
            "since_s": operation.since_ns * 1e-9,
            "expected_s": operation.expected_s or None,
        }
    residents: list[dict[str, Any]] = []
    for model, level, drains in core.residents(device):
        server = gateway.fleet.servers.get((device, model))
        running = sum(j.device == device and j.model == model for j in core.jobs.values())
        used_ns = int(core.state.place["last_used_ns"][device, model])
        residents.append(
            {
                "model": gateway.names[model],
                "gpu_layers": gateway.world.gpu_layers[model][level],
                "state": "draining" if drains else "ready",
                "running": running,
                "max_batch": scenario.batch_of(scenario.models[model]),
                "memory_bytes": float(core.tables.level["footprint_bytes"][device, model, level]),
                "idle_s": 0.0 if running else max(0, now_ns - used_ns) * 1e-9,
                "pid": None if server is None else server.pid,
            }
        )
    place = scenario.devices[device]
    draining_bytes = sum(one["memory_bytes"] for one in residents if one["state"] == "draining")
    return {
        "name": place.name,
        "text": place.text,
        "capacity_bytes": float(core.tables.device["capacity_bytes"][device]),
        "used_bytes": core.used_bytes(device) + draining_bytes,
        "measured_bytes": gateway.measured_bytes[device],
        "operation": doing,
        "residents": residents,
    }


def _model(gateway: Gateway, model: int) -> dict[str, Any]:
    core, facts = gateway.core, gateway.facts[model]
    since_ns, failure = oldest_ns(core, model), core.failure(model)
    return {
        "name": gateway.names[model],
        "aliases": list(gateway.world.scenario.models[model].aliases),
        "state": state_of(core, model),
        "queued": core.queued(model),
        "running": core.running(model),
        "oldest_wait_s": None if since_ns is None else (gateway.now_ns() - since_ns) * 1e-9,
        "predicted_wait_s": predicted_wait_s(core, model),
        "served": int(core.served[model]),
        "failed": facts.failed,
        "retry_in_s": None if failure is None else max(0, failure.until_ns - gateway.now_ns()) * 1e-9,
        "reason": None if failure is None else failure.reason,
    }
