"""Copies of a state that compiled rollouts may spoil: compact, each in one block of memory."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from shunter.envs.sim.compiled import jit
from shunter.envs.state.state import RUN, Ints, State, empty_state

__all__ = ["RolloutScratch", "copy_words", "make_scratch"]

WORD = 8
"""Bytes; every array of a copy begins at a multiple."""


class RolloutScratch(NamedTuple):
    """A state whose records all lie in one block of memory.

    Attributes:
        words: (W,) the block.
        state: Views of it.
    """

    words: Ints
    state: State


def make_scratch(levels: tuple[int, int, int], max_batch: int, *, slots: int, ring: int) -> RolloutScratch:
    """Memory for a copy of a state.

    Args:
        levels: Devices, models and levels.
        max_batch: Requests of a quantum, at most.
        slots: Requests in the system that it can hold.
        ring: Requests on their way that it can hold.
    """
    like = empty_state((), levels, max_batch, slots=slots, ring=ring, outcomes=0)
    sizes = [-(-records.nbytes // WORD) for records in like]
    words = np.zeros(sum(sizes), np.int64)
    memory, ends = words.view(np.uint8), np.cumsum(sizes) * WORD
    views = [
        memory[end - size * WORD :][: records.nbytes].view(records.dtype).reshape(records.shape)
        for records, size, end in zip(like, sizes, ends, strict=True)
    ]
    return RolloutScratch(words, State(*views))


def compact(s: State, to: State, place_of: Ints) -> None:
    """Copies a state; the requests in the system take the first slots, model by model, in order of arrival.

    The copy's cost starts at 0, no request is on its way, and its cache for observations counts as stale.
    What became of requests that left is not copied.

    Args:
        s: State of one environment.
        to: Overwritten; has at least as many slots as s has requests in the system.
        place_of: (slots of s,), overwritten where used: the slot that a slot's request takes in the copy.
    """
    for name, source, target in zip(State._fields, s, to, strict=True):
        if name not in ("slot", "ring", "outcome", "done"):
            target[...] = source
    to.place["changed"] = to.place["stale"] = 1
    for name in ("cost_ns", "taken", "filled", "last", "stalled", "starting"):
        to.clock[name] = 0
    pack_slots(s, to, place_of)


@jit
def copy_words(source: Ints, target: Ints) -> None:
    """Copies one block over another of the same size."""
    for i in range(source.shape[0]):
        target[i] = source[i]


@jit
def pack_slots(s: State, to: State, place_of: Ints) -> None:
    """Copies the requests in the system into the first slots; links them, and the others as free ones."""
    kept = 0
    for m in range(s.model.shape[0]):
        i, first = s.model[m].head, kept
        while i >= 0:
            place_of[i] = kept
            to.slot[kept] = s.slot[i]
            to.slot[kept].previous = kept - 1 if kept > first else -1
            i = s.slot[i].next
            to.slot[kept].next = kept + 1 if i >= 0 else -1
            kept += 1
        to.model[m].head = first if kept > first else -1
        to.model[m].tail = kept - 1 if kept > first else -1
    for d in range(s.device.shape[0]):
        if s.device[d].op_kind == RUN:
            for b in range(s.device[d].op_batch):
                to.entry[d, b].slot = place_of[s.entry[d, b].slot]
    slots = to.slot.shape[0]
    for i in range(kept, slots):
        to.slot[i].next = i + 1 if i + 1 < slots else -1
    to.clock[0].free = kept if kept < slots else -1
