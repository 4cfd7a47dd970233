"""The environment under other people's wrappers and algorithms: the matrix of docs/environment.md.

Each trains for a moment on the smallest world. What ``.[dev]`` does not install is skipped, and says so.
"""

from __future__ import annotations

import importlib.util
import re
import runpy
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import vector

import shunter  # noqa: F401 - registers the environments
from shunter.envs.world.world import World
from shunter.registration import ENV_ID, FLAT_ENV_ID
from tests.envs.test_faces import shortened

SMALL = "trivial-two-models"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def short(fake_world: World) -> World:
    return shortened(fake_world, 12)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks so small are faster without help, by far where many tests run at once."""
    if importlib.util.find_spec("torch") is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


SINGLE: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "RecordEpisodeStatistics": (ENV_ID, wrappers.RecordEpisodeStatistics),
    "TimeLimit": (ENV_ID, partial(wrappers.TimeLimit, max_episode_steps=20)),
    "TimeAwareObservation": (ENV_ID, lambda env: wrappers.TimeAwareObservation(wrappers.TimeLimit(env, 20))),
    "FlattenObservation": (ENV_ID, wrappers.FlattenObservation),
    "FilterObservation": (ENV_ID, partial(wrappers.FilterObservation, filter_keys=["candidates"])),
    "Autoreset": (ENV_ID, wrappers.Autoreset),
    "NormalizeReward": (ENV_ID, wrappers.NormalizeReward),
    "ClipReward": (ENV_ID, partial(wrappers.ClipReward, min_reward=-1)),
    "NumpyToTorch": (ENV_ID, lambda env: _torch(wrappers, env)),
    "NormalizeObservation": (FLAT_ENV_ID, wrappers.NormalizeObservation),
    "FrameStackObservation": (FLAT_ENV_ID, partial(wrappers.FrameStackObservation, stack_size=3)),
    "RescaleObservation": (
        FLAT_ENV_ID,
        partial(wrappers.RescaleObservation, min_obs=np.float32(-1), max_obs=np.float32(1)),
    ),
    "DelayObservation": (FLAT_ENV_ID, partial(wrappers.DelayObservation, delay=2)),
}

MANY: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "RecordEpisodeStatistics": (ENV_ID, vector.RecordEpisodeStatistics),
    "DictInfoToList": (ENV_ID, vector.DictInfoToList),
    "NormalizeReward": (ENV_ID, vector.NormalizeReward),
    "ClipReward": (ENV_ID, partial(vector.ClipReward, min_reward=-1)),
    "FlattenObservation": (ENV_ID, vector.FlattenObservation),
    "NumpyToTorch": (ENV_ID, lambda env: _torch(vector, env)),
    "NormalizeObservation": (FLAT_ENV_ID, vector.NormalizeObservation),
}
ONLY_NEXT_STEP = {"FlattenObservation", "NormalizeObservation"}
"""Gymnasium's wrappers of observations refuse other modes: they would leave ``final_obs`` as it was."""


def _torch(module: Any, env: Any) -> Any:
    pytest.importorskip("torch", reason="needs the extra train")
    pytest.importorskip("array_api_compat", reason="gymnasium[torch] is not installed")
    return module.NumpyToTorch(env)


@pytest.mark.parametrize("name", SINGLE)
def test_gymnasiums_wrappers(short: World, name: str) -> None:
    env_id, wrap = SINGLE[name]
    env = wrap(gymnasium.make(env_id, world=short))
    env.action_space.seed(0)
    seen, info = env.reset(seed=0)
    over = False
    for _ in range(60):
        if over and name != "Autoreset":
            seen, info = env.reset()
        mask = np.asarray(info["action_mask"], np.int8)
        seen, _, terminated, truncated, info = env.step(env.action_space.sample(mask))
        if name != "NumpyToTorch":
            assert env.observation_space.contains(seen)
        over = terminated or truncated
        assert ("episode" in info) == (over and name == "RecordEpisodeStatistics")
    env.close()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("name", MANY)
