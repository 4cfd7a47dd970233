"""What a policy sees: named, versioned features of every candidate, and of the whole system.

Times are in units of the scenario's own time scale (mean load plus mean service time of a request), bytes in
shares of the device, so that a policy carries over to other machines. Nothing here looks at a request's
decode length: work is estimated from the tokens generated so far.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shunter.envs.candidates import claimable, claimable_count, mask_actions, short_bytes, used_bytes
from shunter.envs.compiled import jit
from shunter.envs.durations import interpolate, join_s, step_s
from shunter.envs.state import IDLE, KV_LIVE, LOAD, RUN, WAIT, Bools, Requests, State, Tables

__all__ = ["CONTEXT_FEATURES", "FEATURES", "FEATURES_VERSION", "FEATURE_MAX", "feature", "observe"]

FEATURES_VERSION = 1
"""Raised whenever a feature is added, removed, or changes its meaning; policies name the one they need."""

FEATURES = (
    "is_run",  # runs a quantum of a resident model
    "is_load",  # loads a model, or changes its level
    "is_evict",  # unloads a resident
    "is_wait",
    "gpu_share",  # share of the model's layers on the device at this level
    "requests",  # requests that this device could run now
    "batch",  # of these, as many as fit a batch
    "started",  # of these, with generated tokens
    "oldest_age",  # time scales since the oldest of them arrived
    "swap_time",  # predicted load, and unload of the same model when changing level; 0 if resident
    "join_time",  # predicted restores, prefills and recomputes of the batch
    "step_time",  # predicted decode step of the batch
    "first_time",  # predicted decode time until the first of the batch finishes
    "batch_time",  # predicted decode time of the batch at its mean remaining length
    "step_halfwidth",  # half width of the 90 % interval of step_time, relative
    "footprint",  # bytes at this level, as a share of the device
    "shortage",  # bytes that others must give up first, as a share of the device
    "resident_here",  # resident on this device at any level
    "resident_elsewhere",  # largest gpu_share at which another device holds the model
    "running_elsewhere",  # another device runs or loads the model now
    "unused_time",  # since its last use on this device
    "preempt_time",  # predicted cost of evicting it and bringing it back with its started requests
    "offload_sensitivity",  # how much slower a step is at its level with most layers on the host
    "arrivals",  # estimated arrivals per time scale
    "turned_to_last",  # the device ran or loaded this model last
)
"""Features of a candidate, in order."""

CONTEXT_FEATURES = (
    "pending",  # room must be made for a load
    "in_system",  # requests in the system
    "claimable",  # requests that this device could run now
    "free",  # free bytes, as a share of the device
    "others_busy",  # share of the other devices that run or load
    "next_completion",  # predicted time until one of them is done
)
"""Features of the whole system as the asking device sees it, in order."""

FEATURE_MAX = 1e6
"""Bound of every feature; all are at least zero."""


def feature(name: str) -> int:
    """Index of a candidate feature by name."""
    return FEATURES.index(name)


@jit
def smallest_remaining(mean_tokens: float, batch: int) -> float:
    """Expected remaining tokens of the shortest of a batch: between 1/n (exponential) and 1 of the mean."""
    return float(mean_tokens / max(1, batch) ** 0.75)


@jit
def candidate_features(
    t: Tables, s: State, r: Requests, d: int, m: int, level: int, o: NDArray[np.float32]
) -> None:
    """Writes what a model's run or load candidate at one level shares with its evict candidate."""
    unit = t.time_scale_s[0]
    count, batch, started, held, remaining, join, oldest = 0, 0, 0, 0.0, 0.0, 0.0, 0.0
    back = 0.0
    queue, owner, home, generated = s.queue[m], s.owner, s.home, s.generated
    for k in range(s.queue_length[m]):
        i = queue[k]
        if not claimable(owner[i], home[i], d):
            continue
        count += 1
        if generated[i] > 0:
            started += 1
        if batch == t.max_batch[0]:
            continue
        if batch == 0:
            oldest = (s.now_ns[0] - r.arrival_ns[i]) * 1e-9
        batch += 1
        context = float(r.prompt_tokens[i] + generated[i])
        held += context
        remaining += t.remaining_tokens[min(generated[i], t.remaining_tokens.shape[0] - 1)]
        join += join_s(t, d, m, level, s.kv[i], context)
        if s.kv[i] == KV_LIVE:
            back += interpolate(context, t.context_tokens, t.kv_save_s[d, m, level])
            back += interpolate(context, t.context_tokens, t.kv_restore_s[d, m, level])
    n = max(1, batch)
    step = step_s(t, d, m, level, n, held / n)
    resident = s.resident[d, m]
    swap = 0.0 if resident == level else t.load_s[d, m, level]
    if resident >= 0 and resident != level:
        swap += t.unload_s[d, m, resident]
    o[4] = t.gpu_share[m, level]
    o[5] = count
    o[6] = batch
    o[7] = started
    o[8] = oldest / unit
    o[9] = swap / unit
    o[10] = join / unit
    o[11] = step / unit
    o[12] = step * smallest_remaining(remaining / n, batch) / unit
    o[13] = step * remaining / n / unit
    o[14] = t.step_halfwidth[d, m, level]
    o[15] = t.footprint_bytes[d, m, level] / t.capacity_bytes[d]
    o[16] = 0.0 if resident == level else short_bytes(t, s, d, m, level) / t.capacity_bytes[d]
    o[17] = 1.0 if resident >= 0 else 0.0
    o[18], o[19] = elsewhere(t, s, d, m)
    o[20] = (s.now_ns[0] - s.last_used_ns[d, m]) * 1e-9 / unit
    o[21] = (t.unload_s[d, m, level] + t.load_s[d, m, level] + back) / unit
    o[22] = t.offload_sensitivity[d, m]
    o[23] = s.rate_per_s[m] * unit
    o[24] = 1.0 if s.last_model[d] == m else 0.0


