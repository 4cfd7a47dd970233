"""Cost-greedy's rule in numpy and in compiled code is one."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from benchmarks.compiled_policy import drawn_observations
from shunter.agents.heuristics.cost_greedy import (
    CostGreedy,
    eviction_loss,
    greedy_choice,
    greedy_rate,
    greedy_score_of,
    loss_of,
    rate_of,
)
from shunter.agents.heuristics.rules import is_copy, second_copy
from shunter.agents.learned.base_policy import BasePolicy, base_scores
from shunter.agents.learned.compiled import prior_of

SEEN = drawn_observations(300, 8, seed=5)
ROWS = SEEN["candidates"].reshape(-1, SEEN["candidates"].shape[-1])
WEIGHTS = list(product((0.0, 1.0, 2.45), (0.0, 1.0, 19.9), (0.0, 0.3, 1.0)))


def test_what_is_drawn_reaches_every_case() -> None:
    assert second_copy(ROWS).sum() > 30
    assert (~second_copy(ROWS)).sum() > 100
    assert (greedy_rate(ROWS) > 0).sum() > 100
    assert len(np.unique(CostGreedy().scores(ROWS, ROWS, ROWS[:, 0] > 0))) > 1000


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.45])
def test_parts_are_equal_to_the_bit(weight: float) -> None:
    np.testing.assert_array_equal([rate_of(c, weight) for c in ROWS], greedy_rate(ROWS, weight))
    np.testing.assert_array_equal([loss_of(c, weight) for c in ROWS], eviction_loss(ROWS, weight))
    np.testing.assert_array_equal([is_copy(c) for c in ROWS], second_copy(ROWS))


@pytest.mark.parametrize("weights", WEIGHTS)
def test_scores_and_choices_are_equal_to_the_bit(weights: tuple[float, float, float]) -> None:
    policy = CostGreedy(*weights)
    scores = policy.scores(ROWS, ROWS, ROWS[:, 0] > 0)
    np.testing.assert_array_equal([greedy_score_of(c, *weights) for c in ROWS], scores)
    chosen = [
        greedy_choice(candidates, mask > 0, *weights)
        for candidates, mask in zip(SEEN["candidates"], SEEN["action_mask"], strict=True)
    ]
    np.testing.assert_array_equal(chosen, policy.act_batch(SEEN))


@pytest.mark.parametrize("elsewhere", [0.0, 1.0, 1.7])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_priors_are_equal_but_for_rounding(weights: tuple[float, float, float], elsewhere: float) -> None:
    prior = BasePolicy(*weights, elsewhere)
    compiled = [prior_of(c, np.array(prior)) for c in ROWS]
    np.testing.assert_allclose(compiled, base_scores(ROWS, prior), rtol=1e-12, atol=1e-12)
