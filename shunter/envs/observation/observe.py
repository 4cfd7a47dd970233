"""What a policy sees of every candidate and of the whole system; ``features`` beside this names it.

Times are in units of the scenario's own time scale (mean load plus mean service time of a request), bytes in
shares of the device, so that a policy carries over to other machines. Nothing here looks at a request's
decode length: work is estimated from the tokens generated so far. Only where ``limits.oracle`` is set are the
true remaining lengths in their place.

Most of what a candidate shows changes only when its model's requests or its place on the device do. Such
features are kept in ``State.row`` and copied; the others are written at every decision.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shunter.envs.observation.features import FEATURE_MAX, FEATURES, context_feature, feature
from shunter.envs.observation.others import elsewhere, next_completion
from shunter.envs.rules.asleep import expected_load_s, kept_bytes, loading_s
from shunter.envs.rules.candidates import mask_actions, short_bytes, used_bytes
from shunter.envs.rules.claims import claimable, claimable_count
from shunter.envs.rules.durations import locate, on_piece
from shunter.envs.rules.guard import note_waits
from shunter.envs.sim.compiled import entry, inlined, internal
from shunter.envs.state.records import FAR_NS
from shunter.envs.state.state import KV_LIVE, KV_SAVED, KV_SAVING, Bools, State
from shunter.envs.state.tables import Tables

__all__ = ["observe"]

Features = NDArray[np.float32]
WIDTH = len(FEATURES)

# Columns of a candidate, and of the whole system, by the names of their features.
IS_RUN = feature("is_run")
IS_LOAD = feature("is_load")
IS_EVICT = feature("is_evict")
IS_WAIT = feature("is_wait")
GPU_SHARE = feature("gpu_share")
REQUESTS = feature("requests")
BATCH = feature("batch")
STARTED = feature("started")
OLDEST_AGE = feature("oldest_age")
SWAP_TIME = feature("swap_time")
JOIN_TIME = feature("join_time")
STEP_TIME = feature("step_time")
FIRST_TIME = feature("first_time")
BATCH_TIME = feature("batch_time")
STEP_HALFWIDTH = feature("step_halfwidth")
FOOTPRINT = feature("footprint")
SHORTAGE = feature("shortage")
RESIDENT_HERE = feature("resident_here")
RESIDENT_ELSEWHERE = feature("resident_elsewhere")
RUNNING_ELSEWHERE = feature("running_elsewhere")
UNUSED_TIME = feature("unused_time")
PREEMPT_TIME = feature("preempt_time")
OFFLOAD_SENSITIVITY = feature("offload_sensitivity")
ARRIVALS = feature("arrivals")
TURNED_TO_LAST = feature("turned_to_last")
CACHED = feature("cached")
HELD = feature("held")
ELSEWHERE = feature("elsewhere")
STARTUP_ELSEWHERE = feature("startup_elsewhere")
SERVE_ELSEWHERE = feature("serve_elsewhere")
TOP_LEVEL = feature("top_level")
QUEUE_TIME = feature("queue_time")
LOAD_HALFWIDTH = feature("load_halfwidth")
SLO_USED = feature("slo_used")
GUARD_USED = feature("guard_used")
ALL_PENDING = context_feature("pending")
ALL_IN_SYSTEM = context_feature("in_system")
ALL_CLAIMABLE = context_feature("claimable")
ALL_FREE = context_feature("free")
ALL_OTHERS_BUSY = context_feature("others_busy")
ALL_NEXT_COMPLETION = context_feature("next_completion")
ALL_PENDING_SHORTAGE = context_feature("pending_shortage")
ALL_OLDEST_AGE = context_feature("oldest_age")


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
def expected_tokens(t: Tables, m: int, generated: int) -> float:
    """Expected further tokens of a request to model m that generated so many."""
    rows, longest = t.remaining_tokens.shape
    return float(t.remaining_tokens[min(m, rows - 1), min(generated, longest - 1)])


@inlined
def remaining_tokens(t: Tables, s: State, i: int) -> float:
    """Further tokens of the request in slot i: expected, or for an oracle true."""
    r = s.slot[i]
    if t.limits[0].oracle != 0:
        return float(r.decode_tokens - r.generated)
    return expected_tokens(t, r.model, r.generated)


@internal
def summarize(t: Tables, s: State, d: int, m: int) -> None:
    """Computes anew what is cached about the first requests of a model that device d could run."""
    place, levels = s.place[d, m], t.level.shape[2]
    batch = min(claimable_count(s, d, m), t.model[m].max_batch, s.entry.shape[1])
    for level in range(levels):
        s.work[d, m, level].join_s = 0.0
        s.work[d, m, level].back_s = 0.0
    held, remaining, fewest = 0.0, 0.0, np.inf
    place.tokenless_ns = -1
    left, i = batch, s.model[m].head
    while left > 0:
        if claimable(s, i, d):
            if left == batch:
                place.oldest_ns = s.slot[i].arrival_ns
            if place.tokenless_ns < 0 and s.slot[i].first_token_ns < 0:
                place.tokenless_ns = s.slot[i].arrival_ns
            left -= 1
            held += add_work(t, s, d, m, i)
            tokens = remaining_tokens(t, s, i)
            remaining += tokens
            fewest = min(fewest, tokens)
        i = s.slot[i].next
    if t.limits[0].guard_ns != FAR_NS:
        note_waits(s, d, m)
    n = max(1, batch)
    place.batch = batch
    place.remaining = remaining / n
    # Expected: between 1/n (exponential lengths) and 1 of the mean; here n to the minus 3/4.
    place.shortest = place.remaining / np.sqrt(n * np.sqrt(n))
    if t.limits[0].oracle != 0 and batch > 0:
        place.shortest = fewest
    piece = locate(held / n, t.context_tokens)
    for level in range(levels):
        values = t.step_s[d, m, level, n - 1]
        s.work[d, m, level].step_s = on_piece(held / n, piece, t.context_tokens, values)
    place.stale = 0


@inlined
def write_row(t: Tables, s: State, d: int, m: int, level: int, top: int) -> None:
    """Writes what of a candidate changes only with the model's requests and its place on the device."""
    place, model, work, at = s.place[d, m], s.model[m], s.work[d, m, level], t.level[d, m, level]
    o, resident, scale_s = s.row[d, m, level], place.resident, t.limits[0].time_scale_s
    per_s, requests = 1.0 / scale_s, float(claimable_count(s, d, m))
    back_s = at.unload_s + at.load_s + work.back_s
    if t.limits[0].sleep != 0:  # it falls asleep, and is woken
        back_s = t.asleep[d, m, level].fall_asleep_s + t.asleep[d, m, level].wake_s + work.back_s
    if t.limits[0].drain != 0 and resident >= 0:
        # Who runs there goes on whatever is chosen; at stake are those who wait, and who come meanwhile.
        back_s += work.step_s * place.remaining if place.held > 0 else 0.0
        requests = model.unassigned + model.rate_per_s * (work.join_s + work.step_s * place.shortest)
    wakes = place.asleep == level
    swap_s = 0.0 if resident == level else expected_load_s(t, s, d, m, level)
    if place.asleep >= 0 and not wakes:
        swap_s += t.level[d, m, place.asleep].unload_s
    if resident >= 0 and resident != level:
        swap_s += t.level[d, m, resident].unload_s
    o[IS_RUN] = 1.0 if resident == level else 0.0
    o[IS_LOAD] = 0.0 if resident == level else 1.0
    o[GPU_SHARE] = at.gpu_share
    o[REQUESTS] = requests
    o[BATCH] = place.batch
    o[STARTED] = place.held + model.unassigned_started
    o[SWAP_TIME] = bounded(swap_s * per_s)
    o[JOIN_TIME] = bounded(work.join_s * per_s)
    o[STEP_TIME] = bounded(work.step_s * per_s)
    o[FIRST_TIME] = bounded(work.step_s * place.shortest * per_s)
    o[BATCH_TIME] = bounded(work.step_s * place.remaining * per_s)
    o[STEP_HALFWIDTH] = bounded(at.step_halfwidth)
    o[FOOTPRINT] = bounded(at.footprint_bytes / t.device[d].capacity_bytes)
    o[RESIDENT_HERE] = 1.0 if resident >= 0 else 0.0
    o[PREEMPT_TIME] = bounded(back_s * per_s)
    o[OFFLOAD_SENSITIVITY] = bounded(t.offload_sensitivity[d, m])
    o[ARRIVALS] = bounded(model.rate_per_s * scale_s)
    o[TURNED_TO_LAST] = 1.0 if s.device[d].last_model == m else 0.0
    o[CACHED] = 1.0 if model.cached != 0 or (wakes and t.limits[0].sleep == 1) else 0.0
    o[HELD] = place.held
    o[TOP_LEVEL] = 1.0 if level == top else 0.0
    batch_s = work.join_s + work.step_s * place.remaining
    o[QUEUE_TIME] = bounded(batch_s * per_s * (requests / max(1, place.batch)))
    o[LOAD_HALFWIDTH] = bounded(t.asleep[d, m, level].wake_halfwidth if wakes else at.load_halfwidth)


