"""Many seeds of one policy at once: the figures of ``simulate``, in a fraction of its time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shunter.agents.base import Policy, choose, decides_on_state, is_oracle
from shunter.agents.heuristics.compiled import play_rules, rule_vector
from shunter.agents.learned.compiled import make_scratch, play_batch
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.parameters import for_world
from shunter.envs.gym.checks import check_actions
from shunter.envs.gym.vector import observation
from shunter.envs.rules.objectives import accrued, charge_unserved
from shunter.envs.sim.batch import Noise
from shunter.envs.sim.kernel import begin_batch, make_outputs, step_batch
from shunter.envs.state.state import Requests, counted, grow_slots
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
    world: World,
    policy: Policy,
    seeds: Sequence[int],
    *,
    environments: int = ENVIRONMENTS,
    noise: Noise = False,
) -> Batched:
    """Runs a policy on every seed's requests; each figure is exactly that of ``simulate`` with the seed.

    Args:
        world: The compiled scenario.
        policy: Decides; one marked oracle sees true lengths.
        seeds: Seeds of the workloads.
        environments: How many episodes run side by side at most.
        noise: Whether durations differ from the predicted ones, as much as the prediction intervals say, by
            luck that is drawn for each seed and model: every policy has the same; ``drift``: devices are
            slower for stretches of time besides, see ``shunter.envs.rules.drift``.
    """
    frames: list[pd.DataFrame] = []
    counts: list[dict[str, int]] = []
    makespan_s: list[float] = []
    cost: list[float] = []
    for first in range(0, len(seeds), environments):
        part = seeds[first : first + environments]
        requests = [world.draw(seed) for seed in part]
        episodes = _Episodes(world, policy, requests, part if noise else (), drift=noise == "drift")
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

    Args:
        world: The compiled scenario.
        policy: Decides.
        requests: Requests of each episode.
        luck: A seed of the luck of durations for each episode; empty where they are as predicted.
        drift: Whether devices are slower for stretches of time.
    """

    def __init__(
        self,
        world: World,
        policy: Policy,
        requests: Sequence[Requests],
        luck: Sequence[int],
        *,
        drift: bool = False,
    ) -> None:
        self.world = world
        self.policy = policy = for_world(policy, world)
        self._on_state = policy if decides_on_state(policy) else None
        self.tables = world.tables.changed(oracle=int(is_oracle(policy)), max_time_ns=world.max_time_ns)
        self.state = world.states_of(requests, slots=SLOTS, luck=luck)
        self.state.clock["drift"] = int(drift)
        begin_batch(self.tables, self.state, np.ones(len(requests), np.bool_), len(luck) > 0)
        self.number = np.arange(len(requests))
        self._out = make_outputs(len(requests), world.actions)
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
        seen = {name: values[:n] for name, values in observation(self._out, copy=False).items()}
        if self._on_state is None:
            return self._checked(self.policy.act_batch(seen))
        chosen = np.zeros(n, np.int64)
        for e in range(n):
            device = int(self.state.clock["asking"][e, 0])
            one = {name: values[e] for name, values in seen.items()}
            chosen[e] = choose(self._on_state, self.world, self.state.of(e), device, one)
        return chosen

    def _checked(self, chosen: object) -> NDArray[np.int64]:
        return check_actions(
            chosen, (self._active,), self.world.actions, f"--policy: what {self.policy.name!r} chooses"
        )

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
