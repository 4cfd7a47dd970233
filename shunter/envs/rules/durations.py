"""How long it takes, in simulation: fills an operation's times from the tables.

The rules within a quantum are those of ``Engine.decode``: a step starts only while fewer than ``quantum_s``
have passed since decoding began, at least one runs, and a request leaves the batch with its last token.
"""

from __future__ import annotations

import numpy as np

from shunter.envs.rules.asleep import leaving_s, loading_s
from shunter.envs.rules.drift import draw_pace
from shunter.envs.sim.compiled import entry, inlined, internal
from shunter.envs.state.state import EVICT, KV_DROPPED, KV_LIVE, KV_SAVED, KV_SAVING, LOAD, RUN, Floats, State
from shunter.envs.state.tables import Tables

__all__ = ["fill_times", "interpolate", "step_s"]

Z_90 = 1.6448536269514722
"""A standard normal lies within plus and minus this with probability 90 %."""


@inlined
def to_ns(seconds: float) -> int:
    """Seconds as whole nanoseconds."""
    return int(np.round(seconds * 1e9))


@inlined
def locate(x: float, grid: Floats) -> int:
    """The piece of an ascending grid that x is on, by its upper end; 0 below the grid."""
    if x <= grid[0] or grid.shape[0] == 1:
        return 0
    low, high = 1, grid.shape[0] - 1
    while low < high:
        middle = (low + high) // 2
        if grid[middle] < x:
            low = middle + 1
        else:
            high = middle
    return low


@inlined
def on_piece(x: float, k: int, grid: Floats, values: Floats) -> float:
    """The value at x on piece k of a grid."""
    below = max(0, k - 1)
    return float(values[below] + slope_on(k, grid, values) * (x - grid[below]))


@inlined
def slope_on(k: int, grid: Floats, values: Floats) -> float:
    """Slope of piece k of a grid; below the grid nothing changes."""
    if k == 0:
        return 0.0
    return float((values[k] - values[k - 1]) / (grid[k] - grid[k - 1]))


@entry
def interpolate(x: float, grid: Floats, values: Floats) -> float:
    """Piecewise linear in x; extrapolates along the last piece, is constant below the grid."""
    return float(on_piece(x, locate(x, grid), grid, values))


@entry
def step_s(t: Tables, d: int, m: int, level: int, batch: int, context_tokens: float) -> float:
    """Seconds of one decode step of a batch whose requests hold this many tokens on average."""
    return float(interpolate(context_tokens, t.context_tokens, t.step_s[d, m, level, batch - 1]))


@inlined
def join_s(t: Tables, d: int, m: int, level: int, kv: int, held_tokens: float) -> float:
    """Seconds until a request can decode on device d: nothing, restore, prefill or recompute.

    held_tokens are its prompt and generated tokens; the KV of the last one is not made yet.
    """
    if kv == KV_LIVE:
        return 0.0
    if kv == KV_SAVED or kv == KV_SAVING:
        return float(interpolate(held_tokens - 1.0, t.context_tokens, t.kv_restore_s[d, m, level]))
    return float(interpolate(held_tokens, t.prefill_tokens, t.prefill_s[d, m, level]))


@internal
def stretched(luck: float, halfwidth: float) -> float:
    """Factor by which this episode's durations differ from the predicted ones.

    Args:
        luck: Standard normal of the episode and model; 0: as predicted.
        halfwidth: Half width of the 90 % interval of the prediction, relative.

    Returns:
        Lognormal with median 1, above 1 + halfwidth with probability 5 %.
    """
    if luck == 0.0:
        return 1.0
    return float((1.0 + halfwidth) ** (luck / Z_90))


@internal
def eviction_ns(t: Tables, s: State, d: int) -> int:
    """Saving the KV of everything that device d is evicting, and unloading it or sending it to sleep."""
    total = 0
    for m in range(s.model.shape[0]):
        level = s.place[d, m].evicting
        if level < 0:
            continue
        left, i = s.place[d, m].held, s.model[m].head
        while left > 0:
            r = s.slot[i]
            if r.home == d:
                left -= 1
                if r.kv == KV_SAVING:
                    held = float(r.prompt_tokens + r.generated - 1)
                    total += to_ns(interpolate(held, t.context_tokens, t.kv_save_s[d, m, level]))
            i = r.next
        total += to_ns(leaving_s(t, s, d, m))
    return total


