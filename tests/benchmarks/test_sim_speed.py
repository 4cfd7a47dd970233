from __future__ import annotations

import numpy as np

from benchmarks.sim_policies import cost_greedy, first_legal, random_legal
from benchmarks.sim_speed import Runner
from benchmarks.sim_worlds import synthetic_world
from shunter.agents.heuristics.cost_greedy import CostGreedy


def test_compiled_cost_greedy_is_the_policy_of_that_name() -> None:
    runner = Runner(synthetic_world(rate_per_s=0.5, requests=100), 8)
    for _ in range(100):
        out, actions = runner.out, np.zeros(8, np.int64)
        cost_greedy(out.candidates, out.mask, 0, actions)
        seen = {"candidates": out.candidates, "context": out.context, "action_mask": out.mask}
        np.testing.assert_array_equal(actions, CostGreedy().act_batch(seen))
        runner.run(3)


def test_compiled_policies_are_legal() -> None:
    for choose in (random_legal, first_legal, cost_greedy):
        runner = Runner(synthetic_world(8, 2, rate_per_s=0.5, requests=100), 8, choose)
        decisions, requests = runner.run(200)
        assert runner.batch.state.counts["illegal_actions"].sum() == 0
        assert decisions > 0
        assert requests > 0


def test_random_actions_differ() -> None:
    mask = np.ones((1000, 5), np.bool_)
    out = np.zeros(1000, np.int64)
    random_legal(np.zeros((1000, 5, 1), np.float32), mask, 1, out)
    assert (np.bincount(out, minlength=5) > 150).all()
