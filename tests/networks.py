"""Networks that nobody trained."""

from __future__ import annotations

import numpy as np

from shunter.agents.learned import Arrays, LearnedPolicy, Prior, layer_shapes


def random_network(width: int, seed: int, prior: Prior | None = None) -> LearnedPolicy:
    """A policy with random weights."""
    rng = np.random.default_rng(seed)
    weights: Arrays = {}
    for name, (out, fan_in) in layer_shapes(width).items():
        weights[f"{name}.weight"] = rng.normal(0, fan_in**-0.5, (out, fan_in)).astype(np.float32)
        weights[f"{name}.bias"] = rng.normal(0, 1, out).astype(np.float32)
    weights["prior"] = np.array(prior or Prior(), np.float32)
    return LearnedPolicy("net", weights, {})
