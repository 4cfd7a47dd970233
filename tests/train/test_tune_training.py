from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from shunter.envs.world.world import World
from shunter.errors import InputError
from shunter.train.algorithms import train_policy
from shunter.train.seeds import TrainingTasks
from shunter.train.settings import ALGORITHMS, EvolutionSettings, PpoSettings, TrainSettings
from shunter.train.tune.search import Tuned
from shunter.train.tune.training import TRAINING_SPACES, train_for_score, tune_training

SEARCH = EvolutionSettings(generations=10, pairs=6, episodes=2, validate_every=2, threads=1)
PPO = PpoSettings(
    steps=640,
    environments=2,
    rollout_steps=64,
    batch_size=64,
    width=8,
    epochs=2,
    validate_every=1,
    warm_start=False,
)


@pytest.fixture(params=[SEARCH, PPO], ids=list(ALGORITHMS))
def settings(request: pytest.FixtureRequest) -> TrainSettings:
    """Of a short training by each algorithm, with five validations besides the untrained policy's."""
    if request.param is PPO:
        pytest.importorskip("sb3_contrib", reason="needs the extra train")
    given: TrainSettings = request.param
    return given


def test_the_winner_trains_to_its_score(fake_world: World, tmp_path: Path, settings: TrainSettings) -> None:
    seen: list[int] = []
    storage = tmp_path / "tune.journal"

    def search(settings: TrainSettings, trials: int) -> Tuned:
        def told(name: str, done: int, best: float) -> None:
            seen.append(done)

        return tune_training([fake_world], settings, trials, storage=storage, on_trial=told)

    half, result = search(settings, 3), search(settings, 6)
    assert seen == list(range(1, 7))
    assert result.trials[:3].equals(half.trials)
    assert result.trials.policy[0].startswith(f"learning_rate={settings.learning_rate},")
    assert result.score <= result.default_score == half.default_score
    assert set(result.parameters) == set(TRAINING_SPACES[type(settings)])
    best = train_policy([fake_world], replace(settings, **result.parameters))
    assert min(point.ratio for point in best.curve) == pytest.approx(result.score)
    with pytest.raises(InputError, match="hold a search over the same"):
        search(replace(settings, width=16), 6)


def test_a_training_tells_its_validations_and_can_be_given_up(
    fake_world: World, settings: TrainSettings
) -> None:
    told: list[tuple[int, float]] = []

    def report(message: list[tuple[int, float]]) -> bool:
        told.extend(message)
        return len(told) == 3

    assert train_for_score(TrainingTasks([fake_world], []), report, settings) is None
    assert [step for step, _ in told] == [1, 2, 3]
    values = [value for _, value in told]
    assert values == sorted(values, reverse=True)
    curve = train_policy([fake_world], settings).curve
    assert values == [math.log(min(p.ratio for p in curve[1 : n + 2])) for n in range(3)]