def test_gymnasiums_vector_wrappers(short: World, name: str, mode: AutoresetMode) -> None:
    env_id, wrap = MANY[name]
    make = partial(gymnasium.make_vec, env_id, 2, world=short, autoreset_mode=mode, max_episode_steps=25)
    if mode is AutoresetMode.SAME_STEP and name in ONLY_NEXT_STEP:
        with pytest.raises(ValueError, match="autoreset_mode to be NEXT_STEP or DISABLED"):
            wrap(make())
        return
    env = wrap(make())
    seen, info = env.reset(seed=0)
    ends, told = 0, 0
    for _ in range(60):
        infos = info if isinstance(info, list) else [{"action_mask": m} for m in info["action_mask"]]
        actions = np.array([np.asarray(one["action_mask"]).argmax() for one in infos])
        seen, _, terminated, truncated, info = env.step(actions)
        if name != "NumpyToTorch":
            assert env.observation_space.contains(seen)
        ends += int((terminated | truncated).sum())
        told += int(info["_episode"].sum()) if "episode" in info else 0
    assert ends > 2
    assert told == (ends if name == "RecordEpisodeStatistics" else 0)
    env.close()


def test_the_pages_reward_is_a_wrapper_for_one_and_for_many(short: World) -> None:
    page = (ROOT / "docs" / "environment.md").read_text("utf-8")
    code = next(text for text in re.findall(r"```python\n(.*?)```", page, re.S) if "class Late" in text)
    names: dict[str, Any] = {}
    exec(code, names)
    assert len([line for line in code.split("class LateVector")[0].splitlines() if line.startswith(" ")]) <= 5
    one = names["Late"](gymnasium.make(ENV_ID, world=short))
    many = names["LateVector"](gymnasium.make_vec(ENV_ID, 2, world=short))
    _, info = one.reset(seed=1)
    many.reset(seed=[0, 1])
    total, late, over, rng = 0.0, 0, False, np.random.default_rng(0)
    while not over:
        action = int(rng.choice(np.flatnonzero(info["action_mask"])))
        _, reward, over, _, info = one.step(action)
        _, rewards, *_ = many.step(np.array([action, action]))
        assert rewards[1] == reward
        total += reward
        late += int((info["finished"]["response_s"] > 10).sum())
    assert total == -late < 0


def algorithms() -> dict[str, Callable[[Any], Any]]:
    pytest.importorskip("sb3_contrib", reason="needs the extra train")
    import sb3_contrib
    import stable_baselines3 as sb3
    from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

    on = {"n_steps": 32, "device": "cpu", "seed": 0}
    off = {"learning_starts": 32, "buffer_size": 500, "device": "cpu", "seed": 0}
    small = {"batch_size": 32, "n_epochs": 1}
    memory = {"policy_kwargs": {"lstm_hidden_size": 16}}
    return {
        "PPO": lambda env: sb3.PPO("MlpPolicy", env, **on, **small),
        "A2C": lambda env: sb3.A2C("MlpPolicy", env, **on),
        "DQN": lambda env: sb3.DQN("MlpPolicy", env, **off),
        "QRDQN": lambda env: sb3_contrib.QRDQN("MlpPolicy", env, **off),
        "MaskablePPO": lambda env: sb3_contrib.MaskablePPO("MlpPolicy", env, **on, **small),
        "RecurrentPPO": lambda env: sb3_contrib.RecurrentPPO("MlpLstmPolicy", env, **on, **small, **memory),
        "VecNormalize": lambda env: sb3.PPO("MlpPolicy", VecNormalize(env), **on, **small),
        "VecFrameStack": lambda env: sb3.PPO("MlpPolicy", VecFrameStack(env, 2), **on, **small),
    }


SB3 = ["PPO", "A2C", "DQN", "QRDQN", "MaskablePPO", "RecurrentPPO", "VecNormalize", "VecFrameStack"]


