"""The prior that is best in some worlds: what a training may begin as, before anything is learned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import qmc

from shunter.agents.learned.base_policy import BasePolicy
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.learned.weights import untrained_weights
from shunter.agents.parameters import rounded
from shunter.envs.workload.seed_ranges import SEED_RANGES
from shunter.envs.world.world import World
from shunter.train.selection import log_mean_responses

LOW, HIGH = BasePolicy(0.5, 0.5, 0.02, 0.25), BasePolicy(12.0, 50.0, 1.0, 4.0)
"""Between these a prior's numbers are drawn by their logarithms."""

DRAWS = 20
"""Number of priors that are drawn."""

FIRST_SEEDS, FINALISTS = 4, 5
"""On how many seeds all are played in one world, and how many of them in all worlds on all seeds, where the
default is beside them: what is lucky on few requests would otherwise be chosen."""


def best_base_policy(worlds: Sequence[World]) -> BasePolicy:
    """The prior with the lowest geometric mean of mean responses: of a Latin hypercube, or the default."""
    seeds = SEED_RANGES["prior"]
    low, high = np.log(LOW), np.log(HIGH)
    shares = qmc.LatinHypercube(len(low), rng=np.random.default_rng(0)).random(DRAWS)
    drawn = [BasePolicy(*map(rounded, row)) for row in np.exp(low + shares * (high - low)).tolist()]
    middle = worlds[len(worlds) // 2]
    first = [_log_response([middle], prior, seeds[:FIRST_SEEDS]) for prior in drawn]
    finalists: list[BasePolicy] = [BasePolicy(), *(drawn[i] for i in np.argsort(first)[:FINALISTS].tolist())]
    scores = [_log_response(worlds, prior, seeds) for prior in finalists]
    return finalists[scores.index(min(scores))]


def _log_response(worlds: Sequence[World], prior: BasePolicy, seeds: range) -> float:
    policy = LearnedPolicy("untrained", untrained_weights(prior), {})
    return float(log_mean_responses(worlds, policy, seeds).mean())
