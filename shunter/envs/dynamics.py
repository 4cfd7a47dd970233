"""What happens: the rules of scheduling, shared by the simulator and the real executor.

``admit``, ``apply`` and ``complete`` know nothing of durations. Between ``apply`` and ``complete`` an
operation's times and tokens are filled in, by ``shunter.envs.durations`` in simulation and from the engine's
own clock in reality. ``shunter.envs.candidates`` says what may be applied.
"""

from __future__ import annotations

from shunter.envs.candidates import claimable, short_bytes
from shunter.envs.compiled import jit
from shunter.envs.state import (
    DECISIONS,
    EVICT,
    EVICTIONS,
    IDLE,
    KV_DROPPED,
    KV_LIVE,
    KV_NONE,
    KV_SAVED,
    KV_SAVING,
    LOAD,
    LOADING_NS,
    PREEMPTIONS,
    RECOMPUTED_TOKENS,
    RUN,
    RUNNING_NS,
    SWAPS,
    WAIT,
    Ints,
    Requests,
    State,
    Tables,
)

__all__ = ["admit", "apply", "complete", "next_idle", "wake_waiting"]

RATE_MEMORY = 0.8
"""Weight of the past in the estimate of a model's gap between arrivals."""


@jit
def advance_clock(s: State, now_ns: int) -> None:
    """Moves the clock and accrues the cost of everyone in the system."""
    s.cost_ns[0] += s.in_system[0] * (now_ns - s.now_ns[0])
    s.now_ns[0] = now_ns


@jit
def admit(s: State, r: Requests, now_ns: int) -> int:
    """Admits every request that arrived by now, moves the clock to now, and returns how many there were."""
    admitted = 0
    while s.arrived[0] < r.arrival_ns.shape[0] and r.arrival_ns[s.arrived[0]] <= now_ns:
        i = s.arrived[0]
        advance_clock(s, r.arrival_ns[i])
        m = r.model[i]
        s.queue[m, s.queue_length[m]] = i
        s.queue_length[m] += 1
        s.in_system[0] += 1
        s.arrived[0] += 1
        if s.last_arrival_ns[m] >= 0:
            gap_s = max(1e-9, (r.arrival_ns[i] - s.last_arrival_ns[m]) * 1e-9)
            old_s = 1.0 / s.rate_per_s[m] if s.rate_per_s[m] > 0.0 else gap_s
            s.rate_per_s[m] = 1.0 / (RATE_MEMORY * old_s + (1.0 - RATE_MEMORY) * gap_s)
        s.last_arrival_ns[m] = r.arrival_ns[i]
        admitted += 1
    advance_clock(s, now_ns)
    return admitted


@jit
def evict(t: Tables, s: State, d: int, m: int) -> None:
    """Marks a resident for unloading by the device's next operation; its requests' KV is saved or dropped."""
    s.evicting[d, m] = s.resident[d, m]
    s.resident[d, m] = -1
    s.counts[EVICTIONS] += 1
    for k in range(s.queue_length[m]):
        i = s.queue[m, k]
        if s.home[i] == d and s.kv[i] == KV_LIVE:
            s.kv[i] = KV_SAVING if t.kv_can_save[d] else KV_DROPPED
            if not t.kv_can_save[d]:
                s.home[i] = -1


@jit
def count_preemptions(s: State, d: int, m: int) -> None:
    """Counts the started, unfinished requests that device d leaves by turning from its last model to m."""
    last = s.last_model[d]
    s.last_model[d] = m
    if last < 0 or last == m:
        return
    for k in range(s.queue_length[last]):
        i = s.queue[last, k]
        if s.kv[i] == KV_LIVE and s.home[i] == d:
            s.preemptions[i] += 1
            s.counts[PREEMPTIONS] += 1


@jit
def fill_batch(t: Tables, s: State, d: int, m: int, batch: Ints) -> int:
    """Chooses the requests of a quantum into batch (B,): those with live KV, then others by arrival."""
    count = 0
    limit = min(t.max_batch[0], batch.shape[0])
    for live in (True, False):
        for k in range(s.queue_length[m]):
            i = s.queue[m, k]
            if count < limit and claimable(s.owner[i], s.home[i], d) and (s.kv[i] == KV_LIVE) == live:
                batch[count] = i
                count += 1
    return count


@jit
def start_operation(s: State, d: int, kind: int, m: int, level: int, start_ns: int) -> None:
    """Writes an operation without times or requests."""
    s.op_kind[d] = kind
    s.op_model[d] = m
    s.op_level[d] = level
    s.op_start_ns[d] = start_ns
    s.op_end_ns[d] = start_ns
    s.op_batch[d] = 0
    s.op_steps[d] = 0