@pytest.mark.parametrize("name", SB3)
def test_stable_baselines3_and_contrib(short: World, name: str) -> None:
    make = algorithms()[name]
    from stable_baselines3.common.env_util import make_vec_env

    env = make_vec_env(FLAT_ENV_ID, 2, env_kwargs={"world": short, "render_mode": None})
    model = make(env).learn(128)
    assert model.num_timesteps >= 128
    illegal = [one.get_wrapper_attr("batch").state.counts["illegal_actions"].sum() for one in env.envs]
    assert (sum(illegal) == 0) == (name == "MaskablePPO")


def test_stable_baselines3_in_workers() -> None:
    algorithms()
    from sb3_contrib import MaskablePPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import SubprocVecEnv

    env = make_vec_env(
        f"shunter:{ENV_ID}",
        1,
        env_kwargs={"scenario": SMALL, "render_mode": None},
        vec_env_cls=SubprocVecEnv,
        vec_env_kwargs={"start_method": "spawn"},
    )
    try:
        model = MaskablePPO("MultiInputPolicy", env, n_steps=32, batch_size=32, device="cpu").learn(32)
        assert model.num_timesteps == 32
    finally:
        env.close()


@pytest.mark.parametrize("name", ["cleanrl_style_ppo", "cleanrl_style_dqn"])
def test_one_file_of_torch(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="needs the extra train")
    example = runpy.run_path(str(ROOT / "examples" / f"{name}.py"))
    mean_s = example["main"](4096)
    assert np.isfinite(mean_s)
    assert capsys.readouterr().out.splitlines()[-1] == f"mean response {mean_s:.2f} s"


@pytest.mark.filterwarnings("ignore")
def test_torchrl(short: World) -> None:
    pytest.importorskip("torchrl", reason="torchrl is not installed")
    import torch
    from tensordict.nn import TensorDictModule
    from torchrl.envs import ActionMask, GymWrapper, TransformedEnv, check_env_specs
    from torchrl.modules import MaskedCategorical, ProbabilisticActor

    check_env_specs(GymWrapper(gymnasium.make(ENV_ID, world=short)))
    one = gymnasium.make(FLAT_ENV_ID, world=short, max_episode_steps=100)
    check_env_specs(GymWrapper(one, categorical_action_encoding=True))
    plain = GymWrapper(gymnasium.make(ENV_ID, world=short), categorical_action_encoding=True)
    env = TransformedEnv(plain, ActionMask(mask_key="action_mask"))
    check_env_specs(env)
    scorer = torch.nn.Linear(env.observation_spec["candidates"].shape[-1], 1)
    logits = TensorDictModule(
        lambda candidates, legal: (scorer(candidates).squeeze(-1), legal.bool()),
        in_keys=["candidates", "action_mask"],
        out_keys=["logits", "mask"],
    )
    actor = ProbabilisticActor(
        logits,
        in_keys=["logits", "mask"],
        distribution_class=MaskedCategorical,
        return_log_prob=True,
    )
    optimizer = torch.optim.Adam(scorer.parameters())
    played = env.rollout(200, actor)
    before = scorer.weight.detach().clone()
    chosen = MaskedCategorical(
        logits=scorer(played["candidates"]).squeeze(-1), mask=played["action_mask"].bool()
    )
    gained = played["next", "reward"].flip(0).cumsum(0).flip(0).squeeze(-1)
    (-(chosen.log_prob(played["action"]) * gained).mean()).backward()
    optimizer.step()
    assert (scorer.weight != before).any()
    assert plain.unwrapped.batch.state.counts["illegal_actions"].sum() == 0


