"""The prior that is best in some worlds: what a training may begin as, before anything is learned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import qmc

from shunter.agents.learned import LearnedPolicy, Prior
from shunter.agents.parameters import rounded
from shunter.envs.seed_ranges import SEED_RANGES
from shunter.envs.world import World
from shunter.train.network import ScoringNetwork
from shunter.train.selection import mean_responses

__all__ = ["best_prior"]

LOW, HIGH = Prior(0.5, 0.5, 0.02, 0.25), Prior(12.0, 50.0, 1.0, 4.0)
"""Between these a prior's numbers are drawn by their logarithms."""

DRAWS = 20
"""Besides the default."""

FINALISTS = 5
"""Of all that were played in one world on half of the seeds, how many are in all on all."""


def best_prior(worlds: Sequence[World]) -> Prior:
    """The prior with the lowest geometric mean of mean responses, of a Latin hypercube of them."""
    seeds = SEED_RANGES["tuning"]
    low, high = np.log(LOW), np.log(HIGH)
    shares = qmc.LatinHypercube(len(low), rng=np.random.default_rng(0)).random(DRAWS)
    drawn = np.exp(low + shares * (high - low))
    pool: list[Prior] = [Prior(), *(Prior(*map(rounded, row)) for row in drawn.tolist())]
    middle = worlds[len(worlds) // 2]
    first = [_log_response([middle], prior, seeds[: len(seeds) // 2]) for prior in pool]
    order: list[int] = np.argsort(first).tolist()
    finalists = [pool[i] for i in order[:FINALISTS]]
    scores = [_log_response(worlds, prior, seeds) for prior in finalists]
    return finalists[scores.index(min(scores))]


def _log_response(worlds: Sequence[World], prior: Prior, seeds: range) -> float:
    weights = {**ScoringNetwork(1, 1).exported(), "prior": np.array(prior, np.float32)}
    policy = LearnedPolicy("untrained", weights, {})
    means = mean_responses(worlds, policy, seeds).mean(axis=1)
    return float(np.log(np.nan_to_num(means, nan=np.inf)).mean())
