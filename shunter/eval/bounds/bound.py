"""A lower bound of what any policy must still pay from a state, all arrivals and lengths known.

Requests are put into groups of at most g of each model. No schedule can have a smaller sum of completion
times over a group than either of two relaxations, so their larger one is summed over groups, and the best g
counts.

1. **Everyone alone.** A request ends no earlier than if its model were loaded for it first, on the best
   device, and it then ran at the fastest step of any level and batch.
2. **One machine.** In a step of a batch with k ≤ g requests of the group, each of these gets a token, and it
   takes at least σ(k), the least step of a batch of k or more: charge each of them σ(k)/k ≥ σ* = min σ(k)/k
   over k ≤ g. A prefill is charged to its request whole. A device does nothing else meanwhile, so D devices
   do at most D seconds of charged work a second, and request i of the group needs p_i = prefill + (tokens −
   1) σ* of it. A single machine of speed D that works on each request when the devices do, at the rate
   charged, finishes each no later than they do. Among preemptive schedules of one machine, shortest
   remaining processing time first has the least sum of completion times, whatever the release times.

Small groups see that models exclude each other on a device, where a whole queue of one model might share its
steps; large ones see that queues are long.

Both use that nothing of a model runs before some device has it: a request's release is at least the time
when a device that holds the model is free, or when one could have loaded it. Of models that nobody holds,
the k-th to be loaded is not ready before D devices could have carried out k loads; the bound takes the order
of loads that is best for the schedule (up to ``MAX_ORDERED`` models; beyond that each is taken to be loaded
first).

Source:
    Schrage 1968, "A proof of the optimality of the shortest remaining processing time discipline", Operations
    Research 16.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shunter.envs.rules.durations import interpolate
from shunter.envs.sim.compiled import internal, jit
from shunter.envs.state.state import KV_DROPPED, KV_NONE, LOAD, RUN, Floats, State
from shunter.envs.state.tables import Tables
from shunter.eval.bounds.least import GROUPS, BoundMemory, Least

MAX_ORDERED = 4
"""Models whose order of loading is looked at."""

ROUNDING = 1e-6
"""Durations are rounded to nanoseconds: of a step of 1 ms at most half a millionth."""


@internal
def find_ready(s: State, least: Least, b: BoundMemory) -> None:
    """When each model may run next; for models that no device holds or loads, what loading takes."""
    now_ns = s.clock[0].now_ns
    for m in range(s.model.shape[0]):
        b.soonest_s[m] = np.inf
        b.load_s[m] = np.inf
        for d in range(s.device.shape[0]):
            device = s.device[d]
            free_s = max(0.0, (device.op_end_ns - now_ns) * 1e-9) if device.op_kind >= RUN else 0.0
            held = s.place[d, m].resident >= 0 or (device.op_kind == LOAD and device.op_model == m)
            load_s = 0.0 if held else least.load_s[d, m]
            b.soonest_s[m] = min(b.soonest_s[m], free_s + load_s)
            b.load_s[m] = min(b.load_s[m], load_s)
        b.ready_s[m] = b.soonest_s[m]


@internal
def add_request(
    t: Tables, least: Least, b: BoundMemory, n: int, m: int, release_s: float, kv: int, held: int, left: int
) -> None:
    """Writes what request n of model m lacks: ``left`` tokens, and a prefill of ``held`` unless it has KV."""
    prefill_s, steps = 0.0, left
    if kv in (KV_NONE, KV_DROPPED):
        prefill_s = interpolate(float(held), t.prefill_tokens, least.prefill_s[m])
        steps = left - 1
    b.release_s[n] = release_s
    b.model[n] = m
    b.prefill_s[n] = prefill_s
    b.steps[n] = steps
    b.rank[n] = b.listed[m]
    b.listed[m] += 1
    b.alone_s[n] = prefill_s + steps * least.step_s[m]


@internal
def list_requests(t: Tables, s: State, least: Least, b: BoundMemory) -> tuple[int, float, float]:
    """Lists who is not sure to finish in an operation under way.

    Returns:
        How many; the others' seconds from now; and when those to come arrive, from now, summed.
    """
    now_ns, n, sure_s, arrivals_s = s.clock[0].now_ns, 0, 0.0, 0.0
    b.listed[:] = 0
    for d in range(s.device.shape[0]):
        device = s.device[d]
        if device.op_kind != RUN:
            continue
        for e in range(device.op_batch):
            entry = s.entry[d, e]
            r = s.slot[entry.slot]
            if entry.finish_ns >= 0:
                sure_s += (entry.finish_ns - now_ns) * 1e-9
                continue
            left = r.decode_tokens - r.generated - entry.tokens
            end_s = (device.op_end_ns - now_ns) * 1e-9
            add_request(t, least, b, n, device.op_model, end_s, -1, 0, left)
            n += 1
    for m in range(s.model.shape[0]):
        i = s.model[m].head
        while i >= 0:
            r = s.slot[i]
            if r.owner < 0:
                held = r.prompt_tokens + r.generated
                add_request(t, least, b, n, m, 0.0, r.kv, held, r.decode_tokens - r.generated)
                n += 1
            i = r.next
    c = s.clock[0]
    for k in range(c.taken, c.last):
        new = s.ring[k % s.ring.shape[0]]
        release_s = (new.arrival_ns - now_ns) * 1e-9
        add_request(t, least, b, n, new.model, release_s, KV_NONE, new.prompt_tokens, new.decode_tokens)
        arrivals_s += release_s
        n += 1
    return n, sure_s, arrivals_s


@internal
def shortest_first_s(b: BoundMemory, token_s: Floats, n: int, size: int, group: int, speed: float) -> float:
    """Sum of completion times of a group on one preemptive machine: shortest remaining time first."""
    clock, total, left = 0.0, 0.0, 0
    for i in range(n):
        b.left_s[i] = -1.0
        if b.rank[i] // size == group:
            b.left_s[i] = (b.prefill_s[i] + b.steps[i] * token_s[b.model[i]]) / speed
            left += 1
    while left > 0:
        best, arrives = -1, np.inf
        for i in range(n):
            if b.left_s[i] < 0.0:
                continue
            release = max(b.release_s[i], b.ready_s[b.model[i]])
            if release <= clock:
                if best < 0 or b.left_s[i] < b.left_s[best]:
                    best = i
            elif release < arrives:
                arrives = release
        if best < 0:
            clock = arrives
        elif clock + b.left_s[best] <= arrives:
            clock += b.left_s[best]
            b.left_s[best] = -1.0
            total += clock
            left -= 1
        else:
            b.left_s[best] -= arrives - clock
            clock = arrives
    return total


@internal
def alone_sum_s(b: BoundMemory, n: int, size: int, group: int) -> float:
    """Sum of completion times of a group if everyone had all devices for itself."""
    total = 0.0
    for i in range(n):
        if b.rank[i] // size == group:
            total += max(b.release_s[i], b.ready_s[b.model[i]]) + b.alone_s[i]
    return total


@internal
def next_order(order: NDArray[np.int64], k: int) -> bool:
    """The next permutation of the first k entries in lexical order; False after the last one."""
    i = k - 2
    while i >= 0 and order[i] > order[i + 1]:
        i -= 1
    if i < 0:
        return False
    j = k - 1
    while order[j] < order[i]:
        j -= 1
    order[i], order[j] = order[j], order[i]
    i, j = i + 1, k - 1
    while i < j:
        order[i], order[j] = order[j], order[i]
        i, j = i + 1, j - 1
    return True


@internal
def missing_models(b: BoundMemory, n: int) -> int:
    """Lists in ``order``, ascending, the models that somebody waits for and nobody holds; how many."""
    count = 0
    for m in range(b.load_s.shape[0]):
        asked = False
        for i in range(n):
            asked = asked or b.model[i] == m
        if asked and b.load_s[m] > 0.0:
            b.order[count] = m
            count += 1
    return count


@internal
def schedule_s(b: BoundMemory, least: Least, n: int, devices: float) -> float:
    """Sum of completion times, from now: the strictest of all relaxations."""
    most, longest = 0, 0.0
    for m in range(b.listed.shape[0]):
        most = max(most, b.listed[m])
    for g in range(least.token_s.shape[0]):
        size, total = GROUPS[g], 0.0
        for group in range((most + size - 1) // size):
            machine_s = shortest_first_s(b, least.token_s[g], n, size, group, devices)
            total += max(machine_s, alone_sum_s(b, n, size, group))
        longest = max(longest, total)
        if size >= most:
            break
    return longest


@internal
def best_order_s(s: State, least: Least, b: BoundMemory, n: int, missing: int) -> float:
    """The same under the order of missing loads that makes it least."""
    devices, now_ns, free_s = s.device.shape[0], s.clock[0].now_ns, np.inf
    for d in range(devices):
        device = s.device[d]
        busy_s = (device.op_end_ns - now_ns) * 1e-9 if device.op_kind >= RUN else 0.0
        free_s = min(free_s, max(0.0, busy_s))
    least_s, more = np.inf, True
    while more:
        loads_s = 0.0
        for k in range(missing):
            m = b.order[k]
            loads_s += b.load_s[m]
            b.ready_s[m] = max(b.soonest_s[m], free_s + loads_s / devices)
        least_s = min(least_s, schedule_s(b, least, n, devices))
        more = next_order(b.order, missing)
    return least_s


@jit
def remaining_cost_s(t: Tables, s: State, least: Least, b: BoundMemory) -> float:
    """A lower bound of the request-seconds that any decisions still cost from now on.

    Args:
        t: Tables.
        s: State at a decision; all requests to come are in its ring.
        least: Least durations of these tables, from ``least_times``.
        b: Overwritten.
    """
    find_ready(s, least, b)
    n, sure_s, arrivals_s = list_requests(t, s, least, b)
    missing = missing_models(b, n)
    if missing < 2 or missing > MAX_ORDERED:
        least_s = schedule_s(b, least, n, s.device.shape[0])
    else:
        least_s = best_order_s(s, least, b, n, missing)
    return (least_s - arrivals_s) * (1.0 - ROUNDING) + sure_s
