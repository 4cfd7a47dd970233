"""What changes during an episode, as a few arrays of records.

The same compiled functions work on them in the simulator and in the real executor. Times are int64
nanoseconds since the episode's start; -1 means "not yet" or "none". Requests in the system live in a pool of
slots that are used again, so memory grows with the requests in the system, not with those ever served.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shunter.envs.observation.features import FEATURES
from shunter.envs.state.records import (
    CLOCK,
    COUNTS,
    DEVICE,
    DONE,
    ENTRY,
    MODEL,
    OUTCOME,
    PLACE,
    RING,
    SLOT,
    USER,
    WORK,
    record,
)

__all__ = [
    "EVICT",
    "IDLE",
    "KV_DROPPED",
    "KV_LIVE",
    "KV_NONE",
    "KV_SAVED",
    "KV_SAVING",
    "LOAD",
    "RUN",
    "WAIT",
    "Bools",
    "Floats",
    "Ints",
    "Records",
    "Requests",
    "State",
    "all_outcomes",
    "counted",
    "empty_state",
    "grow_slots",
    "in_use",
]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Records = NDArray[np.void]

IDLE, WAIT, RUN, LOAD, EVICT = 0, 1, 2, 3, 4
"""What a device does (``op_kind``)."""

KV_NONE, KV_LIVE, KV_SAVING, KV_SAVED, KV_DROPPED = 0, 1, 2, 3, 4
"""Where a request's KV cache is (``kv``): never made, on its device, being saved, saved, dropped."""


class Requests(NamedTuple):
    """A workload drawn for one episode, sorted by arrival; each array has shape (N,)."""

    arrival_ns: Ints
    model: Ints
    prompt_tokens: Ints
    decode_tokens: Ints


class State(NamedTuple):
    """One episode; with a leading axis over environments, a batch of them.

    D devices, M models, L levels, B batch slots, S slots, R requests in the ring, N outcomes kept.

    Attributes:
        clock: (1,) record of ``CLOCK``.
        ring: (R,) records of ``RING``: request k is at k modulo R.
        slot: (S,) records of ``SLOT``.
        model: (M,) records of ``MODEL``.
        place: (D, M) records of ``PLACE``.
        work: (D, M, L) records of ``WORK``.
        device: (D,) records of ``DEVICE``.
        entry: (D, B) records of ``ENTRY``.
        outcome: (N,) records of ``OUTCOME``; N is 0 if none are kept.
        counts: (1,) record of ``COUNTS``.
        user: (U,) records of ``USER``; U is 0 in an open loop.
        row: (D, M, L, F) float32: candidates as last observed, a cache.
        done: (K,) records of ``DONE``: the k-th request that finished is at k modulo K; K is 0 if none are
            kept.
    """

    clock: Records
    ring: Records
    slot: Records
    model: Records
    place: Records
    work: Records
    device: Records
    entry: Records
    outcome: Records
    counts: Records
    user: Records
    row: NDArray[np.float32]
    done: Records

    def of(self, e: int) -> State:
        """The state of environment e of a batch, as a view."""
        return State(*(records[e] for records in self))

    def copy(self) -> State:
        """The same in arrays of its own."""
        return State._make(records.copy() for records in self)


def free_slots(shape: tuple[int, ...], first: int = 0) -> Records:
    """Slots that nobody uses, each pointing at the next; the first of them has the index ``first``."""
    slots = np.zeros(shape, SLOT)
    slots["next"] = np.arange(first + 1, first + shape[-1] + 1)
    slots["next"][..., -1] = -1
    return slots


def empty_state(
    batch: tuple[int, ...],
    levels: tuple[int, int, int],
    max_batch: int,
    *,
    slots: int,
    ring: int,
    outcomes: int,
    done: int = 0,
    first_sends_ns: Ints | None = None,
) -> State:
    """States before anything was begun: no requests on their way.

    Args:
        batch: Leading axes.
        levels: Devices, models and levels.
        max_batch: Requests of a quantum, at most.
        slots: Number of slots in the pool of requests.
        ring: Number of requests on their way that the ring holds.
        outcomes: Number of requests whose outcomes are kept.
        done: Number of requests that finished last that are kept.
        first_sends_ns: (users,) ns at which each user of a closed loop sends the first request; None: an open
            one.
    """
    d, m, _ = levels
    users = 0 if first_sends_ns is None else len(first_sends_ns)
    state = State(
        clock=np.zeros((*batch, 1), CLOCK),
        ring=np.zeros((*batch, ring), RING),
        slot=free_slots((*batch, slots)),
        model=np.zeros((*batch, m), MODEL),
        place=np.zeros((*batch, d, m), PLACE),
        work=np.zeros((*batch, *levels), WORK),
        device=np.zeros((*batch, d), DEVICE),
        entry=np.zeros((*batch, d, max_batch), ENTRY),
        outcome=np.zeros((*batch, outcomes), OUTCOME),
        counts=np.zeros((*batch, 1), record(*COUNTS)),
        user=np.zeros((*batch, users), USER),
        row=np.zeros((*batch, *levels, len(FEATURES)), np.float32),
        done=np.zeros((*batch, done), DONE),
    )
    if first_sends_ns is not None:
        state.user["first_ns"] = first_sends_ns
    state.clock["asking"] = -1
    state.device["serving_end_ns"] = -1
    for name in ("head", "tail", "last_arrival_ns"):
        state.model[name] = -1
    for name in ("resident", "evicting", "asleep"):
        state.place[name] = -1
    state.place["changed"] = state.place["stale"] = 1
    for name in ("pending_model", "pending_level", "promoted_model", "last_model", "op_model", "op_level"):
        state.device[name] = -1
    for name in ("first_token_ns", "finish_ns"):
        state.outcome[name] = -1
    return state


def in_use(state: State) -> Bools:
    """Which slots hold a request, shape (S,)."""
    used = np.ones(len(state.slot), np.bool_)
    free = int(state.clock["free"][0])
    while free >= 0:
        used[free] = False
        free = int(state.slot["next"][free])
    return used


def all_outcomes(state: State) -> Records:
    """What became of every request of an episode so far, those still in the system included."""
    outcomes = state.outcome.copy()
    for r in state.slot[in_use(state)]:
        for name in ("first_token_ns", "preemptions"):
            outcomes[name][r["id"]] = r[name]
    return outcomes


def counted(counts: Records) -> dict[str, int]:
    """One episode's ``State.counts`` by name."""
    return {name: int(counts[name][0]) for name in COUNTS}


def grow_slots(state: State) -> State:
    """The same batch of states with twice as many slots, for those that ran out of them."""
    old = state.slot.shape[-1]
    more = free_slots(state.slot.shape, first=old)
    full = state.clock["free"][..., 0] < 0
    # The free list of the others still ends at the last old slot: it goes on with the new ones.
    slots = np.concatenate([state.slot, more], axis=-1)
    state.clock["free"][full, 0] = old
    for index in zip(*np.nonzero(~full), strict=True):
        tail = int(state.clock["free"][index][0])
        while slots["next"][index][tail] >= 0:
            tail = int(slots["next"][index][tail])
        slots["next"][(*index, tail)] = old
    return state._replace(slot=slots)
