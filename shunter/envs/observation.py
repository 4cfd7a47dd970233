"""What a policy sees of every candidate and of the whole system; ``shunter.envs.features`` names it.

Times are in units of the scenario's own time scale (mean load plus mean service time of a request), bytes in
shares of the device, so that a policy carries over to other machines. Nothing here looks at a request's
decode length: work is estimated from the tokens generated so far. Only where ``limits.oracle`` is set are the
true remaining lengths in their place.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shunter.envs.candidates import claimable, claimable_count, mask_actions, short_bytes, used_bytes
from shunter.envs.compiled import entry, inlined
from shunter.envs.durations import locate, on_piece
from shunter.envs.features import FEATURE_MAX
from shunter.envs.state import IDLE, KV_LIVE, KV_SAVED, KV_SAVING, LOAD, RUN, WAIT, Bools, State
from shunter.envs.tables import Tables

__all__ = ["observe"]

Features = NDArray[np.float32]


@inlined
def bounded(x: float) -> float:
    """Within the bounds of every feature."""
    return float(min(max(x, 0.0), FEATURE_MAX))


@inlined
def add_work(t: Tables, s: State, d: int, m: int, i: int) -> float:
    """Adds what the request in slot i would cost device d to ``State.work``; returns the tokens it holds."""
    r = s.slot[i]
    context = float(r.prompt_tokens + r.generated)
    live = r.kv == KV_LIVE
    saved = r.kv == KV_SAVED or r.kv == KV_SAVING
    x = context - 1.0 if saved else context
    grid = t.context_tokens if live or saved else t.prefill_tokens
    piece = locate(x, grid)
    for level in range(t.level.shape[2]):
        if t.level[d, m, level].level_ok == 0:
            continue
        work = s.work[d, m, level]
        if live:
            work.back_s += on_piece(x, piece, grid, t.kv_save_s[d, m, level])
            work.back_s += on_piece(x, piece, grid, t.kv_restore_s[d, m, level])
        elif saved:
            work.join_s += on_piece(x, piece, grid, t.kv_restore_s[d, m, level])
        else:
            work.join_s += on_piece(x, piece, grid, t.prefill_s[d, m, level])
    return context


@inlined
def remaining_tokens(t: Tables, s: State, i: int) -> float:
    """Further tokens of the request in slot i: expected, or for an oracle true."""
    r = s.slot[i]
    if t.limits[0].oracle != 0:
        return float(r.decode_tokens - r.generated)
    return float(t.remaining_tokens[min(r.generated, t.remaining_tokens.shape[0] - 1)])


@inlined
def summarize(t: Tables, s: State, d: int, m: int) -> None:
    """Computes anew what is cached about the first requests of a model that device d could run."""
    place, levels = s.place[d, m], t.level.shape[2]
    batch = min(claimable_count(s, d, m), t.limits[0].max_batch, s.entry.shape[1])
    for level in range(levels):
        s.work[d, m, level].join_s = 0.0
        s.work[d, m, level].back_s = 0.0
    held, remaining, fewest = 0.0, 0.0, np.inf
    left, i = batch, s.model[m].head
    while left > 0:
        if claimable(s, i, d):
            if left == batch:
                place.oldest_ns = s.slot[i].arrival_ns
            left -= 1
            held += add_work(t, s, d, m, i)
            tokens = remaining_tokens(t, s, i)
            remaining += tokens
            fewest = min(fewest, tokens)
        i = s.slot[i].next
    n = max(1, batch)
    place.batch = batch
    place.remaining = remaining / n
    # Expected: between 1/n (exponential lengths) and 1 of the mean.
    place.shortest = place.remaining / n**0.75
    if t.limits[0].oracle != 0 and batch > 0:
        place.shortest = fewest
    piece = locate(held / n, t.context_tokens)
    for level in range(levels):
        values = t.step_s[d, m, level, n - 1]
        s.work[d, m, level].step_s = on_piece(held / n, piece, t.context_tokens, values)
    place.stale = 0


@inlined
def elsewhere(t: Tables, s: State, d: int, m: int) -> tuple[float, float]:
    """Largest share at which another device holds model m, and whether one runs or loads it."""
    share, running = 0.0, 0.0
    for other in range(s.device.shape[0]):
        if other == d:
            continue
        resident, device = s.place[other, m].resident, s.device[other]
        if resident >= 0:
            share = max(share, t.level[other, m, resident].gpu_share)
        if (device.op_kind == RUN or device.op_kind == LOAD) and device.op_model == m:
            running = 1.0
    return share, running


@inlined
def model_features(t: Tables, s: State, d: int, m: int, o: Features) -> None:
    """Writes what all candidates of a model share."""
    place, model, scale_s = s.place[d, m], s.model[m], t.limits[0].time_scale_s
    now_ns = s.clock[0].now_ns
    o[5] = claimable_count(s, d, m)
    o[6] = place.batch
    o[7] = place.held + model.homeless_started
    o[8] = bounded((now_ns - place.oldest_ns) * 1e-9 / scale_s) if place.batch > 0 else 0.0
    o[17] = 1.0 if place.resident >= 0 else 0.0
    if s.device.shape[0] > 1:
        o[18], o[19] = elsewhere(t, s, d, m)
    o[20] = bounded((now_ns - place.last_used_ns) * 1e-9 / scale_s)
    o[22] = bounded(t.offload_sensitivity[d, m])
    o[23] = bounded(model.rate_per_s * scale_s)
    o[24] = 1.0 if s.device[d].last_model == m else 0.0
    o[25] = 1.0 if model.cached != 0 else 0.0


@inlined
def level_features(t: Tables, s: State, d: int, m: int, level: int, used: float, o: Features) -> None:
    """Writes what a candidate's level adds; ``used`` are the device's ``used_bytes``."""
    place, work, at = s.place[d, m], s.work[d, m, level], t.level[d, m, level]
    per_s, share = 1.0 / t.limits[0].time_scale_s, 1.0 / t.device[d].capacity_bytes
    resident = place.resident
    load_s = at.load_s if s.model[m].cached != 0 else at.cold_load_s
    swap_s = 0.0 if resident == level else load_s
    if resident >= 0 and resident != level:
        swap_s += t.level[d, m, resident].unload_s
    o[4] = at.gpu_share
    o[9] = bounded(swap_s * per_s)
    o[10] = bounded(work.join_s * per_s)
    o[11] = bounded(work.step_s * per_s)
    o[12] = bounded(work.step_s * place.shortest * per_s)
    o[13] = bounded(work.step_s * place.remaining * per_s)
    o[14] = bounded(at.step_halfwidth)
    o[15] = at.footprint_bytes * share
    o[16] = 0.0 if resident == level else short_bytes(t, s, d, m, level, used) * share
    o[21] = bounded((at.unload_s + at.load_s + work.back_s) * per_s)


@inlined
def context_features(t: Tables, s: State, d: int, used: float, o: Features) -> None:
    """Writes ``CONTEXT_FEATURES`` as device d sees them."""
    devices, now_ns = s.device.shape[0], s.clock[0].now_ns
    count = 0
    for m in range(s.model.shape[0]):
        count += claimable_count(s, d, m)
    busy, soonest = 0, 0.0
    for other in range(devices):
        device = s.device[other]
        if other != d and device.op_kind != IDLE and device.op_kind != WAIT:
            left = max(0.0, (device.op_end_ns - now_ns) * 1e-9)
            soonest = left if busy == 0 else min(soonest, left)
            busy += 1
    o[0] = 1.0 if s.device[d].pending_model >= 0 else 0.0
    o[1] = s.clock[0].in_system
    o[2] = count
    o[3] = max(0.0, 1.0 - used / t.device[d].capacity_bytes)
    o[4] = busy / max(1, devices - 1)
    o[5] = bounded(soonest / t.limits[0].time_scale_s)


@entry
def observe(t: Tables, s: State, d: int, candidates: Features, context: Features, mask: Bools) -> None:
    """Writes what device d's decision may be based on.

    Args:
        t: Tables.
        s: State; only its cache for observations is changed.
        d: The asking device.
        candidates: (A, len(FEATURES)), overwritten.
        context: (len(CONTEXT_FEATURES),), overwritten.
        mask: (A,), overwritten.
    """
    models, levels = t.level.shape[1], t.level.shape[2]
    used = used_bytes(t, s, d)
    mask_actions(t, s, d, mask)
    candidates[:] = 0.0
    for m in range(models):
        if s.place[d, m].stale != 0:
            summarize(t, s, d, m)
        resident = s.place[d, m].resident
        for level in range(levels):
            if t.level[d, m, level].level_ok != 0:
                o = candidates[m * levels + level]
                model_features(t, s, d, m, o)
                level_features(t, s, d, m, level, used, o)
                o[0 if resident == level else 1] = 1.0
        if resident >= 0:
            o = candidates[models * levels + m]
            for f in range(4, o.shape[0]):
                o[f] = candidates[m * levels + resident, f]
            o[2] = 1.0
    candidates[models * levels + models, 3] = 1.0
    context_features(t, s, d, used, context)
