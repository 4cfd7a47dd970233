"""Requests in the system: from the ring into slots, linked in order of arrival, and gone when served."""

from __future__ import annotations

from shunter.envs.compiled import entry, inlined, internal
from shunter.envs.state import KV_NONE, State

__all__ = ["advance_clock", "due", "enqueue", "finished", "leave", "touch"]

RATE_MEMORY = 0.8
"""Weight of the past in the estimate of a model's gap between arrivals."""


@inlined
def advance_clock(s: State, now_ns: int) -> None:
    """Moves the clock and accrues the cost of everyone in the system."""
    c = s.clock[0]
    c.cost_ns += c.in_system * (now_ns - c.now_ns)
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
    return bool(c.taken == c.filled or s.ring[c.taken % s.ring.shape[0]].arrival_ns <= now_ns)


@internal
def touch(s: State, m: int) -> None:
    """Marks what devices know of a model's requests as out of date."""
    for d in range(s.place.shape[0]):
        s.place[d, m].stale = 1


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
def enqueue(s: State) -> None:
    """Moves the clock to the arrival of the ring's next request and puts it into a free slot."""
    c = s.clock[0]
    new = s.ring[c.taken % s.ring.shape[0]]
    advance_clock(s, new.arrival_ns)
    i, m = c.free, new.model
    r, model = s.slot[i], s.model[m]
    c.free = r.next
    r.id = c.arrived
    r.model = m
    r.arrival_ns = new.arrival_ns
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
    model.homeless += 1
    c.in_system += 1
    c.arrived += 1
    c.taken += 1
    estimate_rate(s, m, new.arrival_ns)
    for d in range(s.place.shape[0]):
        # Who joins behind a full batch changes nothing of what is cached about it.
        if s.place[d, m].batch < s.entry.shape[1]:
            s.place[d, m].stale = 1


@inlined
def leave(s: State, i: int, finish_ns: int) -> None:
    """Takes a request that finished out of its queue and the system; its slot is free again."""
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
    c.cost_ns -= c.now_ns - finish_ns
    c.served += 1
    c.response_ns += finish_ns - r.arrival_ns
    if r.id < s.outcome.shape[0]:
        kept = s.outcome[r.id]
        kept.first_token_ns = r.first_token_ns
        kept.finish_ns = finish_ns
        kept.preemptions = r.preemptions
    r.next = c.free
    c.free = i