@internal
def write_rows(t: Tables, s: State, d: int, m: int) -> None:
    """Brings the cached rows of a model's candidates on device d up to date."""
    if s.place[d, m].stale != 0:
        summarize(t, s, d, m)
    top = -1
    for level in range(t.level.shape[2]):
        if t.level[d, m, level].level_ok != 0:
            top = level if top < 0 else top
            write_row(t, s, d, m, level, top)
    s.place[d, m].changed = 0


@inlined
def write_now(t: Tables, s: State, d: int, m: int, used: float, candidates: Features) -> float:
    """Writes what changes with time, memory and other devices; returns the age of the oldest request."""
    levels, now_ns, place = t.level.shape[2], s.clock[0].now_ns, s.place[d, m]
    per_ns, share = 1e-9 / t.limits[0].time_scale_s, 1.0 / t.device[d].capacity_bytes
    age = bounded((now_ns - place.oldest_ns) * per_ns) if place.batch > 0 else 0.0
    unused = bounded((now_ns - place.last_used_ns) * per_ns)
    waited = 0.0
    if t.limits[0].ttft_ns != FAR_NS and place.batch > 0 and place.tokenless_ns >= 0:
        waited = bounded((now_ns - place.tokenless_ns) / t.limits[0].ttft_ns)
    guarded = 0.0
    if t.limits[0].guard_ns != FAR_NS and place.batch > 0:
        guarded = bounded((1 + t.model[m].priority) * (now_ns - place.waiting_ns) / t.limits[0].guard_ns)
    for level in range(levels):
        if t.level[d, m, level].level_ok == 0:
            continue
        o = candidates[m * levels + level]
        o[OLDEST_AGE] = age
        o[UNUSED_TIME] = unused
        o[SLO_USED] = waited
        o[GUARD_USED] = guarded
        if place.resident != level:
            o[SHORTAGE] = bounded(short_bytes(t, s, d, m, level, used) * share)
    if s.device.shape[0] > 1:
        tokens = place.remaining if place.batch > 0 else expected_tokens(t, m, 0)
        held_share, is_running, is_held, startup_s, serve_s = elsewhere(t, s, d, m, tokens)
        startup, serve = bounded(startup_s * 1e9 * per_ns), bounded(serve_s * 1e9 * per_ns)
        for level in range(levels):
            if t.level[d, m, level].level_ok != 0:
                o = candidates[m * levels + level]
                o[RESIDENT_ELSEWHERE] = held_share
                o[RUNNING_ELSEWHERE] = is_running
                o[ELSEWHERE] = is_held
                o[STARTUP_ELSEWHERE] = startup
                o[SERVE_ELSEWHERE] = serve
    return age


