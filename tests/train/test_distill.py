from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("sb3_contrib", reason="needs the extra train")

from shunter.agents.learned.base_policy import BasePolicy
from shunter.agents.learned.policy import LearnedPolicy
from shunter.envs.world.world import World
from shunter.errors import InputError
from shunter.train.distill.distill import DistillationTask, Progress, distill
from shunter.train.settings import DistillSettings
from tests.networks import random_policy

SETTINGS = DistillSettings(
    width=16, rounds=2, decisions=2000, episodes=16, passes=12, batch_size=64, threads=1
)


def decided(seed: int) -> LearnedPolicy:
    """Decides otherwise than the prior does."""
    weights = random_policy(seed).weights
    louder = {"linear": 4 * weights["linear"], "score_2.weight": 40 * weights["score_2.weight"]}
    return LearnedPolicy("net", {**weights, **louder}, {})


def test_one_network_learns_what_two_decide_each_in_its_world(fake_world: World) -> None:
    busy = fake_world.at_rate(2 * fake_world.rate_per_s)
    distillation_tasks = [DistillationTask(decided(1), fake_world), DistillationTask(decided(2), busy)]
    heard: list[Progress] = []
    student = distill(distillation_tasks, SETTINGS, heard.append)
    assert [at.passes for at in heard] == list(range(1, 2 * 12 + 1))
    assert math.isnan(heard[0].agreement)
    assert heard[-1].agreement > 0.75  # where there is a choice
    assert heard[-1].loss < heard[0].loss / 1.5
    assert np.abs(student.weights["linear"]).max() > 0.01
    again = distill(distillation_tasks, SETTINGS)
    for name, array in student.weights.items():
        np.testing.assert_array_equal(again.weights[name], array)


def test_teachers_may_rest_on_other_priors(fake_world: World) -> None:
    heard: list[Progress] = []
    teacher = random_policy(1, prior=BasePolicy(load_weight=8.0, reload_weight=1.0, elsewhere=0.0))
    student = distill([DistillationTask(teacher, fake_world)], SETTINGS, heard.append)
    assert heard[-1].agreement > 0.9
    assert student.prior == pytest.approx(BasePolicy(8.0, 1.0, BasePolicy().copy_share, 1e-4))


def test_settings_have_ranges() -> None:
    with pytest.raises(InputError, match="--batch-size must be greater than 0"):
        replace(SETTINGS, batch_size=0)
