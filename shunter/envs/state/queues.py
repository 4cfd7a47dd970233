"""Requests in the system: from the ring into slots, linked in order of arrival, and gone when served.

In an open loop requests arrive when the ring says. In a closed one a user sends the ring's next request so
long after the answer to the last one; who gets the answer within a quantum and sends before its end is heard
when it ends.
"""

from __future__ import annotations

from shunter.envs.rules.objectives import miss, miss_late, start_accruing, stop_accruing
from shunter.envs.sim.compiled import entry, inlined, internal
from shunter.envs.state.records import FAR_NS
from shunter.envs.state.state import KV_NONE, State
from shunter.envs.state.tables import SLO, Tables

__all__ = ["finished", "next_arrival_ns", "overdue"]

RATE_MEMORY = 0.8
"""Weight of the past in the estimate of a model's gap between arrivals."""


@inlined
def advance_clock(s: State, now_ns: int) -> None:
    """Moves the clock and accrues the cost of everyone in the system."""
    c = s.clock[0]
    passed_ns = now_ns - c.now_ns
    c.cost_ns += c.in_system * passed_ns
    c.cost += c.cost_per_s * (passed_ns * 1e-9)
    c.now_ns = now_ns


@entry
def finished(s: State) -> bool:
    """Whether every request of the episode has arrived and left."""
    c = s.clock[0]
    return bool(c.taken == c.last and c.in_system == 0)


@inlined
def due(s: State, now_ns: int) -> bool:
    """Whether the episode's next request has arrived by now, or may have for all that the ring says."""
    c = s.clock[0]
    if c.taken == c.last:
        return False
    if s.user.shape[0] > 0:
        return bool(c.send_ns <= now_ns)
    return bool(c.taken == c.filled or s.ring[c.taken % s.ring.shape[0]].arrival_ns <= now_ns)


@entry
def overdue(s: State) -> bool:
    """Whether a request has arrived, without an event of its own, that is yet to be admitted.

    That happens as an episode begins, and in a closed loop when a quantum ends.
    """
    c = s.clock[0]
    return bool((s.user.shape[0] > 0 or c.now_ns == 0) and due(s, c.now_ns))


@entry
def next_arrival_ns(s: State) -> int:
    """When the episode's next request arrives, as far as is known; FAR_NS if none does."""
    c = s.clock[0]
    if c.taken == c.last:
        return FAR_NS
    if s.user.shape[0] > 0:
        return int(c.send_ns)
    return int(s.ring[c.taken % s.ring.shape[0]].arrival_ns)


@internal
def find_sender(s: State) -> None:
    """Finds the user who sends next."""
    c = s.clock[0]
    c.sender, c.send_ns = -1, FAR_NS
    for u in range(s.user.shape[0]):
        if s.user[u].send_ns < c.send_ns:
            c.sender, c.send_ns = u, s.user[u].send_ns


@internal
def send_first(s: State) -> None:
    """How an episode begins: every user is about to send a first request."""
    for u in range(s.user.shape[0]):
        s.user[u].send_ns = s.user[u].first_ns
    find_sender(s)


@internal
def send(s: State, pause_ns: int) -> None:
    """The next user sends the ring's next request, and will pause so long after its answer."""
    c = s.clock[0]
    s.slot[c.free].user = c.sender
    s.slot[c.free].pause_ns = pause_ns
    s.ring[c.taken % s.ring.shape[0]].arrival_ns = c.send_ns
    s.user[c.sender].send_ns = FAR_NS
    find_sender(s)


@internal
def schedule_next_send(s: State, i: int, finish_ns: int) -> None:
    """The user who sent the request in slot i has the answer, and will send the next after a pause."""
    c, r = s.clock[0], s.slot[i]
    s.user[r.user].send_ns = finish_ns + r.pause_ns
    if s.user[r.user].send_ns < c.send_ns:
        c.sender, c.send_ns = r.user, s.user[r.user].send_ns


@internal
def touch(s: State, m: int) -> None:
    """Marks what devices know of a model's requests as out of date."""
    for d in range(s.place.shape[0]):
        s.place[d, m].stale = 1
        s.place[d, m].changed = 1


@inlined
def estimate_rate(s: State, m: int, arrival_ns: int) -> None:
    """Updates a model's arrival rate by the gap since its last arrival."""
    model = s.model[m]
    if model.last_arrival_ns >= 0:
        gap_s = max(1e-9, (arrival_ns - model.last_arrival_ns) * 1e-9)
        old_s = 1.0 / model.rate_per_s if model.rate_per_s > 0.0 else gap_s
        model.rate_per_s = 1.0 / (RATE_MEMORY * old_s + (1.0 - RATE_MEMORY) * gap_s)
    model.last_arrival_ns = arrival_ns