@inlined
def fill_joins(t: Tables, s: State, d: int) -> int:
    """Times of restores and prefills, one request after another; returns when the last one ends."""
    device = s.device[d]
    m, level, clock = device.op_model, device.op_level, device.op_start_ns
    factor = stretched(s.model[m].prefill_noise, t.level[d, m, level].prefill_halfwidth)
    factor *= 1.0 + device.slower
    for b in range(device.op_batch):
        entry = s.entry[d, b]
        r = s.slot[entry.slot]
        if r.kv == KV_LIVE:
            continue
        held = float(r.prompt_tokens + r.generated)
        clock += to_ns(factor * join_s(t, d, m, level, r.kv, held))
        if r.generated == 0 or r.kv == KV_DROPPED:
            entry.tokens = 1
            if r.generated == 0:
                entry.first_ns = clock
            if r.generated + 1 >= r.decode_tokens:
                entry.finish_ns = clock
    return int(clock)


@inlined
def active_batch(s: State, d: int) -> tuple[int, int, int]:
    """Requests of a quantum that are not finished, the tokens they hold, and the fewest that one lacks."""
    active, held, fewest = 0, 0, 1 << 62
    for b in range(s.device[d].op_batch):
        entry = s.entry[d, b]
        if entry.finish_ns < 0:
            r = s.slot[entry.slot]
            active += 1
            held += r.prompt_tokens + r.generated + entry.tokens
            fewest = min(fewest, r.decode_tokens - r.generated - entry.tokens)
    return active, held, fewest


@inlined
def fill_steps(t: Tables, s: State, d: int, clock: int) -> int:
    """Times of decode steps from clock on; returns the end.

    From one finish to the next the batch is the same and its mean context grows by one a step.
    """
    device, limits, grid = s.device[d], t.limits[0], t.context_tokens
    m, level, steps, begun = device.op_model, device.op_level, 0, clock
    factor = stretched(s.model[m].step_noise, t.level[d, m, level].step_halfwidth)
    factor *= 1.0 + device.slower
    while steps < limits.quantum_steps and (steps == 0 or clock - begun < limits.quantum_ns):
        active, held, fewest = active_batch(s, d)
        if active == 0:
            break
        values = t.step_s[d, m, level, active - 1]
        context, ran = held / active, 0
        piece = locate(context, grid)
        slope, last = slope_on(piece, grid, values), piece == grid.shape[0] - 1
        while True:
            below = max(0, piece - 1)
            clock += to_ns(factor * (values[below] + slope * (context - grid[below])))
            ran += 1
            steps += 1
            if ran == fewest or steps == limits.quantum_steps or clock - begun >= limits.quantum_ns:
                break
            context += 1.0
            if not last and grid[piece] < context:
                piece = locate(context, grid)
                slope, last = slope_on(piece, grid, values), piece == grid.shape[0] - 1
        for b in range(device.op_batch):
            entry = s.entry[d, b]
            if entry.finish_ns < 0:
                entry.tokens += ran
                r = s.slot[entry.slot]
                if r.generated + entry.tokens >= r.decode_tokens:
                    entry.finish_ns = clock
    device.op_steps = steps
    return int(clock)


@entry
def fill_times(t: Tables, s: State, d: int) -> None:
    """Predicts device d's new operation: its end and, for a quantum, its requests' tokens and times."""
    device = s.device[d]
    kind, m = device.op_kind, device.op_model
    draw_pace(t, s, d, device.op_start_ns)
    slower = 1.0 + device.slower
    if kind == RUN:
        device.op_end_ns = fill_steps(t, s, d, fill_joins(t, s, d))
    if kind == LOAD or kind == EVICT:
        device.op_end_ns = device.op_start_ns + int(np.round(slower * eviction_ns(t, s, d)))
    if kind == LOAD:
        level, halfwidth = device.op_level, t.level[d, m, device.op_level].load_halfwidth
        if device.op_wakes != 0:
            halfwidth = t.asleep[d, m, level].wake_halfwidth
        load_s = loading_s(t, d, m, level, device.op_cold, device.op_wakes)
        device.op_end_ns += to_ns(slower * stretched(s.model[m].load_noise, halfwidth) * load_s)
