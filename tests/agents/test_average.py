from __future__ import annotations

import numpy as np
import pytest

from shunter.agents.average import averaged
from shunter.agents.learned import Prior
from shunter.envs.features import CONTEXT_FEATURES, FEATURES
from shunter.errors import InputError
from tests.networks import random_policy


def test_scores_are_the_mean_of_networks_of_any_width() -> None:
    policies = [random_policy(seed, width=width) for seed, width in enumerate((4, 7, 5))]
    rng = np.random.default_rng(3)
    candidates = rng.exponential(size=(6, 9, len(FEATURES)))
    context = rng.exponential(size=(6, len(CONTEXT_FEATURES)))
    mask = rng.random((6, 9)) < 0.7
    mask[:, 0] = True
    each = np.array([policy.scores(candidates, context, mask) for policy in policies])
    whole = averaged(policies).scores(candidates, context, mask)
    assert np.isfinite(whole).any()
    np.testing.assert_allclose(whole, each.mean(0), rtol=1e-4, atol=1e-4)
    assert not np.allclose(whole, each[0])


def test_networks_on_different_priors_have_no_mean() -> None:
    other = random_policy(prior=Prior(elsewhere=0))
    with pytest.raises(InputError, match="rest on one prior"):
        averaged([random_policy(), other])