@inlined
def enqueue(t: Tables, s: State) -> None:
    """Moves the clock to the arrival of the ring's next request and puts it into a free slot."""
    c = s.clock[0]
    new = s.ring[c.taken % s.ring.shape[0]]
    if s.user.shape[0] > 0:
        send(s, new.arrival_ns)
    advance_clock(s, max(c.now_ns, new.arrival_ns))
    c.cost_ns += c.now_ns - new.arrival_ns
    i, m = c.free, new.model
    r, model = s.slot[i], s.model[m]
    c.free = r.next
    r.id = c.arrived
    r.model = m
    r.arrival_ns = new.arrival_ns
    r.progress_ns = new.arrival_ns
    r.prompt_tokens = new.prompt_tokens
    r.decode_tokens = new.decode_tokens
    r.generated = 0
    r.kv = KV_NONE
    r.home = -1
    r.owner = -1
    r.first_token_ns = -1
    r.preemptions = 0
    r.next = -1
    r.previous = model.tail
    if model.tail >= 0:
        s.slot[model.tail].next = i
    else:
        model.head = i
    model.tail = i
    model.queue_length += 1
    model.unassigned += 1
    c.in_system += 1
    c.arrived += 1
    c.taken += 1
    estimate_rate(s, m, c.now_ns)
    start_accruing(t, s, i)
    for d in range(s.place.shape[0]):
        s.place[d, m].changed = 1
        # Who joins behind a full batch changes nothing of what it would take.
        if s.place[d, m].batch < s.entry.shape[1]:
            s.place[d, m].stale = 1


@entry
def admit(t: Tables, s: State, now_ns: int) -> int:
    """Admits every request that arrived by now, moves the clock to now, and returns how many there were.

    Stops early, the next one still ``due``, when the ring is empty or no slot is free.
    """
    c = s.clock[0]
    admitted = 0
    while c.free >= 0 and c.taken < c.filled and due(s, now_ns):
        enqueue(t, s)
        admitted += 1
    advance_clock(s, now_ns)
    if c.objective == SLO:
        miss_late(s)
    return admitted


@inlined
def unlink(s: State, i: int) -> None:
    """Takes the request in slot i out of its model's queue and the system."""
    c, r = s.clock[0], s.slot[i]
    model = s.model[r.model]
    if r.previous >= 0:
        s.slot[r.previous].next = r.next
    else:
        model.head = r.next
    if r.next >= 0:
        s.slot[r.next].previous = r.previous
    else:
        model.tail = r.previous
    model.queue_length -= 1
    c.in_system -= 1


@inlined
def close(s: State, i: int, left_ns: int, finish_ns: int) -> None:
    """Settles what a request that left at left_ns costs, tells its user, and frees its slot.

    finish_ns is -1 if it was not served.
    """
    c, r = s.clock[0], s.slot[i]
    stop_accruing(s, i, left_ns)
    if s.user.shape[0] > 0:
        schedule_next_send(s, i, left_ns)
    if r.id < s.outcome.shape[0]:
        kept = s.outcome[r.id]
        kept.first_token_ns = r.first_token_ns
        kept.finish_ns = finish_ns
        kept.preemptions = r.preemptions
    r.next = c.free
    c.free = i


@inlined
def leave(s: State, i: int, finish_ns: int) -> None:
    """Takes a request that finished out of its queue and the system; its slot is free again."""
    c, r = s.clock[0], s.slot[i]
    unlink(s, i)
    if s.done.shape[0] > 0:
        kept = s.done[c.served % s.done.shape[0]]
        kept.arrival_ns = r.arrival_ns
        kept.first_token_ns = r.first_token_ns
        kept.finish_ns = finish_ns
        kept.model = r.model
        kept.prompt_tokens = r.prompt_tokens
        kept.decode_tokens = r.decode_tokens
        kept.preemptions = r.preemptions
    c.cost_ns -= c.now_ns - finish_ns
    c.served += 1
    c.response_ns += finish_ns - r.arrival_ns
    close(s, i, finish_ns, finish_ns)


@internal
def give_up(s: State, i: int) -> None:
    """Takes a request that nobody runs out of the system, unserved: it has missed any SLO."""
    c, r = s.clock[0], s.slot[i]
    if r.home >= 0:
        s.place[r.home, r.model].held -= 1
    else:
        s.model[r.model].unassigned -= 1
        s.model[r.model].unassigned_started -= 1 if r.generated > 0 else 0
    if c.objective == SLO and r.missed == 0:
        miss(s, i)
    unlink(s, i)
    close(s, i, c.now_ns, -1)
