"""The clairvoyant: what the best schedule would have cost that knew all arrivals and lengths beforehand.

Two numbers enclose it. The **best found** schedule is one that the shared rules carry out, so the optimum
costs no more; it comes from a beam search whose states cost-greedy plays to the end, then from branch and
bound. The **lower bound** (``shunter.eval.bounds.bound``) is below every schedule; branch and bound
raises it, and where it ends both are the same: the optimum over all sequences of decisions of the protocol.
The guard binds neither: what holds for every schedule holds for those that bound waiting.

A policy's mean response over these gives "× of clairvoyant" as an interval: the true ratio is at least the
one against the best found and at most the one against the lower bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.agents.heuristics.cost_greedy import CostGreedy
from shunter.agents.lookahead.rollout_state import RolloutScratch, make_scratch
from shunter.envs.observation.features import CONTEXT_FEATURES, FEATURES
from shunter.envs.rules.dynamics import open_episode
from shunter.envs.sim.simulation import advance
from shunter.envs.state.records import FAR_NS
from shunter.envs.state.state import Requests, State, episode_state
from shunter.envs.world.world import World
from shunter.eval.bounds.bound import remaining_cost_s
from shunter.eval.bounds.kernel import Stack, descend, expand
from shunter.eval.bounds.least import bound_memory, least_times

__all__ = ["Clairvoyant", "solve"]

Array = NDArray[np.float64]

MARGIN = 1e-7
"""Branch and bound does not look for schedules that are better by less, relative to the best one."""


@dataclass(frozen=True)
class Clairvoyant:
    """The clairvoyant optimum of an episode, enclosed.

    Attributes:
        best_s: Mean response of the best schedule found.
        bound_s: No schedule's mean response is below this.
        actions: Decisions of the best schedule; where they end, cost-greedy decides, knowing true lengths.
        nodes: States that branch and bound looked at.
        optimal: Whether it ended: best_s is then the optimum over the protocol's decisions.
    """

    best_s: float
    bound_s: float
    actions: tuple[int, ...]
    nodes: int
    optimal: bool

    def times(self, response_s: float) -> tuple[float, float]:
        """A mean response as multiple of the optimum: at least the first, at most the second."""
        return response_s / self.best_s, response_s / self.bound_s


class Plan:
    """Carries out decisions made beforehand; where they end, cost-greedy decides with true lengths.

    Args:
        actions: One per decision.
    """

    name = "clairvoyant"
    oracle = True

    def __init__(self, actions: tuple[int, ...]) -> None:
        self._left = list(actions)[::-1]
        self._rest = CostGreedy()

    def act(self, observation: dict[str, NDArray[Any]]) -> int:
        """The next decision."""
        return self._left.pop() if self._left else self._rest.act(observation)

    def act_batch(self, observations: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
        """The next decision, for a batch of one."""
        return np.array([self.act({key: values[0] for key, values in observations.items()})])


def lower_bound_s(world: World, requests: Requests) -> float:
    """Mean response that no schedule of these requests is below.

    Args:
        world: The compiled scenario.
        requests: Requests of one episode, any number of them.
    """
    return _Instance(world, requests).bound_s() / len(requests.model)


def solve(world: World, requests: Requests, *, beam: int = 200, max_nodes: int = 1_000_000) -> Clairvoyant:
    """Encloses the clairvoyant optimum.

    Args:
        world: The compiled scenario.
        requests: Requests of one episode; 12 to 30 are practical.
        beam: States that the beam search keeps after each decision.
        max_nodes: States that branch and bound looks at, at most; 0: no branch and bound.
    """
    instance = _Instance(world, requests)
    count = len(requests.model)
    total_s, actions = instance.search_beam(beam)
    bound_s, nodes, optimal = instance.bound_s(), 0, False
    if max_nodes > 0:
        total_s, bound_s, actions, nodes, optimal = instance.branch(total_s, actions, max_nodes)
    return Clairvoyant(total_s / count, min(bound_s, total_s) / count, actions, nodes, optimal)


class _Instance:
    """One episode at its first decision, and memory to search from there."""

    def __init__(self, world: World, requests: Requests) -> None:
        count = len(requests.model)
        self.world = world
        self.tables = world.tables.changed(oracle=1, guard_ns=FAR_NS)
        self.least = least_times(self.tables)
        self.memory = bound_memory(count, world.models)
        sizes = {"slots": count, "ring": count}
        self.root, self.work, self.other = (
            make_scratch(world.levels, world.entries, **sizes) for _ in range(3)
        )
        state = _fresh(self.root, world, requests)
        open_episode(self.tables, state)
        self.device = int(advance(self.tables, state))
        self.seen = (
            np.zeros((world.actions, len(FEATURES)), np.float32),
            np.zeros(len(CONTEXT_FEATURES), np.float32),
            np.zeros(world.actions, np.bool_),
        )

    def bound_s(self) -> float:
        """Lower bound of the sum of all response times."""
        paid_s = float(self.root.state.clock["cost_ns"][0]) * 1e-9
        return paid_s + float(remaining_cost_s(self.tables, self.root.state, self.least, self.memory))

    def search_beam(self, width: int) -> tuple[float, tuple[int, ...]]:
        """Beam search; returns the least sum of response times and the decisions before cost-greedy's."""
        words, devices = self.root.words[None], np.array([self.device])
        actions, size = self.world.actions, len(self.root.words)
        children = np.zeros((width * actions, size), np.int64)
        child_device, child_from = (
            np.zeros(width * actions, np.int64),
            np.zeros((width * actions, 2), np.int64),
        )
        child_key, child_s = np.zeros(width * actions, np.uint64), np.zeros((width * actions, 2))
        paths: list[tuple[int, ...]] = [()]
        best_s, best = np.inf, ()
        legal = np.zeros(actions, np.bool_)
        while len(words):
            made = expand(
                self.tables,
                words,
                devices,
                len(words),
                self.least,
                self.memory,
                self.work.state,
                self.work.words,
                self.other.state,
                self.other.words,
                *self.seen,
                legal,
                children,
                child_device,
                child_from,
                child_key,
                child_s,
                best_s,
            )
            if not made:
                break
            first = int(child_s[:made, 0].argmin())
            if child_s[first, 0] < best_s:
                best_s = float(child_s[first, 0])
                best = (*paths[child_from[first, 0]], int(child_from[first, 1]))
            kept = _keep(child_s[:made], child_key[:made], child_device[:made], width, best_s)
            paths = [(*paths[child_from[i, 0]], int(child_from[i, 1])) for i in kept]
            words, devices = children[kept].copy(), child_device[kept].copy()
        return best_s, best

    def branch(
        self, best_s: float, best: tuple[int, ...], max_nodes: int
    ) -> tuple[float, float, tuple[int, ...], int, bool]:
        """Branch and bound below a known schedule.

        Returns:
            Least sum of response times, its lower bound, the decisions, how many states were looked at, and
            whether none was left.
        """
        stack = self._stack(best_s, max_nodes)
        done = bool(
            descend(
                self.tables,
                stack,
                self.least,
                self.memory,
                self.work.state,
                self.work.words,
                *self.seen,
                max_nodes,
                MARGIN * best_s,
            )
        )
        found_s, length = float(stack.values[0]), int(stack.numbers[2])
        if length > 0:
            best = tuple(stack.best[:length].tolist())
        bound_s = min(found_s * (1.0 - MARGIN), float(stack.values[1]))
        if not done:
            depth = int(stack.numbers[0]) + 1
            open_ = stack.tried[:depth] < np.where(stack.tried[:depth] < 0, 1, stack.listed[:depth])
            bound_s = min(bound_s, float(stack.bound_s[:depth][open_].min(initial=np.inf)))
        optimal = done and int(stack.numbers[3]) == 0
        return found_s, bound_s, best, int(stack.numbers[1]), optimal

    def _stack(self, best_s: float, max_nodes: int) -> Stack:
        depth = 40 * len(self.root.state.slot) + 100
        actions, known = self.world.actions, max(1024, 4 * max_nodes)
        stack = Stack(
            words=np.zeros((depth, len(self.root.words)), np.int64),
            device=np.zeros(depth, np.int64),
            bound_s=np.zeros(depth),
            order=np.zeros((depth, actions), np.int64),
            listed=np.zeros(depth, np.int64),
            tried=np.full(depth, -1),
            keys=np.zeros(known, np.uint64),
            costs_ns=np.zeros(known, np.int64),
            best=np.zeros(depth, np.int64),
            numbers=np.array([0, 0, -1, 0]),
            values=np.array([best_s, np.inf]),
        )
        stack.words[0] = self.root.words
        stack.device[0] = self.device
        stack.bound_s[0] = self.bound_s()
        return stack


def _fresh(scratch: RolloutScratch, world: World, requests: Requests) -> State:
    """Writes the beginning of an episode into a scratch."""
    fresh = episode_state(requests, world.levels, world.entries)
    for target, source in zip(scratch.state, fresh, strict=True):
        if target.size:
            target[...] = source
    return scratch.state


def _keep(
    child_s: Array, key: NDArray[np.uint64], device: NDArray[np.int64], width: int, best_s: float
) -> NDArray[np.int64]:
    """The most promising children, none of them twice and none that cannot better the best."""
    order = np.argsort(child_s[:, 0], kind="stable")
    order = order[(device[order] >= 0) & (child_s[order, 1] < best_s * (1.0 - MARGIN))]
    _, first = np.unique(key[order], return_index=True)
    return np.asarray(order[np.sort(first)][:width])
