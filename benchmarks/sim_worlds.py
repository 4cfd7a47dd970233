"""Worlds for measuring the simulator: models of unequal sizes on equal devices, durations from formulas."""

from __future__ import annotations

import numpy as np

from shunter.envs.scenario.scenario import Scenario
from shunter.envs.state.tables import make_tables
from shunter.envs.workload.lengths import length_pairs, remaining_tokens
from shunter.envs.world.world import World

DEVICE_BYTES, DEVICE_BYTES_PER_S, HOST_BYTES_PER_S, BUS_BYTES_PER_S = 32e9, 430e9, 60e9, 5e9
WEIGHT_BYTES = np.array([4.7e9, 19e9, 29.5e9, 6.2e9, 16.4e9, 28e9])
"""Sizes of the models of the prototype that first showed what is possible, the largest made to fit."""


def synthetic_world(
    models: int = 6, devices: int = 1, *, rate_per_s: float, requests: int = 2000, max_batch: int = 8
) -> World:
    """A world of three levels; its figures are made up but of the right size.

    Args:
        models: Sizes repeat after six.
        devices: All alike.
        rate_per_s: Arrivals.
        requests: Requests of an episode.
        max_batch: Requests of a quantum, at most.
    """
    scenario = Scenario.parse(
        {
            "name": "synthetic",
            "engine": "fake",
            "models": [{"name": f"m{i}", "levels": ["all", "50%", 0]} for i in range(models)],
            "devices": [{"name": f"d{i}", "device": "cuda:0-32GB"} for i in range(devices)],
            "workload": {"requests": requests, "rate_per_s": rate_per_s},
            "limits": {"guard_s": "off", "max_batch": max_batch, "context_tokens": 4096, "max_time_s": 1e9},
        }
    )
    weight = np.resize(WEIGHT_BYTES, models)[None, :, None] * np.ones((devices, 1, 1))
    share = np.broadcast_to(np.array([1.0, 0.5, 0.0]), (models, 3))
    on_device, on_host = weight * share, weight * (1 - share)
    grid = np.geomspace(16, 4096, 6).round()
    batch = np.arange(1, max_batch + 1)
    step_s = (on_device / DEVICE_BYTES_PER_S)[..., None] * (1 + 0.03 * (batch - 1))
    step_s = step_s + (on_host / HOST_BYTES_PER_S)[..., None] * (1 + 0.25 * (batch - 1)) + 1e-3
    step_s = step_s[..., None] * (1 + 0.1 * grid / grid[-1])
    kv_s = np.ones((*weight.shape[:2], 3, 1)) * grid * 1e-5
    load_s = 0.9 + on_device / BUS_BYTES_PER_S
    pairs = length_pairs(scenario.workload, scenario.limits)
    decode_s = pairs[:, 1].mean() * step_s[..., 0, 0]
    limits = scenario.limits
    tables = make_tables(
        level_ok=on_device <= DEVICE_BYTES - 1e9,
        gpu_share=share,
        footprint_bytes=on_device,
        capacity_bytes=np.full(devices, DEVICE_BYTES),
        load_s=load_s,
        cold_load_s=2 * load_s,
        weight_bytes=weight[0, :, 0],
        host_bytes=np.inf,
        unload_s=np.full(load_s.shape, 0.05),
        prefill_s=0.02 + weight[..., None] * 2.3e-15 * (5 - 4 * share)[..., None] * grid,
        prefill_tokens=grid,
        step_s=step_s,
        context_tokens=grid,
        kv_save_s=kv_s,
        kv_restore_s=kv_s,
        remaining_tokens=remaining_tokens(pairs),
        load_halfwidth=np.full(load_s.shape, 0.2),
        prefill_halfwidth=np.full(load_s.shape, 0.1),
        step_halfwidth=np.full(load_s.shape, 0.1),
        offload_sensitivity=step_s[:, :, 2, 0, 0] / step_s[:, :, 0, 0, 0] - 1,
        kv_can_save=True,
        quantum_steps=limits.quantum_steps,
        quantum_ns=round(limits.quantum_s * 1e9),
        max_wait_ns=round(limits.max_wait_s * 1e9),
        decision_ns=round(limits.decision_s * 1e9),
        max_time_ns=round(limits.max_time_s * 1e9),
        max_batch=max_batch,
        oracle=0,
        time_scale_s=float((load_s + decode_s).mean()),
    )
    return World(scenario, tables, ((40, 20, 0),) * models, rate_per_s, np.full(devices, decode_s.mean()))
