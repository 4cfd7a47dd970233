from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest

from shunter.envs.gym.checker import BrokenEnvError, check_scheduling_env
from shunter.envs.gym.scheduling import SchedulingEnv
from shunter.envs.observation.features import FEATURES
from shunter.envs.world.world import World

AGE = FEATURES.index("oldest_age")


class Broken(gymnasium.Wrapper):  # type: ignore[type-arg]
    """Changes what it passes on."""

    def __init__(self, env: SchedulingEnv, spoil: Callable[[Broken, dict[str, Any]], None]) -> None:
        super().__init__(env)
        self.spoil = spoil
        self.resets = 0

    def reset(self, **kwargs: Any) -> Any:
        self.resets += 1
        observation, info = self.env.reset(**kwargs)
        self.spoil(self, observation)
        return observation, info

    def step(self, action: Any) -> Any:
        observation, *rest = self.env.step(action)
        self.spoil(self, observation)
        return observation, *rest


class Paying(Broken):
    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return observation, 1.0, *rest


class Backwards(Broken):
    def step(self, action: Any) -> Any:
        *rest, info = super().step(action)
        return *rest, {**info, "now_s": -1.0}


class NoMasks(gymnasium.Env):  # type: ignore[type-arg]
    def __init__(self, env: SchedulingEnv) -> None:
        self.env = env
        self.observation_space, self.action_space = env.observation_space, env.action_space

    def reset(self, **kwargs: Any) -> Any:
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> Any:
        return self.env.step(action)


def nothing(env: Broken, observation: dict[str, Any]) -> None:
    pass


def no_action(env: Broken, observation: dict[str, Any]) -> None:
    observation["action_mask"][:] = 0


def other_mask(env: Broken, observation: dict[str, Any]) -> None:
    observation["action_mask"][:] = 1


def negative_age(env: Broken, observation: dict[str, Any]) -> None:
    observation["candidates"][0, AGE] = -1


def not_a_number(env: Broken, observation: dict[str, Any]) -> None:
    observation["context"][1] = np.nan


def two_kinds(env: Broken, observation: dict[str, Any]) -> None:
    observation["candidates"][-1, :4] = 1


def restless(env: Broken, observation: dict[str, Any]) -> None:
    observation["context"][1] = env.resets


def telling(env: Broken, observation: dict[str, Any]) -> None:
    state = env.unwrapped.batch.state
    taken = state.clock["taken"][0, 0] % state.ring.shape[1]
    observation["context"][5] = state.ring["decode_tokens"][0, taken]


def squeezed(env: Broken) -> None:
    env.observation_space = gymnasium.spaces.Dict(
        {**env.observation_space.spaces, "context": gymnasium.spaces.Box(0, 1, (2,))}
    )


TABLE = [
    (no_action, "no action is legal at decision 0"),
    (other_mask, "action_masks() and the observation's action_mask differ at decision 0"),
    (negative_age, "feature oldest_age must lie between 0 and 1e+06. Got -1 at decision 0"),
    (not_a_number, "feature in_system must lie between 0 and 1e+06. Got nan at decision 0"),
    (two_kinds, "a legal candidate must be one of run, load, evict, wait, at decision 0"),
    (restless, "the same seed gave other context at decision 0"),
    (telling, "context depends on how long a request will be, at decision 1"),
]


@pytest.mark.parametrize(("spoil", "message"), TABLE, ids=[spoil.__name__ for spoil, _ in TABLE])
def test_a_broken_observation_is_named(fake_world: World, spoil: Any, message: str) -> None:
    with pytest.raises(BrokenEnvError) as caught:
        check_scheduling_env(Broken(SchedulingEnv(world=fake_world), spoil))
    assert str(caught.value) == message


def test_broken_rewards_and_clocks_are_named(fake_world: World) -> None:
    with pytest.raises(BrokenEnvError, match=r"rewards must be costs, .* Got 1.0 at decision 0"):
        check_scheduling_env(Paying(SchedulingEnv(world=fake_world), nothing))
    with pytest.raises(BrokenEnvError, match=r"time went back from [\d.]+ s to -1.0 s at decision 0"):
        check_scheduling_env(Backwards(SchedulingEnv(world=fake_world), nothing))


def test_broken_interfaces_are_named(fake_world: World) -> None:
    with pytest.raises(BrokenEnvError, match=r"^there is no action_masks\(\)$"):
        check_scheduling_env(NoMasks(SchedulingEnv(world=fake_world)))
    env = Broken(SchedulingEnv(world=fake_world), nothing)
    squeezed(env)
    with pytest.raises(BrokenEnvError, match=r"observation_space\['context'\] must have shape \(8,\)"):
        check_scheduling_env(env)
    with pytest.raises(BrokenEnvError, match="observation_space must be a Dict of action_mask, candidates"):
        check_scheduling_env(gymnasium.make("CartPole-v1"))


@pytest.mark.parametrize("options", [{}, {"oracle": True}, {"noise": True}, {"noise": "drift"}])
def test_ours_passes(fake_world: World, options: dict[str, bool]) -> None:
    check_scheduling_env(SchedulingEnv(world=fake_world, **options))
    check_scheduling_env(Broken(SchedulingEnv(world=fake_world, **options), nothing))