@inlined
def context_features(t: Tables, s: State, d: int, used: float, oldest: float, o: Features) -> None:
    """Writes ``CONTEXT_FEATURES`` as device d sees them."""
    device, count = s.device[d], 0
    for m in range(s.model.shape[0]):
        count += claimable_count(s, d, m)
    share, soonest_s, short = 0.0, 0.0, 0.0
    if s.device.shape[0] > 1:
        share, soonest_s = next_completion(s, d)
    if device.pending_model >= 0:
        short = short_bytes(t, s, d, device.pending_model, device.pending_level, used)
    o[ALL_PENDING] = 1.0 if device.pending_model >= 0 else 0.0
    o[ALL_IN_SYSTEM] = s.clock[0].in_system
    o[ALL_CLAIMABLE] = count
    o[ALL_FREE] = max(0.0, 1.0 - used / t.device[d].capacity_bytes)
    o[ALL_OTHERS_BUSY] = share
    o[ALL_NEXT_COMPLETION] = bounded(soonest_s / t.limits[0].time_scale_s)
    o[ALL_PENDING_SHORTAGE] = bounded(short / t.device[d].capacity_bytes)
    o[ALL_OLDEST_AGE] = oldest


@inlined
def add_drains(t: Tables, s: State, d: int, candidates: Features) -> None:
    """Adds to loads how long running requests go on that would have to end first to make room."""
    levels, drain_s, idle = t.level.shape[2], 0.0, 0.0
    for m in range(t.level.shape[1]):
        place = s.place[d, m]
        if place.resident >= 0 and place.held == 0:
            idle += t.level[d, m, place.resident].footprint_bytes / t.device[d].capacity_bytes
        elif place.resident < 0:
            idle += kept_bytes(t, s, d, m) / t.device[d].capacity_bytes
        else:
            drain_s = max(drain_s, s.work[d, m, place.resident].step_s * place.remaining)
    for a in range(t.level.shape[1] * levels):
        o, place = candidates[a], s.place[d, a // levels]
        changes = place.resident >= 0 and place.resident != a % levels and place.held > 0
        if changes or o[SHORTAGE] > idle:
            o[SWAP_TIME] = bounded(o[SWAP_TIME] + drain_s / t.limits[0].time_scale_s)


@inlined
def write_end(t: Tables, s: State, d: int, m: int, o: Features) -> None:
    """Makes of a sleeper's candidate to wake it the one to end it: what that frees, and what it costs."""
    level = s.place[d, m].asleep
    cold = 1 if s.model[m].cached == 0 else 0
    lost_s = loading_s(t, d, m, level, cold, 0) - loading_s(t, d, m, level, cold, 1)
    back_s = t.level[d, m, level].unload_s + max(0.0, lost_s)
    o[IS_LOAD] = 0.0
    o[SHORTAGE] = 0.0
    o[FOOTPRINT] = bounded(kept_bytes(t, s, d, m) / t.device[d].capacity_bytes)
    o[PREEMPT_TIME] = bounded(back_s / t.limits[0].time_scale_s)


@inlined
def write_evictions(t: Tables, s: State, d: int, levels: int, candidates: Features) -> None:
    """Writes the rows of evictions, of what is resident or asleep, and of waiting."""
    models = s.model.shape[0]
    for m in range(models):
        o, level = candidates[models * levels + m], max(s.place[d, m].resident, s.place[d, m].asleep)
        if level >= 0:
            for f in range(WIDTH):
                o[f] = candidates[m * levels + level, f]
            o[IS_RUN] = 0.0
            o[IS_EVICT] = 1.0
            if s.place[d, m].asleep >= 0:
                write_end(t, s, d, m, o)
        else:
            for f in range(WIDTH):
                o[f] = 0.0
    o = candidates[models * levels + models]
    for f in range(WIDTH):
        o[f] = 0.0
    o[IS_WAIT] = 1.0


@entry
def observe(t: Tables, s: State, d: int, candidates: Features, context: Features, mask: Bools) -> None:
    """Writes what device d's decision may be based on.

    Args:
        t: Tables of the scenario.
        s: State; only its caches for observations are changed.
        d: The asking device.
        candidates: (A, len(FEATURES)) features of the candidates, overwritten.
        context: (len(CONTEXT_FEATURES),) features of the context, overwritten.
        mask: (A,) which candidates are legal, overwritten.
    """
    levels = t.level.shape[2]
    used = used_bytes(t, s, d)
    oldest = 0.0
    for m in range(t.level.shape[1]):
        if s.place[d, m].changed != 0:
            write_rows(t, s, d, m)
        for level in range(levels):
            for f in range(WIDTH):
                candidates[m * levels + level, f] = s.row[d, m, level, f]
        oldest = max(oldest, write_now(t, s, d, m, used, candidates))
    if t.limits[0].drain != 0:
        add_drains(t, s, d, candidates)
    mask_actions(t, s, d, mask)  # now that what the guard looks at is up to date
    write_evictions(t, s, d, levels, candidates)
    context_features(t, s, d, used, oldest, context)
