from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numba
import numpy as np
import pytest

import shunter.envs  # noqa: F401 - registers the environment
from shunter.envs.gym.scheduling import SchedulingEnv
from shunter.envs.gym.vector import SchedulingVectorEnv
from shunter.envs.sim import batch as batches
from shunter.envs.world.world import World
from shunter.errors import InputError
from tests.envs.test_vector import changed


def chosen(env: Any, number: int) -> Any:
    """Some legal action in each environment: a function of where it stands."""
    masks = np.atleast_2d(env.action_masks())
    actions = np.array([np.flatnonzero(mask)[number % int(mask.sum())] for mask in masks])
    return actions if hasattr(env, "num_envs") else actions[0]


def go_on(env: Any, steps: int, first: int = 0) -> list[Any]:
    """What comes of so many steps; episodes that end are followed by others."""
    trail: list[Any] = []
    for number in range(first, first + steps):
        out = env.step(chosen(env, number))
        trail.append(copy.deepcopy(out))
        if not hasattr(env, "num_envs") and (out[2] or out[3]):
            trail.append(copy.deepcopy(env.reset()))
    return trail


def through_pickle(env: Any) -> Any:
    return pickle.loads(pickle.dumps(env))


MAKE: dict[str, Callable[..., Any]] = {
    "single": lambda world, **more: SchedulingEnv(world=world, **more),
    "vector": lambda world, **more: SchedulingVectorEnv(3, world=world, **more),
    "threads": lambda world, **more: SchedulingVectorEnv(3, world=world, threads=2, **more),
}
COPY: dict[str, Callable[[Any], Any]] = {"deepcopy": copy.deepcopy, "pickle": through_pickle}


@pytest.mark.parametrize("how", COPY)
@pytest.mark.parametrize("face", MAKE)
def test_copies_at_any_time_go_on_alike(fake_world: World, face: str, how: str) -> None:
    env = MAKE[face](changed(fake_world, requests=12), noise=True)
    untouched = COPY[how](env)
    env.reset(seed=4)
    untouched.reset(seed=4)
    for at in (0, 1, 37, 80):  # over the ends of episodes
        twin = COPY[how](env)
        np.testing.assert_array_equal(twin.action_masks(), env.action_masks())
        expected = go_on(twin, 50, first=at)
        twin.close()
        np.testing.assert_equal(go_on(env, 50, first=at), expected)
        np.testing.assert_equal(go_on(untouched, 50, first=at), expected)
    if face == "single":  # without a seed, random numbers go on alike too
        twin = COPY[how](env)
        np.testing.assert_equal(twin.reset()[0], env.reset()[0])
    env.close()
    untouched.close()


@pytest.mark.parametrize("face", ["single", "vector"])
def test_one_goes_back_to_a_state_as_often_as_one_likes(fake_world: World, face: str) -> None:
    env = MAKE[face](changed(fake_world, requests=30))
    env.reset(seed=1)
    go_on(env, 20)
    state = env.get_state()
    expected = go_on(env, 90)
    for _ in range(2):
        env.set_state(state)
        np.testing.assert_equal(go_on(env, 90), expected)
    other = MAKE[face](changed(fake_world, requests=30))  # one that was never reset
    other.set_state(pickle.loads(pickle.dumps(state)))
    np.testing.assert_equal(go_on(other, 90), expected)


def test_rings_that_run_dry_and_pools_that_grow_are_part_of_it(
    fake_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "SLOTS", 1)
    monkeypatch.setattr(batches, "RING", 3)
    env = SchedulingVectorEnv(2, world=changed(fake_world, requests=40))
    env.reset(seed=1)
    states, trail = [], []
    for number in range(150):
        states.append(env.get_state())
        trail += go_on(env, 1, first=number)
    sizes = {state.batch.state.slot.shape for state in states}
    assert len(sizes) > 1
    for number in (100, 0, 149, 50, 1):
        env.set_state(states[number])
        np.testing.assert_equal(go_on(env, 150 - number, first=number), trail[number:])


