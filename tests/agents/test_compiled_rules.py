from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from shunter.agents.heuristics.compiled import rule_choice, rule_vector
from shunter.agents.heuristics.cost_greedy import CostGreedy
from shunter.agents.parameters import Choice, Heuristic
from shunter.agents.registry import HEURISTICS, make_policy
from shunter.envs.world.world import World, make_world
from shunter.eval.execution.batched import evaluate_batched

SEEDS = (1, 2, 3)


class Compared:
    """Decides in Python, and holds the compiled choice against it at every decision."""

    def __init__(self, policy: Heuristic) -> None:
        self.inner, self.name, self.oracle = policy, policy.name, policy.oracle
        self.differ = self.decisions = 0

    def act(self, observation: dict[str, Any]) -> int:
        return int(self.act_batch({name: array[None] for name, array in observation.items()})[0])

    def act_batch(self, observations: dict[str, Any]) -> np.ndarray:
        chosen, vector = self.inner.act_batch(observations), rule_vector(self.inner)
        assert vector is not None
        for e, action in enumerate(chosen):
            candidates, context = observations["candidates"][e], observations["context"][e]
            mask = observations["action_mask"][e].astype(np.bool_)
            self.differ += int(rule_choice(vector, candidates, context, mask) != action)
            self.decisions += 1
        return chosen


@pytest.fixture(scope="module")
def world() -> World:
    small = make_world("two-gpu-unequal").at_load(0.9)
    workload = small.scenario.workload.model_copy(update={"requests": 60})
    return replace(small, scenario=small.scenario.model_copy(update={"workload": workload}))


def drawn(kind: type[Heuristic], seed: int) -> Heuristic:
    rng = np.random.default_rng(seed)
    values: dict[str, Any] = {}
    for name, space in kind.space().items():
        if isinstance(space, Choice):
            values[name] = space.options[rng.integers(len(space.options))]
        elif space.whole:
            values[name] = int(rng.integers(int(space.low), int(space.high) + 1))
        else:
            values[name] = float(rng.uniform(space.low, min(space.high, 10.0)))
    return kind(**values)


@pytest.mark.parametrize("name", HEURISTICS)
def test_compiled_heuristics_choose_as_their_scores_say(name: str, world: World) -> None:
    for policy in (HEURISTICS[name](), drawn(HEURISTICS[name], 1), drawn(HEURISTICS[name], 2)):
        compared = Compared(policy)
        slow, fast = evaluate_batched(world, compared, SEEDS), evaluate_batched(world, policy, SEEDS)
        assert compared.decisions > 500
        assert compared.differ == 0
        np.testing.assert_array_equal(slow.response_mean_s, fast.response_mean_s)
        assert slow.counts == fast.counts


def test_what_is_derived_from_a_heuristic_is_asked_itself() -> None:
    class Mine(CostGreedy):
        """Scores otherwise."""

    assert rule_vector(Mine()) is None
    assert rule_vector(make_policy("cost-greedy:load_weight=2")) is not None
