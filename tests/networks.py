"""Policies that nobody trained."""

from __future__ import annotations

import numpy as np

from shunter.agents.learned.base_policy import BasePolicy
from shunter.agents.learned.inputs import INPUTS, KINDS
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.learned.weights import Arrays, layer_shapes


def random_policy(
    seed: int = 0, scale: float = 1.0, *, width: int = 8, prior: BasePolicy | None = None
) -> LearnedPolicy:
    """A policy with random weights; with a scale of 0 it decides as its prior does."""
    rng = np.random.default_rng(seed)
    linear = rng.normal(0, scale * INPUTS**-0.5, (len(KINDS), INPUTS))
    weights: Arrays = {
        "prior": np.array(prior or BasePolicy(), np.float32),
        "linear": linear.astype(np.float32),
    }
    for layer, (out, fan_in) in layer_shapes(width).items():
        weights[f"{layer}.weight"] = rng.normal(0, scale * fan_in**-0.5, (out, fan_in)).astype(np.float32)
        weights[f"{layer}.bias"] = rng.normal(0, scale, out).astype(np.float32)
    return LearnedPolicy("random-net", weights, {"scenario": "none"})