def test_an_ended_episode_stays_ended(fake_world: World) -> None:
    env = SchedulingEnv(world=changed(fake_world, requests=2))
    env.reset(seed=0)
    over = False
    while not over:
        _, _, over, _, _ = env.step(chosen(env, 0))
    state, twins = env.get_state(), [copy.deepcopy(env), through_pickle(env)]
    env.reset()
    env.set_state(state)
    for one in (env, *twins):
        with pytest.raises(gymnasium.error.ResetNeeded):
            one.step(0)
    np.testing.assert_equal([one.reset()[0] for one in twins], [env.reset()[0]] * 2)


def test_wrapped_environments_are_copied_whole(fake_world: World) -> None:
    env = gymnasium.make("shunter/Scheduling-v0", world=fake_world, max_episode_steps=9)
    env.reset(seed=0)
    for number in range(7):
        env.step(chosen(env.unwrapped, number))
    for twin in (copy.deepcopy(env), through_pickle(env)):
        assert [twin.step(chosen(twin.unwrapped, 0))[3] for _ in range(2)] == [False, True]
    assert [env.step(chosen(env.unwrapped, 0))[3] for _ in range(2)] == [False, True]


def test_copies_share_the_world_and_nothing_else(fake_world: World) -> None:
    env = SchedulingVectorEnv(2, world=fake_world)
    env.reset(seed=0)
    twin, loaded = copy.deepcopy(env), through_pickle(env)
    assert twin.world is env.world
    for other in (twin, loaded):
        assert not any(
            np.shares_memory(a, b) for a, b in zip(env.batch.state, other.batch.state, strict=True)
        )
        # The compiled step looks at no types: they must be those that it was compiled for.
        for part in ("tables", "state", "out"):
            mine, theirs = (numba.typeof(getattr(one.batch, part)) for one in (env, other))
            assert mine == theirs


def test_a_copy_goes_on_alike_in_another_process(fake_world: World, tmp_path: Path) -> None:
    env = SchedulingEnv(world=fake_world)
    env.reset(seed=2)
    go_on(env, 30)
    (tmp_path / "env").write_bytes(pickle.dumps(env))
    code = (
        "import pickle, sys; from tests.envs.test_snapshots import go_on\n"
        "env = pickle.loads(open(sys.argv[1], 'rb').read())\n"
        "print(sum(step[1] for step in go_on(env, 30)).hex())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "env")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == sum(step[1] for step in go_on(env, 30)).hex()


def test_states_of_others_are_refused_and_change_nothing(fake_world: World) -> None:
    env = SchedulingEnv(world=fake_world)
    env.reset(seed=0)
    go_on(env, 10)
    before = pickle.dumps(env.batch.state)
    others: list[Any] = [
        SchedulingEnv(world=changed(fake_world, requests=7)),
        SchedulingEnv(world=fake_world, oracle=True),
        SchedulingEnv(world=fake_world, noise=True),
        SchedulingVectorEnv(1, world=fake_world),
        SchedulingVectorEnv(2, world=fake_world),
    ]
    for other in others:
        other.reset(seed=0)
    for wrong in (*(other.get_state() for other in others), None, {}, env.get_state().batch, b"state"):
        with pytest.raises(InputError, match="state must be from get_state of"):
            env.set_state(wrong)
    assert pickle.dumps(env.batch.state) == before


def test_sb3s_faces_can_be_copied(fake_world: World) -> None:
    module = pytest.importorskip("shunter.train.ppo.vec_env", reason="needs the extra train")
    env = module.SchedulingVecEnv(changed(fake_world, requests=20), 3)
    env.reset()
    go_on(env, 15)
    twins = [copy.deepcopy(env), through_pickle(env)]
    expected = go_on(env, 60)
    for twin in twins:
        np.testing.assert_equal(go_on(twin, 60), expected)
