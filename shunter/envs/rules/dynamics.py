"""What happens: the rules of scheduling, shared by the simulator and the real executor.

``admit``, ``apply`` and ``complete`` know nothing of durations. Between ``apply`` and ``complete`` an
operation's times and tokens are filled in, by ``durations`` in simulation and from the engine's own clock in
reality. ``candidates`` says what may be applied, ``shunter.envs.state.queues`` keeps the requests.
"""

from __future__ import annotations

from shunter.envs.rules.asleep import end_sleeper, fall_asleep
from shunter.envs.rules.candidates import anything_fits, short_bytes, used_bytes
from shunter.envs.rules.claims import claimable, claimable_count
from shunter.envs.rules.guard import renew_promotion
from shunter.envs.rules.host_cache import fetch_weights, fill_cache
from shunter.envs.rules.objectives import begin_busy, end_busy, judge_quantum, open_accounts
from shunter.envs.sim.compiled import entry, inlined, internal, jit
from shunter.envs.state.queues import admit, leave, send_first, touch
from shunter.envs.state.state import (
    EVICT,
    IDLE,
    KV_DROPPED,
    KV_LIVE,
    KV_SAVED,
    KV_SAVING,
    LOAD,
    RUN,
    WAIT,
    State,
)
from shunter.envs.state.tables import SLO, Tables

__all__ = ["admit", "apply", "complete", "next_idle", "open_episode", "wake_waiting"]


@jit
def open_episode(t: Tables, s: State) -> None:
    """What an empty state lacks before its episode begins."""
    fill_cache(t, s)
    place_first(t, s)
    open_accounts(t, s)
    send_first(s)


@internal
def place_first(t: Tables, s: State) -> None:
    """Models that are to be there from the start are; nobody is charged for their loads."""
    for m in range(s.model.shape[0]):
        d = t.model[m].start_device
        if d >= 0:
            s.place[d, m].resident = t.model[m].start_level
            s.place[d, m].changed = 1


@internal
def evict(t: Tables, s: State, d: int, m: int, sleeps: bool) -> None:
    """Marks a resident for unloading by the device's next operation; its requests' KV is saved or dropped.

    Where engines can sleep, and it is meant to, it falls asleep instead; what sleeps already is ended.
    """
    place = s.place[d, m]
    s.counts[0].evictions += 1
    if place.resident < 0:
        end_sleeper(s, d, m)
        return
    place.evicting = place.resident
    place.resident = -1
    if sleeps and t.limits[0].sleep != 0:
        fall_asleep(t, s, d, m)
    if t.limits[0].drain != 0:  # they run to their end first, see ``serving``
        touch(s, m)
        return
    saves = t.level[d, m, place.evicting].kv_can_save != 0
    left, i = place.held, s.model[m].head
    while left > 0:
        r = s.slot[i]
        if r.home == d:
            left -= 1
            if r.kv == KV_LIVE:
                r.kv = KV_SAVING if saves else KV_DROPPED
                if not saves:
                    r.home = -1
                    place.held -= 1
                    s.model[m].unassigned += 1
                    s.model[m].unassigned_started += 1
        i = r.next
    touch(s, m)


@internal
def count_preemptions(t: Tables, s: State, d: int, m: int) -> None:
    """Counts the started, unfinished requests that device d leaves by turning from its last model to m."""
    last = s.device[d].last_model
    s.device[d].last_model = m
    if m >= 0:
        s.place[d, m].changed = 1
    if last < 0 or last == m:
        return
    s.place[d, last].changed = 1
    if t.limits[0].drain != 0:
        return
    left, i = s.place[d, last].held, s.model[last].head
    while left > 0:
        r = s.slot[i]
        if r.home == d:
            left -= 1
            if r.kv == KV_LIVE:
                r.preemptions += 1
                s.counts[0].preemptions += 1
        i = r.next


