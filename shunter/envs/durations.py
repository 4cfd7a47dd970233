"""How long it takes, in simulation: fills an operation's times from the tables.

The rules within a quantum are those of ``Engine.decode``: a step starts only while fewer than ``quantum_s``
have passed since decoding began, at least one runs, and a request leaves the batch with its last token.
"""

from __future__ import annotations

import numpy as np

from shunter.envs.compiled import jit
from shunter.envs.state import (
    EVICT,
    KV_DROPPED,
    KV_LIVE,
    KV_SAVED,
    KV_SAVING,
    LOAD,
    RUN,
    Floats,
    Requests,
    State,
    Tables,
)

__all__ = ["fill_times", "interpolate", "join_s", "step_s", "to_ns"]


@jit
def to_ns(seconds: float) -> int:
    """Seconds as whole nanoseconds."""
    return int(np.round(seconds * 1e9))


@jit
def interpolate(x: float, grid: Floats, values: Floats) -> float:
    """Piecewise linear in x; extrapolates along the last piece, is constant below the grid."""
    if x <= grid[0] or grid.shape[0] == 1:
        return float(values[0])
    k = 1
    while k < grid.shape[0] - 1 and grid[k] < x:
        k += 1
    slope = (values[k] - values[k - 1]) / (grid[k] - grid[k - 1])
    return float(values[k - 1] + slope * (x - grid[k - 1]))


@jit
def step_s(t: Tables, d: int, m: int, level: int, batch: int, context_tokens: float) -> float:
    """Seconds of one decode step of a batch whose requests hold this many tokens on average."""
    return float(interpolate(context_tokens, t.context_tokens, t.step_s[d, m, level, batch - 1]))


@jit
def join_s(t: Tables, d: int, m: int, level: int, kv: int, held_tokens: float) -> float:
    """Seconds until a request can decode on device d: nothing, restore, prefill or recompute.

    held_tokens are its prompt and generated tokens; the KV of the last one is not made yet.
    """
    if kv == KV_LIVE:
        return 0.0
    if kv == KV_SAVED or kv == KV_SAVING:
        return float(interpolate(held_tokens - 1.0, t.context_tokens, t.kv_restore_s[d, m, level]))
    return float(interpolate(held_tokens, t.prefill_tokens, t.prefill_s[d, m, level]))


@jit
def eviction_ns(t: Tables, s: State, r: Requests, d: int) -> int:
    """Saving the KV of, and unloading, everything that device d is evicting."""
    total = 0
    for m in range(s.evicting.shape[1]):
        level = s.evicting[d, m]
        if level < 0:
            continue
        for k in range(s.queue_length[m]):
            i = s.queue[m, k]
            if s.home[i] == d and s.kv[i] == KV_SAVING:
                held = float(r.prompt_tokens[i] + s.generated[i] - 1)
                total += to_ns(interpolate(held, t.context_tokens, t.kv_save_s[d, m, level]))
        total += to_ns(t.unload_s[d, m, level])
    return total


@jit
def fill_joins(t: Tables, s: State, r: Requests, d: int) -> int:
    """Times of restores and prefills, one request after another; returns when the last one ends."""
    clock = s.op_start_ns[d]
    for b in range(s.op_batch[d]):
        i = s.op_request[d, b]
        held = float(r.prompt_tokens[i] + s.generated[i])
        clock += to_ns(join_s(t, d, s.op_model[d], s.op_level[d], s.kv[i], held))
        if s.generated[i] == 0 or s.kv[i] == KV_DROPPED:
            s.op_tokens[d, b] = 1
            if s.generated[i] == 0:
                s.op_first_ns[d, b] = clock
            if s.generated[i] + 1 >= r.decode_tokens[i]:
                s.op_finish_ns[d, b] = clock
    return int(clock)


@jit
def fill_steps(t: Tables, s: State, r: Requests, d: int, clock: int) -> int:
    """Times of decode steps from clock on; returns the end."""
    begun = clock
    while s.op_steps[d] < t.quantum_steps[0] and (s.op_steps[d] == 0 or clock - begun < t.quantum_ns[0]):
        active = 0
        context = 0.0
        for b in range(s.op_batch[d]):
            if s.op_finish_ns[d, b] < 0:
                i = s.op_request[d, b]
                active += 1
                context += r.prompt_tokens[i] + s.generated[i] + s.op_tokens[d, b]
        if active == 0:
            break
        clock += to_ns(step_s(t, d, s.op_model[d], s.op_level[d], active, context / active))
        s.op_steps[d] += 1
        for b in range(s.op_batch[d]):
            i = s.op_request[d, b]
            if s.op_finish_ns[d, b] < 0:
                s.op_tokens[d, b] += 1
                if s.generated[i] + s.op_tokens[d, b] >= r.decode_tokens[i]:
                    s.op_finish_ns[d, b] = clock
    return int(clock)


@jit
def fill_times(t: Tables, s: State, r: Requests, d: int) -> None:
    """Predicts device d's new operation: its end and, for a quantum, its requests' tokens and times."""
    kind = s.op_kind[d]
    if kind == RUN:
        s.op_end_ns[d] = fill_steps(t, s, r, d, fill_joins(t, s, r, d))
    if kind == LOAD or kind == EVICT:
        s.op_end_ns[d] = s.op_start_ns[d] + eviction_ns(t, s, r, d)
    if kind == LOAD:
        s.op_end_ns[d] += to_ns(t.load_s[d, s.op_model[d], s.op_level[d]])