@jit
def begin_load(t: Tables, s: State, d: int, m: int, level: int) -> bool:
    """Starts a load if there is room; otherwise leaves it pending and returns False."""
    if short_bytes(t, s, d, m, level) > 0.0:
        s.pending[d, 0] = m
        s.pending[d, 1] = level
        return False
    s.pending[d, :] = -1
    s.counts[SWAPS] += 1
    start_operation(s, d, LOAD, m, level, s.now_ns[0] + t.decision_ns[0])
    return True


@jit
def begin_run(t: Tables, s: State, d: int, m: int) -> None:
    """Starts a quantum and claims its requests."""
    start_operation(s, d, RUN, m, s.resident[d, m], s.now_ns[0] + t.decision_ns[0])
    s.op_batch[d] = fill_batch(t, s, d, m, s.op_request[d])
    for b in range(s.op_batch[d]):
        s.owner[s.op_request[d, b]] = d
        s.op_tokens[d, b] = 0
        s.op_first_ns[d, b] = -1
        s.op_finish_ns[d, b] = -1


@jit
def apply(t: Tables, s: State, d: int, action: int) -> bool:
    """Carries out a legal action of device d.

    Returns:
        True if the device now has an operation; False if it must be asked again (room to be made).
    """
    models, levels = t.level_ok.shape[1], t.level_ok.shape[2]
    s.counts[DECISIONS] += 1
    if action == models * levels + models:
        start_operation(s, d, WAIT, -1, -1, s.now_ns[0])
        s.op_end_ns[d] = s.now_ns[0] + t.max_wait_ns[0]
        return True
    if action >= models * levels:
        m = action - models * levels
        if s.pending[d, 0] < 0:
            count_preemptions(s, d, -1)
            start_operation(s, d, EVICT, m, s.resident[d, m], s.now_ns[0] + t.decision_ns[0])
            evict(t, s, d, m)
            return True
        evict(t, s, d, m)
        return begin_load(t, s, d, s.pending[d, 0], s.pending[d, 1])
    m, level = action // levels, action % levels
    count_preemptions(s, d, m)
    if s.resident[d, m] == level:
        begin_run(t, s, d, m)
        return True
    if s.resident[d, m] >= 0:
        evict(t, s, d, m)
    return begin_load(t, s, d, m, level)


@jit
def leave(s: State, m: int) -> None:
    """Removes finished requests from a model's queue."""
    kept = 0
    for k in range(s.queue_length[m]):
        i = s.queue[m, k]
        if s.finish_ns[i] < 0:
            s.queue[m, kept] = i
            kept += 1
    s.queue_length[m] = kept


@jit
def complete_run(s: State, r: Requests, d: int) -> None:
    """Commits a quantum's tokens; finished requests leave at the time they finished."""
    for b in range(s.op_batch[d]):
        i = s.op_request[d, b]
        if s.kv[i] == KV_DROPPED:
            s.counts[RECOMPUTED_TOKENS] += r.prompt_tokens[i] + s.generated[i]
        s.owner[i] = -1
        s.home[i] = d
        s.kv[i] = KV_LIVE
        s.generated[i] += s.op_tokens[d, b]
        if s.first_token_ns[i] < 0:
            s.first_token_ns[i] = s.op_first_ns[d, b]
        if s.op_finish_ns[d, b] >= 0:
            s.finish_ns[i] = s.op_finish_ns[d, b]
            s.kv[i] = KV_NONE
            s.home[i] = -1
            s.in_system[0] -= 1
            s.cost_ns[0] -= s.now_ns[0] - s.op_finish_ns[d, b]
    leave(s, s.op_model[d])
    s.counts[RUNNING_NS] += s.op_end_ns[d] - s.op_start_ns[d]


@jit
def complete(s: State, r: Requests, d: int) -> None:
    """Commits device d's operation, whose times are filled in; the clock stands at its end."""
    kind, m = s.op_kind[d], s.op_model[d]
    s.op_kind[d] = IDLE
    if kind == RUN:
        complete_run(s, r, d)
        s.last_used_ns[d, m] = s.op_end_ns[d]
    if kind == LOAD or kind == EVICT:
        s.counts[LOADING_NS] += s.op_end_ns[d] - s.op_start_ns[d]
        for k in range(s.evicting.shape[1]):
            if s.evicting[d, k] >= 0:
                s.evicting[d, k] = -1
                for j in range(s.queue_length[k]):
                    i = s.queue[k, j]
                    if s.home[i] == d and s.kv[i] == KV_SAVING:
                        s.kv[i] = KV_SAVED
    if kind == LOAD:
        s.resident[d, m] = s.op_level[d]
        s.last_used_ns[d, m] = s.op_end_ns[d]


@jit
def wake_waiting(s: State) -> None:
    """Ends every wait: something happened."""
    for d in range(s.op_kind.shape[0]):
        if s.op_kind[d] == WAIT:
            s.op_kind[d] = IDLE


@jit
def next_idle(s: State) -> int:
    """The idle device of lowest index, or -1."""
    for d in range(s.op_kind.shape[0]):
        if s.op_kind[d] == IDLE:
            return d
    return -1
