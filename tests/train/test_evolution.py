from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shunter.agents.learned.base_policy import BasePolicy
from shunter.agents.learned.compiled import LINEAR
from shunter.agents.learned.inputs import INPUTS, KINDS
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.learned.weights import from_vector, to_vector, untrained_weights
from shunter.envs.world.world import World
from shunter.errors import BrokenFileError, InputError
from shunter.train.algorithms import train_policy
from shunter.train.result import Curve
from shunter.train.search.checkpoint import read_search, write_search
from shunter.train.search.evolution import PRIOR_SIZE, Adam, Search, bound, free
from shunter.train.settings import EvolutionSettings, plain
from tests.networks import random_policy

SETTINGS = EvolutionSettings(
    generations=6, pairs=3, episodes=2, validate_every=2, validation_seeds=2, threads=1
)


def numbers(policy: LearnedPolicy) -> list[float]:
    return to_vector(policy.weights).tolist()


def test_adam_by_hand() -> None:
    adam = Adam(np.zeros(1), np.zeros(1))
    assert adam.step(np.array([3.0]), 1)[0] == pytest.approx(1.0)
    first, second = (0.9 * 0.1 * 3 + 0.1 * -1) / (1 - 0.9**2), (0.99 * 0.01 * 9 + 0.01) / (1 - 0.99**2)
    assert adam.step(np.array([-1.0]), 2)[0] == pytest.approx(first / second**0.5)


def test_what_is_searched_is_the_policy() -> None:
    vector = to_vector(random_policy(0, width=4, prior=BasePolicy(2.0, 3.0, 0.5, 1.5)).weights)
    np.testing.assert_allclose(bound(free(vector)), vector, rtol=1e-12)


