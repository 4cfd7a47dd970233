"""A trained policy's episodes played again, asking another one at every decision what it would have done.

Where the two differ, the episode is taken to that very state, and each of the two choices is played out from
a copy of it, the trained policy deciding from then on, on the same requests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shunter.agents.heuristics.rules import is_copy
from shunter.agents.learned.compiled import (
    IS_EVICT,
    IS_RUN,
    IS_WAIT,
    OWN,
    REQUESTS,
    SHARED,
    Scratch,
    choose,
    kind_index,
    play,
    squash,
)
from shunter.agents.learned.inputs import CANDIDATE_FEATURE, CANDIDATE_SCALE, INPUTS, KINDS
from shunter.agents.learned.policy import LearnedPolicy
from shunter.envs.observation.features import feature
from shunter.envs.observation.observe import observe
from shunter.envs.rules.dynamics import open_episode
from shunter.envs.sim.compiled import entry, inlined, internal, jit
from shunter.envs.sim.simulation import advance, begin
from shunter.envs.state.records import FAR_NS, record
from shunter.envs.state.state import Records, State, episode_state
from shunter.envs.state.tables import Tables
from shunter.envs.world.world import World

__all__ = ["Followed"]

Floats = NDArray[np.float64]
Features = NDArray[np.float32]

WHATS = ("run", "load", "second copy", "prefetch", "other level", "evict", "wait")
"""What a candidate is, finer than its kind: loads by what they are for."""

RUN, LOAD, COPY, PREFETCH, LEVEL, EVICT, WAIT = range(len(WHATS))
RESIDENT_HERE = feature("resident_here")

DECISION = record("now_ns", small=("device", "chosen", "chosen_what", "other", "other_what"))
"""A decision: when, whose, what the policy chose and what the other one would have."""

CHUNK = 4096
"""Decisions that are recorded at a time."""


@dataclass(frozen=True)
class Followed:
    """Episodes of a policy.

    Attributes:
        decisions: For each episode, (decisions,) records of ``DECISION``.
        spread: (kinds, inputs) of the linear part: how far each input is apart among the candidates of a
            decision, where those of other kinds count as 0: root mean square over decisions of the standard
            deviation. Times the weight it says how much a decision depends on it.
        low: (kinds, inputs) its least value among candidates of its kind; infinity where there were none.
        high: (kinds, inputs) its greatest value among candidates of its kind; minus infinity where there were
            none.
    """

    decisions: tuple[Records, ...]
    spread: Floats
    low: Floats
    high: Floats


class SeenInputs(NamedTuple):
    """What is kept of the inputs of the linear part, (kinds, inputs) each.

    Attributes:
        total: Sums of a decision, overwritten.
        squares: Sums of its squares, overwritten.
        spread: Sum over all decisions of the variances among their candidates.
        low: Least value.
        high: Greatest value.
    """

    total: Floats
    squares: Floats
    spread: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Difference:
    """A decision in which the two differ, and what came of each choice.

    Attributes:
        seed: Seed of the requests.
        number: Number of the decision in its episode.
        record: The decision's record, as ``DECISION`` has it.
        gain_s: Request-seconds that the policy's choice saved until all requests were served; NaN if one of
            the two was cut off before.
        near_s: Request-seconds that the policy's choice saved within the horizon; NaN as in ``gain_s``.
    """

    seed: int
    number: int
    record: Records
    gain_s: float
    near_s: float


@entry
def what_of(c: Features) -> int:
    """Index into ``WHATS`` of a candidate."""
    if c[IS_EVICT] > 0:
        return EVICT
    if c[IS_WAIT] > 0:
        return WAIT
    if c[IS_RUN] > 0:
        return RUN
    if c[REQUESTS] == 0:
        return PREFETCH
    if c[RESIDENT_HERE] > 0:
        return LEVEL
    return COPY if is_copy(c) else LOAD


@inlined
def see(seen: SeenInputs, k: int, i: int, x: float) -> None:
    """Keeps one input of one candidate."""
    seen.total[k, i] += x
    seen.squares[k, i] += x * x
    seen.low[k, i] = min(seen.low[k, i], x)
    seen.high[k, i] = max(seen.high[k, i], x)


@internal
def see_decision(w: Scratch, seen: SeenInputs) -> None:
    """Keeps the inputs of the candidates on the pruned of a decision."""
    listed = 0
    seen.total[:] = 0.0
    seen.squares[:] = 0.0
    for a in range(w.prior.shape[0]):
        if np.isnan(w.prior[a]):
            continue
        listed += 1
        k = kind_index(w.candidates[a])
        for i in range(OWN):
            see(seen, k, i, squash(np.float64(w.candidates[a, CANDIDATE_FEATURE[i]]), CANDIDATE_SCALE[i]))
        for i in range(SHARED):
            see(seen, k, OWN + i, w.shared[i])
        see(seen, k, OWN + SHARED, 1.0)
    for k in range(seen.spread.shape[0]):
        for i in range(seen.spread.shape[1]):
            mean = seen.total[k, i] / listed
            seen.spread[k, i] += seen.squares[k, i] / listed - mean * mean


@jit
def follow(
    t: Tables, s: State, p: Floats, w: Scratch, q: Floats, v: Scratch, log: Records, seen: SeenInputs
) -> int:
    """Plays on, as many decisions as the log has room for.

    Args:
        t: Tables.
        s: State that holds all requests.
        p: (size,) vector of the policy that decides.
        w: Overwritten.
        q: (size,) vector of the policy that is asked too.
        v: Overwritten.
        log: (N,) overwritten with records of ``DECISION``.
        seen: Added to.

    Returns:
        How many decisions there were; fewer than there is room for at the end of the episode.
    """
    c = s.clock[0]
    for k in range(log.shape[0]):
        c.asking = advance(t, s)
        if c.asking < 0 or c.now_ns > t.limits[0].max_time_ns:
            return k
        observe(t, s, c.asking, w.candidates, w.context, w.mask)
        chosen = choose(p, w.candidates, w.context, w.mask, w)
        see_decision(w, seen)
        other = choose(q, w.candidates, w.context, w.mask, v)
        log[k].now_ns = c.now_ns
        log[k].device = c.asking
        log[k].chosen = chosen
        log[k].chosen_what = what_of(w.candidates[chosen])
        log[k].other = other
        log[k].other_what = what_of(w.candidates[other])
        begin(t, s, c.asking, chosen)
    return int(log.shape[0])


@jit
def play_from(t: Tables, s: State, action: int, p: Floats, w: Scratch) -> int:
    """Lets the asking device take an action, then plays on as ``play`` does."""
    observe(t, s, s.clock[0].asking, w.candidates, w.context, w.mask)
    begin(t, s, s.clock[0].asking, action)
    return play(t, s, p, w)


def nothing_seen() -> SeenInputs:
    """What is kept before any decision."""
    shape = len(KINDS), INPUTS
    return SeenInputs(*(np.full(shape, value) for value in (0.0, 0.0, 0.0, np.inf, -np.inf)))


class _Walk:
    """One episode on its way.

    Args:
        world: The compiled scenario.
        policy: Decides.
        other: Another policy, which is asked too.
        seed: Seed of the requests.
        seen: What is kept of the inputs, added to.
    """

    def __init__(
        self,
        world: World,
        policy: LearnedPolicy,
        other: LearnedPolicy,
        seed: int,
        seen: SeenInputs | None = None,
    ) -> None:
        first_sends_ns = world.scenario.workload.first_sends_ns()
        self.world, self.policy, self.other = world, policy, other
        self.state = episode_state(world.draw(seed), world.levels, world.entries, first_sends_ns)
        open_episode(world.tables, self.state)
        self.scratch = policy.scratch(world.actions)
        self._asked = other.scratch(world.actions)
        self._seen = seen or nothing_seen()
        self.number = 0

    def go(self, decisions: int) -> Records:
        """Makes so many decisions, or all that are left."""
        log = np.zeros(decisions, DECISION)
        made = follow(
            self.world.tables,
            self.state,
            self.policy.vector,
            self.scratch,
            self.other.vector,
            self._asked,
            log,
            self._seen,
        )
        self.number += made
        return log[:made]


def played(world: World, policy: LearnedPolicy, other: LearnedPolicy, seeds: Sequence[int]) -> Followed:
    """Plays a policy's episodes to their ends.

    Args:
        world: The compiled scenario.
        policy: Decides.
        other: Another policy, which is asked too.
        seeds: Seeds of the requests, one for each episode.
    """
    decisions, seen = [], nothing_seen()
    for seed in seeds:
        episode = _Walk(world, policy, other, seed, seen)
        parts: list[Records] = []
        while not parts or len(parts[-1]) == CHUNK:
            parts.append(episode.go(CHUNK))
        decisions.append(np.concatenate(parts))
    spread = np.sqrt(np.maximum(seen.spread, 0.0) / max(1, sum(map(len, decisions))))
    return Followed(tuple(decisions), spread, seen.low, seen.high)


def walk(
    world: World, policy: LearnedPolicy, other: LearnedPolicy, seed: int, numbers: Sequence[int]
) -> Iterator[State]:
    """The states, to be copied before they are changed, in which decisions of these ascending numbers ask."""
    episode = _Walk(world, policy, other, seed)
    for number in numbers:
        episode.go(number - episode.number)
        episode.state.clock["asking"] = advance(world.tables, episode.state)
        yield episode.state


def differences(
    world: World,
    policy: LearnedPolicy,
    other: LearnedPolicy,
    seed: int,
    decisions: Records,
    numbers: Sequence[int],
    horizon_s: float,
) -> Iterator[Difference]:
    """Plays both choices out in each of some decisions of an episode.

    Args:
        world: The compiled scenario.
        policy: Decides, after either choice too.
        other: The policy whose choices are tried.
        seed: Seed of the requests.
        decisions: (decisions,) records of the episode, as ``played`` gives them.
        numbers: Which decisions of the episode to try, ascending.
        horizon_s: Until when ``Difference.near_s`` counts.
    """
    scratch = policy.scratch(world.actions)
    for number, state in zip(numbers, walk(world, policy, other, seed, numbers), strict=True):
        one = decisions[number]
        ends = copied(state), copied(state)
        over = [
            play_from(world.tables, end, int(action), policy.vector, scratch) < 0
            for end, action in zip(ends, (one["chosen"], one["other"]), strict=True)
        ]
        gain_s = near_s = float("nan")
        if all(over):
            until_ns = int(one["now_ns"]) + round(1e9 * horizon_s)
            gain_s = request_s(ends[1]) - request_s(ends[0])
            near_s = request_s(ends[1], until_ns) - request_s(ends[0], until_ns)
        yield Difference(seed, number, one, gain_s, near_s)


def copied(state: State) -> State:
    """A state of its own."""
    return State._make(records.copy() for records in state)


def request_s(state: State, until_ns: int = FAR_NS) -> float:
    """Request-seconds of an episode that is over, up to a time: each request from its arrival to its end."""
    arrival_ns = np.minimum(state.ring["arrival_ns"], until_ns)
    finish_ns = np.minimum(state.outcome["finish_ns"], until_ns)
    return float((finish_ns - arrival_ns).sum()) * 1e-9
