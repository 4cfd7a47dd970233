from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sb3_contrib", reason="needs the extra train")

from shunter.agents.learned.base_policy import BasePolicy
from shunter.envs.workload.seed_ranges import SEED_RANGES
from shunter.envs.world.world import World
from shunter.eval.execution.batched import evaluate_batched
from shunter.train.algorithms import train_policy
from shunter.train.ppo.warm_start import HIGH, LOW, best_base_policy
from shunter.train.settings import PpoSettings
from tests.networks import random_policy


def response_s(world: World, prior: BasePolicy) -> float:
    policy = random_policy(scale=0.0, prior=prior)
    return float(evaluate_batched(world, policy, SEED_RANGES["prior"]).response_mean_s.mean())


def test_the_best_prior_is_no_worse_than_the_default_and_the_same_again(fake_world: World) -> None:
    worlds = [fake_world.at_rate(share * fake_world.rate_per_s) for share in (0.7, 1.0)]
    best = best_base_policy(worlds)
    assert best == best_base_policy(worlds)
    assert best == BasePolicy() or all(np.less_equal(LOW, best) & np.less_equal(best, HIGH))
    own, default = (np.prod([response_s(world, prior) for world in worlds]) for prior in (best, BasePolicy()))
    assert own <= default


def test_a_warm_start_keeps_its_prior_to_the_end(fake_world: World) -> None:
    settings = PpoSettings(steps=128, environments=2, rollout_steps=64, width=8, validation_seeds=2)
    trained = train_policy([fake_world], settings)
    assert trained.policy.prior == pytest.approx(best_base_policy([fake_world]))


def test_a_policy_to_start_from_brings_its_prior(fake_world: World) -> None:
    settings = PpoSettings(steps=128, environments=2, rollout_steps=64, width=8, validation_seeds=2)
    start = random_policy(prior=BasePolicy(load_weight=3.0))
    assert train_policy([fake_world], settings, start=start).policy.prior == start.prior