class Masked(gymnasium.ObservationWrapper):
    """Flat observations and the mask under the names that RLlib and Tianshou ask for."""

    def __init__(self, env: Any, features: str, mask: str) -> None:
        super().__init__(env)
        self.names, actions = (features, mask), int(env.action_space.n)
        legal = gymnasium.spaces.Box(0.0, 1.0, (actions,))
        self.observation_space = gymnasium.spaces.Dict({features: env.observation_space, mask: legal})

    def observation(self, observation: Any) -> Any:
        legal = self.env.get_wrapper_attr("action_masks")().astype(np.float32)
        return dict(zip(self.names, (observation, legal), strict=True))


@pytest.mark.filterwarnings("ignore")
def test_rllib_with_its_module_for_masks(short: World) -> None:
    pytest.importorskip("tree", reason="ray[rllib] is not installed")
    pytest.importorskip("ray.rllib", reason="ray[rllib] is not installed")
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.core.rl_module.rl_module import RLModuleSpec
    from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
    from ray.rllib.examples.rl_modules.classes.action_masking_rlm import ActionMaskingTorchRLModule
    from ray.tune.registry import register_env

    def make(_: Any) -> Any:
        return Masked(gymnasium.make(FLAT_ENV_ID, world=short), "observations", "action_mask")

    register_env("shunter-masked", make)
    config = (
        PPOConfig()
        .environment("shunter-masked")
        .env_runners(num_env_runners=0)
        .training(train_batch_size_per_learner=256, minibatch_size=128, num_epochs=1)
        .rl_module(rl_module_spec=RLModuleSpec(module_class=ActionMaskingTorchRLModule))
    )
    # What an iteration of the algorithm does, without the cluster that the algorithm itself starts.
    runner = SingleAgentEnvRunner(config=config)
    episodes = runner.sample(num_timesteps=256, random_actions=False)
    assert sum(len(episode) for episode in episodes) >= 256
    learner = config.build_learner(env=make(None))
    before = {name: values.copy() for name, values in _weights(learner).items()}
    learner.update(episodes=episodes)
    assert any((values != before[name]).any() for name, values in _weights(learner).items())
    infos = [info for episode in episodes for info in episode.get_infos()]
    assert len(infos) > 256
    assert all(info["illegal_actions"] == 0 for info in infos)


def _weights(learner: Any) -> dict[str, Any]:
    weights: dict[str, Any] = learner.module.get_state()["default_policy"]
    return weights


@pytest.mark.filterwarnings("ignore")
def test_tianshou(short: World) -> None:
    pytest.importorskip("tianshou", reason="tianshou is not installed")
    from tianshou.algorithm.algorithm_base import policy_within_training_step
    from tianshou.algorithm.modelfree.dqn import DQN, DiscreteQLearningPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Collector, VectorReplayBuffer
    from tianshou.env import DummyVectorEnv
    from tianshou.utils.net.common import Net

    made = [Masked(gymnasium.make(FLAT_ENV_ID, world=short), "obs", "mask") for _ in range(2)]
    envs = DummyVectorEnv([partial(_itself, env) for env in made])
    space = made[0].observation_space["obs"]  # type: ignore[index]
    actions = int(made[0].action_space.n)  # type: ignore[attr-defined]
    net = Net(state_shape=space.shape, action_shape=actions, hidden_sizes=[32])
    policy = DiscreteQLearningPolicy(model=net, action_space=made[0].action_space, eps_training=0.2)
    algorithm = DQN(policy=policy, optim=AdamOptimizerFactory(lr=1e-3))
    collector = Collector(algorithm, envs, VectorReplayBuffer(1000, 2), exploration_noise=True)
    collector.reset()
    collected = collector.collect(n_step=200)
    assert collected.n_collected_steps == 200
    before = [p.detach().clone() for p in net.parameters()]
    with policy_within_training_step(policy):
        algorithm.update(collector.buffer, 64)
    assert any((p != q).any() for p, q in zip(net.parameters(), before, strict=True))
    assert all(env.get_wrapper_attr("batch").state.counts["illegal_actions"] == 0 for env in made)


def _itself(env: Any) -> Any:
    return env