@jit
def elsewhere(t: Tables, s: State, d: int, m: int) -> tuple[float, float]:
    """Largest share at which another device holds model m, and whether one runs or loads it."""
    share, running = 0.0, 0.0
    for other in range(s.resident.shape[0]):
        if other == d:
            continue
        if s.resident[other, m] >= 0:
            share = max(share, t.gpu_share[m, s.resident[other, m]])
        if (s.op_kind[other] == RUN or s.op_kind[other] == LOAD) and s.op_model[other] == m:
            running = 1.0
    return share, running


@jit
def context_features(t: Tables, s: State, d: int, o: NDArray[np.float32]) -> None:
    """Writes ``CONTEXT_FEATURES`` as device d sees them."""
    devices = s.op_kind.shape[0]
    count = 0
    for m in range(s.queue_length.shape[0]):
        count += claimable_count(s, d, m)
    busy, soonest = 0, 0.0
    for other in range(devices):
        if other != d and s.op_kind[other] != IDLE and s.op_kind[other] != WAIT:
            left = max(0.0, (s.op_end_ns[other] - s.now_ns[0]) * 1e-9)
            soonest = left if busy == 0 else min(soonest, left)
            busy += 1
    o[0] = 1.0 if s.pending[d, 0] >= 0 else 0.0
    o[1] = s.in_system[0]
    o[2] = count
    o[3] = max(0.0, 1.0 - used_bytes(t, s, d) / t.capacity_bytes[d])
    o[4] = busy / max(1, devices - 1)
    o[5] = soonest / t.time_scale_s[0]


@jit
def observe(
    t: Tables,
    s: State,
    r: Requests,
    d: int,
    candidates: NDArray[np.float32],
    context: NDArray[np.float32],
    mask: Bools,
) -> None:
    """Writes what device d's decision may be based on.

    Args:
        t: Tables.
        s: State.
        r: Requests; decode lengths are not read.
        d: The asking device.
        candidates: (A, len(FEATURES)), overwritten.
        context: (len(CONTEXT_FEATURES),), overwritten.
        mask: (A,), overwritten.
    """
    models, levels = t.level_ok.shape[1], t.level_ok.shape[2]
    mask_actions(t, s, d, mask)
    candidates[:] = 0.0
    for m in range(models):
        for level in range(levels):
            if t.level_ok[d, m, level]:
                o = candidates[m * levels + level]
                candidate_features(t, s, r, d, m, level, o)
                o[0 if s.resident[d, m] == level else 1] = 1.0
        if s.resident[d, m] >= 0:
            o = candidates[models * levels + m]
            candidate_features(t, s, r, d, m, s.resident[d, m], o)
            o[2] = 1.0
    candidates[models * levels + models, 3] = 1.0
    context_features(t, s, d, context)
    for a in range(candidates.shape[0]):
        for f in range(candidates.shape[1]):
            candidates[a, f] = min(max(candidates[a, f], np.float32(0.0)), np.float32(FEATURE_MAX))
    for f in range(context.shape[0]):
        context[f] = min(max(context[f], np.float32(0.0)), np.float32(FEATURE_MAX))
