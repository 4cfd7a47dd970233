from __future__ import annotations

import numpy as np
import pytest

from shunter.agents.average import averaged
from shunter.agents.learned import Arrays, LearnedPolicy, Prior, layer_shapes
from shunter.envs.features import CONTEXT_FEATURES, FEATURES
from shunter.errors import InputError


def network(width: int, seed: int) -> LearnedPolicy:
    rng = np.random.default_rng(seed)
    weights: Arrays = {}
    for name, (out, fan_in) in layer_shapes(width).items():
        weights[f"{name}.weight"] = rng.normal(0, fan_in**-0.5, (out, fan_in)).astype(np.float32)
        weights[f"{name}.bias"] = rng.normal(0, 1, out).astype(np.float32)
    weights["prior"] = np.array(Prior(), np.float32)
    return LearnedPolicy("net", weights, {})


def test_scores_are_the_mean_of_networks_of_any_width() -> None:
    policies = [network(4, 0), network(7, 1), network(5, 2)]
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
    other = network(4, 0)
    other = LearnedPolicy("net", {**other.weights, "prior": np.array(Prior(elsewhere=0), np.float32)}, {})
    with pytest.raises(InputError, match="rest on one prior"):
        averaged([network(4, 0), other])