@inlined
def claim(s: State, d: int, i: int) -> None:
    """Adds the request in slot i to the quantum that device d begins."""
    r, device, model = s.slot[i], s.device[d], s.model[s.slot[i].model]
    if r.home == d:
        s.place[d, r.model].held -= 1
    else:
        model.unassigned -= 1
        model.unassigned_started -= 1 if r.generated > 0 else 0
    r.owner = d
    entry = s.entry[d, device.op_batch]
    entry.slot = i
    entry.tokens = 0
    entry.first_ns = -1
    entry.finish_ns = -1
    device.op_batch += 1


@inlined
def fill_batch(t: Tables, s: State, d: int, m: int) -> None:
    """Chooses the requests of a quantum: those with live KV, then others by arrival."""
    limit = min(t.model[m].max_batch, s.entry.shape[1])
    left, i = s.place[d, m].held, s.model[m].head
    while left > 0 and s.device[d].op_batch < limit:
        r = s.slot[i]
        if r.home == d and r.owner < 0:
            left -= 1
            if r.kv == KV_LIVE:
                claim(s, d, i)
        i = r.next
    left, i = claimable_count(s, d, m), s.model[m].head
    while left > 0 and s.device[d].op_batch < limit:
        if claimable(s, i, d):
            left -= 1
            claim(s, d, i)
        i = s.slot[i].next


@inlined
def start_operation(s: State, d: int, kind: int, m: int, level: int, start_ns: int) -> None:
    """Writes an operation without times or requests."""
    device = s.device[d]
    device.op_kind = kind
    device.op_model = m
    device.op_level = level
    device.op_start_ns = start_ns
    device.op_end_ns = start_ns
    device.op_batch = 0
    device.op_steps = 0
    if kind >= RUN:
        begin_busy(s, d)


@internal
def begin_load(t: Tables, s: State, d: int, m: int, level: int) -> bool:
    """Starts a load if there is room; otherwise leaves it pending and returns False."""
    if short_bytes(t, s, d, m, level, used_bytes(t, s, d)) > 0.0:
        s.device[d].pending_model = m
        s.device[d].pending_level = level
        return False
    s.device[d].pending_model = -1
    s.device[d].pending_level = -1
    s.counts[0].swaps += 1
    start_operation(s, d, LOAD, m, level, s.clock[0].now_ns + t.limits[0].decision_ns)
    wakes = s.place[d, m].asleep == level
    s.device[d].op_wakes = 1 if wakes else 0
    if wakes:
        s.place[d, m].asleep = -1
        s.place[d, m].changed = 1
    if wakes and t.limits[0].sleep == 1:  # its weights are in the host's memory
        s.device[d].op_cold = 0
    else:
        s.device[d].op_cold = fetch_weights(t, s, m)
    return True


@inlined
def begin_run(t: Tables, s: State, d: int, m: int) -> None:
    """Starts a quantum and claims its requests."""
    start_operation(s, d, RUN, m, s.place[d, m].resident, s.clock[0].now_ns + t.limits[0].decision_ns)
    fill_batch(t, s, d, m)
    touch(s, m)


@entry
def apply(t: Tables, s: State, d: int, action: int) -> bool:
    """Carries out a legal action of device d.

    Returns:
        True if the device now has an operation; False if it must be asked again: room is to be made, or,
        where servers drain, it keeps its residents and something else fits beside them.
    """
    models, levels = t.level.shape[1], t.level.shape[2]
    device, now_ns = s.device[d], s.clock[0].now_ns
    s.counts[0].decisions += 1
    renew_promotion(t, s, d)
    is_kept, device.kept = device.kept, 0
    if action == models * levels + models:
        start_operation(s, d, WAIT, -1, -1, now_ns)
        device.op_end_ns = now_ns + t.limits[0].max_wait_ns
        return True
    if action >= models * levels:
        m = action - models * levels
        if device.pending_model < 0:
            count_preemptions(t, s, d, -1)
            level = max(s.place[d, m].resident, s.place[d, m].asleep)
            start_operation(s, d, EVICT, m, level, now_ns + t.limits[0].decision_ns)
            evict(t, s, d, m, True)
            return True
        evict(t, s, d, m, True)
        return begin_load(t, s, d, device.pending_model, device.pending_level)
    m, level = action // levels, action % levels
    count_preemptions(t, s, d, m)
    if s.place[d, m].resident == level and t.limits[0].drain != 0:
        if is_kept == 0 and anything_fits(t, s, d):
            device.kept = 1
            return False
        start_operation(s, d, WAIT, -1, -1, now_ns)
        device.op_end_ns = now_ns + t.limits[0].max_wait_ns
        return True
    if s.place[d, m].resident == level:
        begin_run(t, s, d, m)
        return True
    if s.place[d, m].resident >= 0 or (s.place[d, m].asleep >= 0 and s.place[d, m].asleep != level):
        evict(t, s, d, m, False)
    return begin_load(t, s, d, m, level)


