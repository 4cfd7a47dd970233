"""How long a request may wait where the guard is kept: what the rows of starved models are held against."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shunter.envs.world.world import World

__all__ = ["ALLOWANCE", "allowed_waits_s", "beyond_guard_s"]

ALLOWANCE = (
    "allowed: the guard, the longest operation of another model (a quantum, or unloading it and loading), "
    "unloading with all KV saved, the model's own load, the prefills of one full batch, three decisions; "
    "each the longest over levels, full batches and the longest request drawn"
)
"""In words."""

DECISIONS = 3
"""That lie between the end of the operation under way and the prefill: to load, whom to evict, to run."""

Floats = NDArray[np.float64]


def allowed_waits_s(world: World, longest_tokens: int) -> dict[str, float]:
    """The longest wait for a first token of each model that the guard leaves possible; inf without one."""
    return {model: world.guard_s + by_s for model, by_s in beyond_guard_s(world, longest_tokens).items()}


def beyond_guard_s(world: World, longest_tokens: int) -> dict[str, float]:
    """What a model's request may wait longer than a guard; see ``ALLOWANCE``.

    That holds where its model alone is overdue: where several are, what is served before it comes on top.

    Args:
        world: World of any number of devices; the slowest that a model fits counts.
        longest_tokens: Prompt and answer of the longest request.

    Returns:
        Seconds by model.
    """
    t = world.tables
    fits = t.level_ok.any(axis=2)
    batch, limits = int(t.max_batch[0]), t.limits[0]
    prefill_s = batch * _longest(world, t.prefill_tokens, t.prefill_s, longest_tokens)
    restore_s = batch * _longest(world, t.context_tokens, t.kv_restore_s, longest_tokens)
    save_s = batch * _longest(world, t.context_tokens, t.kv_save_s, longest_tokens)
    step_s = _longest(world, t.context_tokens, t.step_s[..., batch - 1, :], longest_tokens)
    decode_s = np.minimum(limits["quantum_ns"] * 1e-9 + step_s, limits["quantum_steps"] * step_s)
    quantum_s = np.maximum(prefill_s, restore_s) + decode_s
    unload_s = save_s + _over_levels(world, t.unload_s)
    load_s = _over_levels(
        world, t.load_s if np.isinf(t.host_bytes[0]) else np.maximum(t.load_s, t.cold_load_s)
    )
    operation_s = np.maximum(quantum_s, load_s + unload_s)
    found: dict[str, float] = {}
    for m, model in enumerate(world.scenario.models):
        others = np.delete(np.arange(world.models), m)
        before_s = np.where(fits, operation_s, 0.0)[:, others].max(axis=1, initial=0.0)
        room_s = np.where(fits, unload_s, 0.0)[:, others].max(axis=1, initial=0.0)
        own_s = before_s + room_s + load_s[:, m] + prefill_s[:, m]
        decisions_s = DECISIONS * limits["decision_ns"] * 1e-9
        found[model.name] = float(own_s[fits[:, m]].max(initial=0.0) + decisions_s)
    return found


def _over_levels(world: World, values: Floats) -> Floats:
    """(devices, models) the largest of the levels that can be."""
    return np.asarray(np.where(world.tables.level_ok, values, 0.0).max(axis=2))


def _longest(world: World, grid: Floats, values: Floats, tokens: int) -> Floats:
    """(devices, models) the largest over levels of what takes longest at up to so many tokens."""
    k = 0 if tokens <= grid[0] else min(int(np.searchsorted(grid, tokens)), len(grid) - 1)
    at = values[..., 0]
    if k > 0:
        slope = (values[..., k] - values[..., k - 1]) / (grid[k] - grid[k - 1])
        at = np.maximum(at, values[..., k - 1] + slope * (tokens - grid[k - 1]))
    return _over_levels(world, at)
