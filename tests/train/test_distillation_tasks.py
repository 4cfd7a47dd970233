from __future__ import annotations

import numpy as np

from shunter.agents.learned.base_policy import BasePolicy
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.learned.weights import untrained_weights
from shunter.envs.world.world import World
from shunter.train.distill.distillation_tasks import collect
from tests.networks import random_policy

UNTRAINED = LearnedPolicy("untrained", untrained_weights(BasePolicy()), {})


def test_what_is_shown_are_the_teachers_scores(fake_world: World) -> None:
    teacher = random_policy(1)
    shown = collect(fake_world, teacher, None, 200, episodes=4, seed=3)
    assert 100 < len(shown.context) <= 200
    scores = teacher.scores(shown.candidates, shown.context, shown.listed)
    np.testing.assert_allclose(np.where(shown.listed, shown.scores, -np.inf), scores, rtol=1e-5, atol=1e-5)
    assert shown.agrees.all()
    assert (shown.listed.sum(axis=1) > 1).all()


def test_the_student_makes_half_of_the_decisions(fake_world: World) -> None:
    teacher = random_policy(1)
    alone = collect(fake_world, teacher, None, 200, episodes=4, seed=3)
    again = collect(fake_world, teacher, None, 200, episodes=4, seed=3)
    followed = collect(fake_world, teacher, UNTRAINED, 200, episodes=4, seed=3)
    np.testing.assert_array_equal(alone.candidates, again.candidates)
    assert 0.1 < followed.agrees.mean() < 1.0
    count = min(len(alone.context), len(followed.context))
    assert not np.array_equal(alone.candidates[:count], followed.candidates[:count])
    own = UNTRAINED.scores(followed.candidates, followed.context, followed.listed).argmax(axis=1)
    theirs = np.where(followed.listed, followed.scores, -np.inf).argmax(axis=1)
    np.testing.assert_array_equal(followed.agrees, own == theirs)