@inlined
def commit_batch(s: State, d: int, end_ns: int) -> None:
    """Commits the tokens of device d's batch until end_ns; the finished leave at the time they finished."""
    for b in range(s.device[d].op_batch):
        entry = s.entry[d, b]
        r = s.slot[entry.slot]
        if r.kv == KV_DROPPED:
            s.counts[0].recomputed_tokens += r.prompt_tokens + r.generated
        if r.first_token_ns < 0:
            r.first_token_ns = entry.first_ns
        r.owner = -1
        r.home = d
        r.kv = KV_LIVE
        r.generated += entry.tokens
        if entry.tokens > 0:
            r.progress_ns = end_ns
        if s.clock[0].objective == SLO:
            judge_quantum(s, entry.slot, entry.finish_ns)
        if entry.finish_ns >= 0:
            leave(s, entry.slot, entry.finish_ns)
        else:
            s.place[d, r.model].held += 1


@inlined
def complete_run(s: State, d: int) -> None:
    """Commits a quantum."""
    device = s.device[d]
    commit_batch(s, d, device.op_end_ns)
    s.counts[0].running_ns += device.op_end_ns - device.op_start_ns
    touch(s, device.op_model)


@internal
def finish_evictions(s: State, d: int) -> None:
    """The device's operation is over: what it was evicting is gone, and the KV of its requests saved."""
    for m in range(s.model.shape[0]):
        if s.place[d, m].evicting < 0:
            continue
        s.place[d, m].evicting = -1
        left, i = s.place[d, m].held, s.model[m].head
        while left > 0:
            r = s.slot[i]
            if r.home == d:
                left -= 1
                if r.kv == KV_SAVING:
                    r.kv = KV_SAVED
            i = r.next


@entry
def complete(s: State, d: int) -> None:
    """Commits device d's operation, whose times are filled in; the clock stands at its end."""
    device = s.device[d]
    kind = device.op_kind
    device.op_kind = IDLE
    if kind >= RUN and device.serving_end_ns < 0:
        end_busy(s, d)
    if kind == RUN:
        complete_run(s, d)
    if kind == LOAD or kind == EVICT:
        s.counts[0].loading_ns += device.op_end_ns - device.op_start_ns
        finish_evictions(s, d)
    if kind == LOAD:
        s.place[d, device.op_model].resident = device.op_level
        s.place[d, device.op_model].changed = 1
    if kind == RUN or kind == LOAD:
        s.place[d, device.op_model].last_used_ns = device.op_end_ns


@entry
def wake_waiting(s: State) -> None:
    """Ends every wait: something happened."""
    for d in range(s.device.shape[0]):
        if s.device[d].op_kind == WAIT:
            s.device[d].op_kind = IDLE


@entry
def next_idle(s: State) -> int:
    """The idle device of lowest index, or -1; none is whose servers have not come to the end of a step."""
    for d in range(s.device.shape[0]):
        if s.device[d].op_kind == IDLE and s.device[d].serving_end_ns < 0:
            return d
    return -1
