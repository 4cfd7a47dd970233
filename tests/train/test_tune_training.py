from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("sb3_contrib", reason="needs the extra train")

from shunter.envs.world import World
from shunter.errors import InputError
from shunter.train.courses import make_course
from shunter.train.ppo import train_ppo
from shunter.train.search import Tuned
from shunter.train.settings import TrainSettings
from shunter.train.tune_training import TRAINING_SPACE, Shared, train_for_score, tune_training

SETTINGS = TrainSettings(
    steps=640,
    environments=2,
    rollout_steps=64,
    batch_size=64,
    width=8,
    epochs=2,
    validate_every=1,
    warm_start=False,
)


def test_the_winner_trains_to_its_score(fake_world: World, tmp_path: Path) -> None:
    seen: list[int] = []
    storage = tmp_path / "tune.journal"

    def search(settings: TrainSettings, trials: int) -> Tuned:
        def told(name: str, done: int, best: float) -> None:
            seen.append(done)

        return tune_training([fake_world], settings, trials, storage=storage, on_trial=told)

    half, result = search(SETTINGS, 3), search(SETTINGS, 6)
    assert seen == list(range(1, 7))
    assert result.trials[:3].equals(half.trials)
    assert result.trials.policy[0].startswith("learning_rate=0.001,")
    assert result.score <= result.default_score == half.default_score
    assert set(result.parameters) == set(TRAINING_SPACE)
    best = train_ppo([make_course(fake_world)], replace(SETTINGS, **result.parameters))
    assert min(point.ratio for point in best.curve) == pytest.approx(result.score)
    with pytest.raises(InputError, match="hold a search over the same"):
        search(replace(SETTINGS, width=16), 6)


def test_a_training_tells_its_validations_and_can_be_given_up(fake_world: World) -> None:
    shared = Shared([make_course(fake_world)], [])
    told: list[tuple[int, float]] = []

    def report(message: list[tuple[int, float]]) -> bool:
        told.extend(message)
        return len(told) == 3

    assert train_for_score(shared, report, SETTINGS) is None
    assert [step for step, _ in told] == [1, 2, 3]
    values = [value for _, value in told]
    assert values == sorted(values, reverse=True)
    curve = train_ppo(shared.courses, SETTINGS).curve
    assert values == [math.log(min(p.ratio for p in curve[1 : n + 2])) for n in range(3)]
