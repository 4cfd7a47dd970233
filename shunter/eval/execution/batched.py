"""Many seeds of one policy at once: the figures of ``simulate``, in a fraction of its time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shunter.agents.base import Policy, StatePolicy
from shunter.agents.heuristics.compiled import play_rules, rule_vector
from shunter.agents.learned.compiled import make_scratch, play_batch
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.parameters import for_world
from shunter.envs.gym.scheduling import Observation
from shunter.envs.observation.features import CONTEXT_FEATURES, FEATURES
from shunter.envs.rules.objectives import accrued, charge_unserved
from shunter.envs.sim.kernel import RESULT, Outputs, begin_batch, step_batch
from shunter.envs.state.state import Requests, State, counted, empty_state, grow_slots
from shunter.envs.state.tables import Tables
from shunter.envs.world.world import World
from shunter.eval.execution.runs import request_frame

__all__ = ["Batched", "evaluate_batched"]

ENVIRONMENTS = 64
"""Episodes that run side by side."""

SLOTS = 64
"""Requests in the system that an episode begins with room for."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Batched:
    """What came of one policy's episodes, one per seed.

    Attributes:
        policy: Its name.
        seeds: S seeds of the workloads.
        requests: For each seed what ``Run.requests`` is: one row per request.
        counts: For each seed ``shunter.envs.state.state.COUNTS`` by name.
        makespan_s: (S,) time at the end of each episode.
        cost: (S,) what the scenario's objective accrued, in its own unit; request-seconds for mean response.
    """

    policy: str
    seeds: tuple[int, ...]
    requests: tuple[pd.DataFrame, ...]
    counts: tuple[dict[str, int], ...]
    makespan_s: Floats
    cost: Floats

    @property
    def response_mean_s(self) -> Floats:
        """(S,) mean response; NaN where an episode was cut off with requests unfinished."""
        means = [(r.finish_s - r.arrival_s).mean(skipna=False) for r in self.requests]
        return np.array(means, np.float64)

    @property
    def unfinished(self) -> NDArray[np.int64]:
        """(S,) requests that were not served."""
        return np.array([r.finish_s.isna().sum() for r in self.requests], np.int64)


def evaluate_batched(
    world: World, policy: Policy, seeds: Sequence[int], *, environments: int = ENVIRONMENTS
) -> Batched:
    """Runs a policy on every seed's requests; each figure is exactly that of ``simulate`` with the seed.

    Args:
        world: The compiled scenario.
        policy: Decides; one marked oracle sees true lengths.
        seeds: Seeds of the workloads.
        environments: How many episodes run side by side at most.
    """
    frames: list[pd.DataFrame] = []
    counts: list[dict[str, int]] = []
    makespan_s: list[float] = []
    cost: list[float] = []
    for first in range(0, len(seeds), environments):
        requests = [world.draw(seed) for seed in seeds[first : first + environments]]
        episodes = _Episodes(world, policy, requests)
        episodes.run()
        for row in np.argsort(episodes.number):
            state = episodes.state.of(int(row))
            frames.append(request_frame(world, requests[int(episodes.number[row])], state))
            counts.append(counted(state.counts))
            makespan_s.append(int(state.clock["now_ns"][0]) * 1e-9)
            charge_unserved(state)
            cost.append(accrued(state))
    return Batched(
        policy.name, tuple(seeds), tuple(frames), tuple(counts), np.array(makespan_s), np.array(cost)
    )


class _Episodes:
    """Episodes side by side; those that are over are moved behind the others.

    Attributes:
        state: State of all episodes, a row each.
        number: (E,) which of the requests given a row's episode is.
    """

    def __init__(self, world: World, policy: Policy, requests: Sequence[Requests]) -> None:
        self.world = world
        self.policy = policy = for_world(policy, world)
        self._on_state = policy if isinstance(policy, StatePolicy) else None  # the check is not free
        self.tables = world.tables.changed(oracle=int(policy.oracle), max_time_ns=world.max_time_ns)
        self.state = _begin(world, self.tables, requests)
        self.number = np.arange(len(requests))
        self._out = _outputs(len(requests), world.actions)
        self._actions = np.zeros(len(requests), np.int64)
        self._active = len(requests)

    def run(self) -> None:
        """Takes every episode to its end."""
        if isinstance(self.policy, LearnedPolicy):
            scratch = self.policy.scratch(self.world.actions)
            while play_batch(self.tables, self.state, self.policy.vector, scratch):
                self.state = grow_slots(self.state)
            return
        rule = rule_vector(self.policy)
        if rule is not None:
            scratch = make_scratch(self.world.actions, 0)
            while play_rules(self.tables, self.state, rule, scratch):
                self.state = grow_slots(self.state)
            return
        self._go_on()
        while self._active:
            self._actions[: self._active] = self._choose()
            if self._step(again=False):
                self._go_on()
            self._retire()

    def _choose(self) -> NDArray[np.int64]:
        n = self._active
        seen: Observation = {
            "candidates": self._out.candidates[:n],
            "context": self._out.context[:n],
            "action_mask": self._out.mask[:n].view(np.int8),
        }
        if self._on_state is None:
            return self.policy.act_batch(seen)
        chosen = np.zeros(n, np.int64)
        for e in range(n):
            device = int(self.state.clock["asking"][e, 0])
            one = {name: values[e] for name, values in seen.items()}
            chosen[e] = self._on_state.act_on(self.world, self.state.of(e), device, one)
        return chosen

    def _step(self, *, again: bool) -> int:
        return step_batch(
            self.tables, self.state, self._actions, self._out, again, False, False, 0, self._active
        )

    def _go_on(self) -> None:
        """Grows the pool of slots until no episode lacks one."""
        while self._step(again=True):
            self.state = grow_slots(self.state)

    def _retire(self) -> None:
        clock = self.state.clock[: self._active, 0]
        over = (clock["asking"] < 0) | (clock["now_ns"] > self.world.max_time_ns)
        for e in np.flatnonzero(over)[::-1]:
            self._active -= 1
            pair, swapped = [int(e), self._active], [self._active, int(e)]
            kept = (self._out.candidates, self._out.context, self._out.mask, self.number)
            for array in (*self.state, *kept):
                array[pair] = array[swapped]


def _begin(world: World, tables: Tables, requests: Sequence[Requests]) -> State:
    """States at the start of their episodes; each holds all requests and keeps all outcomes."""
    count = max(len(r.arrival_ns) for r in requests)
    shape = (len(requests),)
    state = empty_state(
        shape,
        world.levels,
        world.entries,
        slots=SLOTS,
        ring=count,
        outcomes=count,
        first_sends_ns=world.scenario.workload.first_sends_ns(),
    )
    for e, drawn in enumerate(requests):
        for name, values in zip(Requests._fields, drawn, strict=True):
            state.ring[name][e, : len(values)] = values
        state.clock["filled"][e] = state.clock["length"][e] = len(drawn.arrival_ns)
    begin_batch(tables, state, np.ones(len(requests), np.bool_), False)
    return state


def _outputs(environments: int, actions: int) -> Outputs:
    """Room for what episodes see; nothing is kept of the observation that ends one."""
    e, f, g = environments, len(FEATURES), len(CONTEXT_FEATURES)
    return Outputs(
        candidates=np.zeros((e, actions, f), np.float32),
        context=np.zeros((e, g), np.float32),
        mask=np.zeros((e, actions), np.bool_),
        result=np.zeros(e, RESULT),
        final_candidates=np.zeros((e, actions, f), np.float32),
        final_context=np.zeros((e, g), np.float32),
        final_mask=np.zeros((e, actions), np.bool_),
    )
