from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sb3_contrib", reason="needs the extra train")

from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3 import DQN

from shunter.agents.heuristics.cost_greedy import CostGreedy
from shunter.envs.gym.scheduling import SchedulingEnv
from shunter.envs.world.world import World
from shunter.train.ppo.vec_env import SchedulingVecEnv


def test_masks_reach_sb3_contrib(fake_world: World) -> None:
    env = SchedulingVecEnv(fake_world, 3)
    seen = env.reset()
    assert is_masking_supported(env)
    np.testing.assert_array_equal(get_action_masks(env), seen["action_mask"].astype(bool))


def test_it_is_the_gymnasium_environment_with_scaled_rewards(fake_world: World) -> None:
    env, single = SchedulingVecEnv(fake_world, 2, seed=4, reward_scale=0.5), SchedulingEnv(world=fake_world)
    seen = env.reset()
    mine, _ = single.reset(seed=4)
    done, ends = np.zeros(2, np.bool_), 0
    policy = CostGreedy()
    while not done[0]:
        np.testing.assert_array_equal(seen["candidates"][0], mine["candidates"])
        seen, rewards, done, infos = env.step(policy.act_batch(seen))
        mine, reward, over, _, info = single.step(policy.act(mine))
        assert rewards[0] == np.float32(reward * 0.5)
        assert infos[0]["elapsed"] == info["elapsed"]
        assert done[0] == over
    for key, last in infos[0]["terminal_observation"].items():
        np.testing.assert_array_equal(last, mine[key])
        ends += 1
    assert ends == 3
    assert infos[0]["TimeLimit.truncated"] is False


def test_observations_outlive_the_next_step(fake_world: World) -> None:
    env = SchedulingVecEnv(fake_world, 2)
    seen = env.reset()
    before = seen["candidates"].copy()
    after, *_ = env.step(seen["action_mask"].argmax(axis=1))
    np.testing.assert_array_equal(seen["candidates"], before)
    assert after["candidates"] is env.batch.out.candidates


@pytest.mark.parametrize("algorithm", [MaskablePPO, DQN])
def test_algorithms_run_on_it(fake_world: World, algorithm: type) -> None:
    env = SchedulingVecEnv(fake_world, 4)
    options = {"n_steps": 16, "batch_size": 16} if algorithm is MaskablePPO else {"learning_starts": 16}
    algorithm("MultiInputPolicy", env, seed=0, device="cpu", **options).learn(128)
    assert env.batch.state.clock["now_ns"].min() > 0