def perturbations(shared: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Those of the linear weights, (count, kinds, inputs), and of all other numbers."""
    search = object.__new__(Search)
    search.settings, search.center = EvolutionSettings(shared=shared), np.zeros(PRIOR_SIZE + LINEAR + 5)
    noise = search.perturbations(np.random.default_rng(0), count)
    linear, rest = np.split(noise, [PRIOR_SIZE, PRIOR_SIZE + LINEAR], axis=1)[1::-1]
    others = np.concatenate([rest, noise[:, PRIOR_SIZE + LINEAR :]], axis=1)
    return linear.reshape(count, len(KINDS), INPUTS), others


@pytest.mark.parametrize("shared", [0.0, 0.3, 0.8, 1.0])
def test_kinds_are_perturbed_in_common_as_far_as_asked(shared: float) -> None:
    count = 4000
    linear, others = perturbations(shared, count)
    assert linear.mean() == pytest.approx(0.0, abs=0.01)
    assert linear.std(axis=0).mean() == pytest.approx(1.0, abs=0.01)
    for one, other in itertools.combinations(range(len(KINDS)), 2):
        together = (linear[:, one] * linear[:, other]).mean()
        assert together == pytest.approx(shared, abs=0.01)
    apart = (linear[:, :, 0] * linear[:, :, 1]).mean()
    assert apart == pytest.approx(0.0, abs=0.03)
    # All else stays its own, whatever is shared.
    np.testing.assert_array_equal(others, perturbations(0.0, count)[1])
    assert len(np.unique(linear)) == linear.size // (len(KINDS) if shared == 1.0 else 1)


def center(world: World, settings: EvolutionSettings, path: Path) -> list[float]:
    """Where a search has got to."""
    train_policy(world, settings, checkpoint=path)
    found: list[float] = read_search(path, plain(settings)).arrays["center"].tolist()
    return found


def test_with_nothing_of_their_own_all_kinds_keep_the_same_weights(fake_world: World, tmp_path: Path) -> None:
    def linear(shared: float) -> np.ndarray:
        settings = replace(SETTINGS, shared=shared, generations=2)
        found = np.array(center(fake_world, settings, tmp_path / str(shared)))
        return found[PRIOR_SIZE : PRIOR_SIZE + LINEAR].reshape(len(KINDS), INPUTS)

    one, own = linear(1.0), linear(0.0)
    assert one.any()
    np.testing.assert_array_equal(one, np.broadcast_to(one[:1], one.shape))
    assert (own != np.broadcast_to(own[:1], own.shape)).any()


def test_the_same_seed_finds_the_same_with_any_number_of_threads(fake_world: World, tmp_path: Path) -> None:
    one = center(fake_world, SETTINGS, tmp_path / "one")
    assert center(fake_world, replace(SETTINGS, threads=2), tmp_path / "two") == one
    assert center(fake_world, replace(SETTINGS, seed=1), tmp_path / "other") != one


def test_a_search_finds_what_the_prior_lacks(fake_world: World) -> None:
    """From numbers that hate loading, it learns within few generations that loading pays."""
    weights = untrained_weights(BasePolicy(load_weight=40.0))
    start = LearnedPolicy("stubborn", weights, {"elapsed_s": "1000.0"})
    settings = EvolutionSettings(generations=40, pairs=6, episodes=3, validate_every=10, threads=1)
    result = train_policy(fake_world, settings, start=start)
    assert min(point.ratio for point in result.curve) < 0.97 * result.curve[0].ratio
    assert float(result.policy.metadata["elapsed_s"]) > 1000.0
    assert result.policy.metadata["generations"] == "40"


def test_what_is_kept_is_the_best_validation(fake_world: World) -> None:
    result = train_policy(fake_world, replace(SETTINGS, learning_rate=5.0, validate_every=1))
    best = min(range(len(result.curve)), key=lambda i: result.curve[i].ratio)
    if best == 0:
        untrained = bound(free(to_vector(untrained_weights(BasePolicy()))))
        assert numbers(result.policy) == numbers(LearnedPolicy("p", from_vector(untrained), {}))
    assert float(result.policy.metadata["validation_ratio"]) == pytest.approx(
        result.curve[best].ratio, abs=1e-4
    )


def test_patience_ends_a_search_that_finds_nothing(fake_world: World) -> None:
    hopeless = replace(SETTINGS, generations=50, learning_rate=1e-9, validate_every=1, patience=2)
    assert len(train_policy(fake_world, hopeless).curve) <= 4


def test_minutes_become_generations(fake_world: World) -> None:
    done: list[float] = []
    settings = replace(SETTINGS, generations=0, minutes=1e-6)
    result = train_policy(fake_world, settings, on_progress=lambda share, point: done.append(share))
    assert len(done) == int(result.policy.metadata["generations"]) == 20
    assert done == sorted(done)
    assert done[-1] == 1.0


def test_a_resumed_search_is_the_uninterrupted_one(fake_world: World, tmp_path: Path) -> None:
    whole = train_policy(fake_world, SETTINGS, checkpoint=tmp_path / "whole")
    path = tmp_path / "cut"

    def stop(share: float, point: Curve) -> None:
        if share > 0.8:
            raise KeyboardInterrupt

    assert train_policy(fake_world, SETTINGS, checkpoint=path, on_progress=stop).interrupted
    resumed = train_policy(fake_world, SETTINGS, checkpoint=path)
    assert [(c.steps, c.ratio) for c in resumed.curve] == [(c.steps, c.ratio) for c in whole.curve]
    assert numbers(resumed.policy) == numbers(whole.policy)


def test_checkpoints_are_checked(fake_world: World, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    train_policy(fake_world, SETTINGS, checkpoint=path)
    with pytest.raises(InputError, match=r"--pairs must be that of the checkpoint .*, 3, to go on"):
        train_policy(fake_world, replace(SETTINGS, pairs=4), checkpoint=path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BrokenFileError, match="no safetensors file"):
        train_policy(fake_world, SETTINGS, checkpoint=path)


def test_what_is_no_state_of_this_search_is_refused(fake_world: World, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    train_policy(fake_world, SETTINGS, checkpoint=path)
    whole = path.read_bytes()
    changes: list[Callable[..., None]] = [
        lambda arrays, state: state.pop("width"),
        lambda arrays, state: state.update(curve=[]),
        lambda arrays, state: state.update(generation="many"),
        lambda arrays, state: arrays.update(best=arrays["best"][:-1]),
        lambda arrays, state: arrays["center"].fill(np.nan),
    ]
    for change in changes:
        path.write_bytes(whole)
        found = read_search(path, plain(SETTINGS))
        change(found.arrays, found.state)
        write_search(found, path)
        with pytest.raises(InputError, match="checkpoint: "):
            train_policy(fake_world, SETTINGS, checkpoint=path)


def test_a_checkpoint_of_before_kinds_shared_is_one_that_shared_nothing(
    fake_world: World, tmp_path: Path
) -> None:
    path, apart = tmp_path / "checkpoint", replace(SETTINGS, shared=0.0)
    train_policy(fake_world, apart, checkpoint=path)
    old = read_search(path, plain(apart))
    del old.state["settings"]["shared"]
    write_search(old, path)
    assert read_search(path, plain(apart)).state == old.state
    with pytest.raises(InputError, match=r"--shared must be that of the checkpoint .*, 0\.0, to go on"):
        train_policy(fake_world, SETTINGS, checkpoint=path)


def test_a_network_is_searched_and_may_be_begun_with(fake_world: World) -> None:
    wide = train_policy(fake_world, replace(SETTINGS, width=4)).policy
    assert wide.width == 4
    again = train_policy(fake_world, replace(SETTINGS, width=4), start=wide)
    assert again.policy.width == 4
    linear = train_policy(fake_world, SETTINGS).policy
    assert train_policy(fake_world, replace(SETTINGS, width=4), start=linear).policy.width == 4
    with pytest.raises(InputError, match=r"--from must have a network of width 8 or none\. Got 4"):
        train_policy(fake_world, replace(SETTINGS, width=8), start=wide)


def test_what_it_begins_with_may_bring_a_network_that_stays(fake_world: World, tmp_path: Path) -> None:
    start, path = random_policy(0, width=4), tmp_path / "checkpoint"
    settings = replace(SETTINGS, learning_rate=0.1, validation_seeds=1)
    whole = train_policy(fake_world, settings, start=start, checkpoint=path)
    for name, array in start.weights.items():
        if name not in ("prior", "linear"):
            np.testing.assert_array_equal(whole.policy.weights[name], array)
    again = train_policy(fake_world, settings, start=start, checkpoint=path)  # finished: only read
    assert numbers(again.policy) == numbers(whole.policy)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"minutes": 0.0}, "--minutes must be greater than 0"),
        ({"minutes": float("nan")}, "--minutes must be"),
        ({"minutes": float("inf")}, "--minutes must be"),
        ({"pairs": 0}, "--pairs must be greater than 0"),
        ({"shared": -0.1}, "--shared must be at least 0"),
        ({"shared": 1.1}, r"--shared must be at most 1\. Got 1\.1"),
        ({"shared": float("nan")}, "--shared must be finite"),
        ({"averaging": 1.0}, "--averaging must be less than 1"),
        ({"validation_seeds": 13}, "--validation-seeds must be at most 12"),
    ],
)
def test_settings_are_checked(changed: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SETTINGS, **changed)


def test_a_search_needs_no_torch() -> None:
    code = "import sys, shunter.train.search.evolution; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
