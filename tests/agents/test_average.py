from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shunter.agents.learned.average import averaged
from shunter.agents.learned.base_policy import BasePolicy
from shunter.agents.learned.policy import LearnedPolicy
from shunter.envs.observation.features import CONTEXT_FEATURES, FEATURES
from shunter.errors import InputError
from tests.networks import random_policy


@pytest.mark.parametrize("widths", [(4, 7, 5), (4, 0, 5), (0, 0, 0)])
def test_scores_are_the_mean_of_policies_of_any_width(widths: tuple[int, ...]) -> None:
    policies = [random_policy(seed, width=width) for seed, width in enumerate(widths)]
    rng = np.random.default_rng(3)
    candidates = rng.exponential(size=(6, 9, len(FEATURES)))
    context = rng.exponential(size=(6, len(CONTEXT_FEATURES)))
    mask = rng.random((6, 9)) < 0.7
    mask[:, 0] = True
    each = np.array([policy.scores(candidates, context, mask) for policy in policies])
    together = averaged(policies)
    whole = together.scores(candidates, context, mask)
    assert together.width == sum(widths)
    assert np.isfinite(whole).any()
    np.testing.assert_allclose(whole, each.mean(0), rtol=1e-4, atol=1e-4)
    assert not np.allclose(whole, each[0])


def test_the_mean_is_a_policy_that_a_file_holds(tmp_path: Path) -> None:
    together = averaged([random_policy(0, width=4), random_policy(1, width=0)])
    together.save(tmp_path / "p.safetensors")
    again = LearnedPolicy.load(tmp_path / "p.safetensors")
    np.testing.assert_array_equal(again.vector, together.vector)


def test_networks_on_different_priors_have_no_mean() -> None:
    other = random_policy(prior=BasePolicy(elsewhere=0))
    with pytest.raises(InputError, match="rest on one prior"):
        averaged([random_policy(), other])
