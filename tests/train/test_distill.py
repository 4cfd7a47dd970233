from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("sb3_contrib", reason="needs the extra train")

from shunter.agents.learned import LearnedPolicy, Prior
from shunter.envs.world import World
from shunter.errors import InputError
from shunter.train.courses import at_rate
from shunter.train.distill import Lesson, Progress, distill
from shunter.train.settings import DistillSettings
from tests.networks import random_policy

SETTINGS = DistillSettings(width=16, rounds=2, environments=4, steps=150, passes=20, batch_size=64, threads=1)


def decided(seed: int) -> LearnedPolicy:
    """Decides otherwise than the prior does."""
    network = random_policy(seed)
    return LearnedPolicy(
        "net", {**network.weights, "score_2.weight": 100 * network.weights["score_2.weight"]}, {}
    )


def test_one_network_learns_what_two_decide_each_in_its_world(fake_world: World) -> None:
    busy = at_rate(fake_world, 2 * fake_world.rate_per_s)
    lessons = [Lesson(decided(1), fake_world), Lesson(decided(2), busy)]
    heard: list[Progress] = []
    student = distill(lessons, SETTINGS, heard.append)
    assert [at.passes for at in heard] == list(range(1, 2 * 20 + 1))
    assert math.isnan(heard[0].agreement)
    assert heard[-1].agreement > 0.9
    assert heard[-1].loss < heard[0].loss / 3
    again = distill(lessons, SETTINGS)
    for name, array in student.weights.items():
        np.testing.assert_array_equal(again.weights[name], array)


def test_teachers_may_rest_on_other_priors(fake_world: World) -> None:
    heard: list[Progress] = []
    teacher = random_policy(1, prior=Prior(load_weight=8.0, reload_weight=1.0, elsewhere=0.0))
    student = distill([Lesson(teacher, fake_world)], SETTINGS, heard.append)
    assert heard[-1].agreement > 0.9
    assert student.prior == pytest.approx(Prior())


def test_settings_have_ranges() -> None:
    with pytest.raises(InputError, match="--batch-size must be greater than 0"):
        replace(SETTINGS, batch_size=0)
