"""Searching the decisions of an episode whose arrivals and lengths are known, compiled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shunter.agents.episodes import Observed
from shunter.agents.heuristics.cost_greedy import greedy_choice, greedy_score_of
from shunter.agents.lookahead.rollout import play_out
from shunter.agents.lookahead.rollout_state import RolloutScratch, copy_words
from shunter.envs.observation.observe import observe
from shunter.envs.rules.candidates import mask_actions
from shunter.envs.sim.compiled import internal, jit
from shunter.envs.sim.simulation import advance, begin
from shunter.envs.state.state import RUN, Bools, Floats, Ints, State
from shunter.envs.state.tables import Tables
from shunter.eval.bounds.bound import remaining_cost_s
from shunter.eval.bounds.least import BoundMemory, Least

MIX = 0x9E3779B97F4A7C15
PROBES = 8
"""Places of the table of known states that are looked at before a state is given up as unknown."""


class Stack(NamedTuple):
    """Depth-first search on a stack of states. H levels, A actions.

    Attributes:
        words: (H, W) the states.
        device: (H,) the device that asks in the state.
        bound_s: (H,) least cost of any schedule through the state.
        order: (H, A) actions, the most promising first.
        listed: (H,) how many actions ``order`` holds.
        tried: (H,) how many of them were tried.
        keys: (T,) keys of states that were seen; 0: none.
        costs_ns: (T,) the least cost at which each state of ``keys`` was seen.
        best: (H,) actions of the best schedule found.
        numbers: (4,) depth, nodes, length of the best schedule (-1: none), states cut off for depth.
        values: (2,) cost of the best schedule and least bound of the states cut off, seconds.
    """

    words: NDArray[np.int64]
    device: Ints
    bound_s: Floats
    order: NDArray[np.int64]
    listed: Ints
    tried: Ints
    keys: NDArray[np.uint64]
    costs_ns: Ints
    best: Ints
    numbers: Ints
    values: Floats


class Children(NamedTuple):
    """States that one action leads to, filled in from the front; room for C of them.

    Attributes:
        words: (C, W) the states.
        device: (C,) the device that asks next; -1: everyone has been served.
        came_from: (C, 2) parent and action.
        key: (C,) hashes.
        cost_s: (C, 2) cost of the schedule that cost-greedy ends, and the child's lower bound, seconds.
    """

    words: NDArray[np.int64]
    device: Ints
    came_from: NDArray[np.int64]
    key: NDArray[np.uint64]
    cost_s: NDArray[np.float64]


@internal
def stir(key: np.uint64, value: int) -> np.uint64:
    """Adds a value to a hash."""
    z = (key ^ np.uint64(value)) * np.uint64(MIX)
    return z ^ (z >> np.uint64(29))


@jit
def state_key(s: State, device: int) -> np.uint64:
    """A hash of everything that the future depends on; what was paid so far is not in it."""
    c = s.clock[0]
    key = stir(stir(stir(np.uint64(1), c.now_ns), c.taken), device)
    for d in range(s.device.shape[0]):
        now = s.device[d]
        key = stir(stir(stir(key, now.pending_model), now.pending_level), now.op_kind)
        if now.op_kind > 0:
            key = stir(stir(stir(key, now.op_model), now.op_level), now.op_end_ns)
        for m in range(s.model.shape[0]):
            place = s.place[d, m]
            key = stir(stir(key, place.resident), place.evicting)
            if place.asleep >= 0:
                key = stir(stir(key, place.asleep), place.last_used_ns)
        if now.op_kind == RUN:
            for b in range(now.op_batch):
                entry = s.entry[d, b]
                key = stir(stir(stir(key, s.slot[entry.slot].id), entry.tokens), entry.finish_ns)
    for m in range(s.model.shape[0]):
        key = stir(stir(key, s.model[m].cached), s.model[m].cached_at if s.model[m].cached != 0 else 0)
        i = s.model[m].head
        while i >= 0:
            r = s.slot[i]
            key = stir(stir(stir(stir(stir(key, r.id), r.generated), r.kv), r.home), r.owner)
            i = r.next
    return key


@jit
def expand(
    t: Tables,
    parents: NDArray[np.int64],
    devices: Ints,
    least: Least,
    b: BoundMemory,
    work: RolloutScratch,
    other: RolloutScratch,
    w: Observed,
    legal: Bools,
    children: Children,
    best_s: float,
) -> int:
    """Takes every legal action in each of some states; each child is judged by playing it to the end.

    Args:
        t: Tables of an oracle.
        parents: (B, W) words of the states.
        devices: (B,) the device that asks in each state.
        least: Least durations of the tables, from ``least_times``.
        b: Overwritten.
        work: Overwritten.
        other: Overwritten.
        w: Overwritten.
        legal: (A,), overwritten.
        children: Room for B * A of them, overwritten.
        best_s: Children whose bound is not below this are left out.

    Returns:
        How many children there are.
    """
    made, s = 0, work.state
    for p in range(parents.shape[0]):
        copy_words(parents[p], work.words)
        mask_actions(t, s, devices[p], legal)
        for a in range(legal.shape[0]):
            if not legal[a]:
                continue
            copy_words(parents[p], work.words)
            begin(t, s, devices[p], a)
            device = advance(t, s)
            paid_s, cost_s = s.clock[0].cost_ns * 1e-9, children.cost_s[made]
            cost_s[0] = paid_s
            cost_s[1] = paid_s
            if device >= 0:
                cost_s[1] = paid_s + remaining_cost_s(t, s, least, b)
                if cost_s[1] >= best_s:
                    continue
                copy_words(work.words, children.words[made])
                copy_words(work.words, other.words)
                observe(t, other.state, device, w.candidates, w.context, w.mask)
                first = greedy_choice(w.candidates, w.mask)
                cost_s[0] = paid_s + play_out(t, other.state, device, first, w)
            children.device[made] = device
            children.came_from[made, 0] = p
            children.came_from[made, 1] = a
            children.key[made] = state_key(s, device)
            made += 1
    return made


@internal
def rank_actions(t: Tables, s: State, device: int, w: Observed, order: Ints) -> int:
    """Lists the legal actions, the one that cost-greedy likes best first; returns how many."""
    observe(t, s, device, w.candidates, w.context, w.mask)
    count = 0
    for a in range(w.mask.shape[0]):
        if not w.mask[a]:
            continue
        score, at = greedy_score_of(w.candidates[a]), count
        while at > 0 and greedy_score_of(w.candidates[order[at - 1]]) < score:
            order[at] = order[at - 1]
            at -= 1
        order[at] = a
        count += 1
    return count


@internal
def seen_before(k: Stack, key: np.uint64, cost_ns: int) -> bool:
    """Whether the state was reached at no higher cost; remembers it otherwise."""
    size = np.uint64(k.keys.shape[0])
    key = key if key != np.uint64(0) else np.uint64(1)
    for probe in range(PROBES):
        at = np.int64((key + np.uint64(probe)) % size)
        if k.keys[at] == key:
            if k.costs_ns[at] <= cost_ns:
                return True
            k.costs_ns[at] = cost_ns
            return False
        if k.keys[at] == np.uint64(0):
            k.keys[at] = key
            k.costs_ns[at] = cost_ns
            return False
    return False


@internal
def remember_best(k: Stack, cost_s: float) -> None:
    """Keeps the schedule on the stack as the best one."""
    k.values[0] = cost_s
    k.numbers[2] = k.numbers[0] + 1
    for h in range(k.numbers[0] + 1):
        k.best[h] = k.order[h, k.tried[h] - 1]


@internal
def push(k: Stack, words: Ints, device: int, bound_s: float) -> None:
    """Puts a state on the stack; counts it as cut off where the stack is full."""
    h = k.numbers[0] + 1
    if h == k.words.shape[0]:
        k.numbers[3] += 1
        k.values[1] = min(k.values[1], bound_s)
        return
    copy_words(words, k.words[h])
    k.device[h] = device
    k.bound_s[h] = bound_s
    k.tried[h] = -1
    k.numbers[0] = h


@jit
def descend(
    t: Tables,
    k: Stack,
    least: Least,
    b: BoundMemory,
    work: RolloutScratch,
    w: Observed,
    max_nodes: int,
    margin_s: float,
) -> bool:
    """Depth-first branch and bound from the state at the bottom of the stack.

    Args:
        t: Tables of an oracle.
        k: The bottom is filled in (state, device, bound, ``tried`` -1); may be called again to go on.
        least: Least durations of the tables, from ``least_times``.
        b: Overwritten.
        work: Overwritten.
        w: Overwritten.
        max_nodes: Stops after so many states.
        margin_s: States that cannot better the best schedule by more than this are not looked at.

    Returns:
        Whether nothing is left to look at.
    """
    s = work.state
    while k.numbers[1] < max_nodes:
        h = k.numbers[0]
        if k.tried[h] < 0:
            copy_words(k.words[h], work.words)
            k.listed[h] = rank_actions(t, s, k.device[h], w, k.order[h])
            k.tried[h] = 0
        if k.tried[h] == k.listed[h] or k.bound_s[h] >= k.values[0] - margin_s:
            if h == 0:
                return True
            k.numbers[0] = h - 1
            continue
        action = k.order[h, k.tried[h]]
        k.tried[h] += 1
        k.numbers[1] += 1
        copy_words(k.words[h], work.words)
        begin(t, s, k.device[h], action)
        device = advance(t, s)
        paid_ns = s.clock[0].cost_ns
        if device < 0:
            if paid_ns * 1e-9 < k.values[0]:
                remember_best(k, paid_ns * 1e-9)
            continue
        bound_s = max(k.bound_s[h], paid_ns * 1e-9 + remaining_cost_s(t, s, least, b))
        if bound_s >= k.values[0] - margin_s or seen_before(k, state_key(s, device), paid_ns):
            continue
        push(k, work.words, device, bound_s)
    return False
