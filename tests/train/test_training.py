from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sb3_contrib", reason="needs the extra train")

import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import A2C, DQN
from stable_baselines3.common.vec_env import DummyVecEnv

from shunter.agents.heuristics.cost_greedy import CostGreedy
from shunter.agents.learned.base_policy import TUNED_COST_GREEDY, BasePolicy, base_scores, pruned
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.learned.weights import to_vector, untrained_weights, width_of
from shunter.envs.gym.scheduling import SchedulingEnv
from shunter.envs.world.world import World
from shunter.errors import InputError
from shunter.eval.execution.runs import simulate
from shunter.train.algorithms import train_policy
from shunter.train.ppo.buffer import DurationBuffer, RecordDurations, generalized_advantages
from shunter.train.ppo.network import LOGITS_PER_SCORE, CandidatePolicy, ScoringNetwork, _Repeated, _Softsign
from shunter.train.ppo.ppo import PpoTraining
from shunter.train.settings import VALIDATION_SEEDS, PpoSettings
from shunter.train.validation import PolicyValidation
from tests.agents.test_policies import observations
from tests.networks import random_policy


def test_advantages_by_hand_with_unequal_durations() -> None:
    rewards = np.array([[1.0], [2.0], [4.0]], np.float32)
    values = np.array([[10.0], [20.0], [30.0]], np.float32)
    discounts = np.array([[0.9], [0.5], [0.8]], np.float32)
    deltas = [1 + 0.9 * 20 - 10, 2 + 0.5 * 30 - 20, 4 + 0.8 * 40 - 30]
    traces = np.array([[0.7], [0.95], [0.1]], np.float32)
    third = deltas[2]
    second = deltas[1] + 0.5 * 0.95 * third
    first = deltas[0] + 0.9 * 0.7 * second
    got = generalized_advantages(
        rewards, values, np.array([40.0], np.float32), np.ones((3, 1), np.float32), discounts, traces
    )
    np.testing.assert_allclose(got[:, 0], [first, second, third], rtol=1e-6)


def test_an_episodes_end_stops_the_future() -> None:
    ones = np.ones((2, 1), np.float32)
    continues = np.array([[0.0], [1.0]], np.float32)
    got = generalized_advantages(ones, 0 * ones, np.array([5.0], np.float32), continues, 0.5 * ones, ones)
    np.testing.assert_allclose(got[:, 0], [1.0, 1 + 0.5 * 5])


def test_equal_discounts_are_sb3s_own_estimate(fake_world: World) -> None:
    buffers = []
    for cls in (DurationBuffer, DurationBuffer.__mro__[1]):
        env = SchedulingEnv(world=fake_world)
        buffer = cls(8, env.observation_space, env.action_space, gae_lambda=0.9, gamma=0.7, n_envs=2)
        rng = np.random.default_rng(0)
        buffer.rewards[:] = rng.normal(size=(8, 2))
        buffer.values[:] = rng.normal(size=(8, 2))
        buffer.episode_starts[:] = rng.random((8, 2)) < 0.3
        if isinstance(buffer, DurationBuffer):
            buffer.discounts[:] = 0.7
        buffer.compute_returns_and_advantage(torch.tensor([0.5, -0.5]), np.array([False, True]))
        buffers.append(buffer)
    ours, theirs = buffers
    np.testing.assert_allclose(ours.returns, theirs.returns, rtol=1e-5, atol=1e-6)
    normal = (theirs.advantages - theirs.advantages.mean()) / theirs.advantages.std()
    np.testing.assert_allclose(ours.advantages, normal, rtol=1e-4, atol=1e-5)


def test_advantages_are_normalised_for_each_world_by_itself(fake_world: World) -> None:
    env = SchedulingEnv(world=fake_world)
    buffer = DurationBuffer(8, env.observation_space, env.action_space, n_envs=4, worlds=2)
    buffer.rewards[:] = np.random.default_rng(0).normal(size=(8, 4)) * [1, 1, 100, 100]
    buffer.compute_returns_and_advantage(torch.zeros(4), np.zeros(4, bool))
    for world in (buffer.advantages[:, :2], buffer.advantages[:, 2:]):
        assert abs(world.mean()) < 1e-5
        assert world.std() == pytest.approx(1, abs=1e-4)


def test_torch_and_numpy_compute_the_same_logits(fake_world: World) -> None:
    torch.manual_seed(0)
    env = SchedulingEnv(world=fake_world)
    policy = CandidatePolicy(env.observation_space, env.action_space, lambda _: 1e-3, width=16)
    for parameter in policy.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    exported = LearnedPolicy("p", policy.mlp_extractor.exported(), {})
    for observation in observations(fake_world):
        tensors = {k: torch.as_tensor(v[None]) for k, v in observation.items()}
        legal = observation["action_mask"].astype(bool)
        prior = base_scores(observation["candidates"], BasePolicy())
        mask = pruned(observation["candidates"], observation["context"], legal, prior)
        tensors["action_mask"] = torch.as_tensor(mask[None].astype(np.int8))  # as WorldsVecEnv shows them
        with torch.no_grad():
            probabilities = policy.get_distribution(tensors, mask).distribution.probs[0].numpy()
        logits = exported.scores(observation["candidates"], observation["context"], mask)
        logits = np.where(mask, LOGITS_PER_SCORE * logits, -np.inf)
        expected = np.exp(logits - logits.max())
        np.testing.assert_allclose(probabilities, expected / expected.sum(), atol=1e-4)


def test_gradients_are_those_of_the_arithmetic() -> None:
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([2, 1, 4, 1, 3])
    torch.testing.assert_close(_Softsign.apply(x), torch.nn.functional.softsign(x))
    assert torch.autograd.gradcheck(_Softsign.apply, x)
    assert torch.autograd.gradcheck(lambda rows: _Repeated.apply(rows, lengths), x)


def test_an_export_reads_back_to_the_last_bit(fake_world: World) -> None:
    policy = random_policy(seed=1, width=16, prior=BasePolicy(load_weight=3.0))
    network = ScoringNetwork(fake_world.actions, 16)
    network.import_(policy.weights)
    exported = network.exported()
    assert exported.keys() == policy.weights.keys()
    for name, array in policy.weights.items():
        np.testing.assert_array_equal(exported[name], array)
        assert exported[name].dtype == np.float32


def test_a_policy_without_a_network_is_a_start_for_one_of_any_width(fake_world: World) -> None:
    start = random_policy(seed=1, width=0, prior=BasePolicy(load_weight=3.0))
    network = ScoringNetwork(fake_world.actions, 16)
    network.import_(random_policy(width=16).weights)
    network.import_(start.weights)
    begun = LearnedPolicy("begun", network.exported(), {})
    assert begun.width == 16
    for observation in observations(fake_world):
        seen = (observation[key] for key in ("candidates", "context", "action_mask"))
        candidates, context, mask = seen
        np.testing.assert_allclose(
            begun.scores(candidates, context, mask > 0), start.scores(candidates, context, mask > 0)
        )
    with pytest.raises(InputError, match=r"--from must have width 16, or no network\. Got 8"):
        network.import_(random_policy(width=8).weights)


def test_training_from_a_searched_policy_changes_its_linear_part(fake_world: World) -> None:
    settings = PpoSettings(
        steps=256, environments=2, rollout_steps=64, width=8, validate_every=1, validation_seeds=1
    )
    start = random_policy(scale=0.05, width=0)
    training = PpoTraining([fake_world], settings)
    training.begin_from(start)
    training.validate()
    training.segment()
    training.venv.close()
    trained = training.model.policy.mlp_extractor.exported()
    assert width_of(trained) == 8
    np.testing.assert_array_equal(trained["prior"], start.weights["prior"])
    assert not np.allclose(trained["linear"], start.weights["linear"])
    assert np.isfinite(to_vector(trained)).all()


def test_untrained_and_blind_to_other_devices_it_is_cost_greedy(fake_world: World) -> None:
    """Where copies count as much as in a training; of those that count less it would rather wait."""
    greedy = CostGreedy(
        TUNED_COST_GREEDY.load_weight, TUNED_COST_GREEDY.reload_weight, BasePolicy().copy_share
    )
    blind = BasePolicy(
        TUNED_COST_GREEDY.load_weight, TUNED_COST_GREEDY.reload_weight, BasePolicy().copy_share, elsewhere=0.0
    )
    untrained = LearnedPolicy("untrained", untrained_weights(blind), {})
    a, b = simulate(fake_world, untrained, 0), simulate(fake_world, greedy, 0)
    np.testing.assert_array_equal(a.requests.finish_s, b.requests.finish_s)


def test_training_is_the_same_for_the_same_seed_and_changes_the_weights(fake_world: World) -> None:
    settings = PpoSettings(
        steps=256, environments=2, rollout_steps=64, width=8, validate_every=1, warm_start=False
    )
    first, again = (
        train_policy([fake_world], settings),
        train_policy([fake_world], settings),
    )
    assert [c.ratio for c in first.curve] == [c.ratio for c in again.curve]
    for key, weights in first.policy.weights.items():
        np.testing.assert_array_equal(weights, again.policy.weights[key])
    untrained = LearnedPolicy("untrained", ScoringNetwork(fake_world.actions, 8).exported(), {})
    begun = PolicyValidation([fake_world], VALIDATION_SEEDS).ratio(untrained)
    assert first.curve[0].ratio == pytest.approx(begun)
    assert first.curve[-1].steps == 256
    assert min(c.ratio for c in first.curve) <= first.curve[0].ratio


def test_the_time_of_a_training_includes_that_of_what_it_started_from(fake_world: World) -> None:
    settings = PpoSettings(steps=128, environments=2, rollout_steps=64, width=8, validate_every=1)
    start = LearnedPolicy("start", ScoringNetwork(fake_world.actions, 8).exported(), {"elapsed_s": "1000.0"})
    trained = train_policy([fake_world], settings, start=start)
    assert float(trained.policy.metadata["elapsed_s"]) > 1000.0


def test_durations_reach_the_buffer(fake_world: World) -> None:
    venv = DummyVecEnv([lambda: SchedulingEnv(world=fake_world)])
    model = MaskablePPO(
        CandidatePolicy, venv, n_steps=32, batch_size=32, rollout_buffer_class=DurationBuffer, device="cpu"
    )
    model.learn(32, callback=RecordDurations(10.0, 5.0))
    discounts, traces = model.rollout_buffer.discounts, model.rollout_buffer.traces
    assert ((discounts > 0) & (discounts <= 1)).all()
    assert len(np.unique(discounts)) > 5
    np.testing.assert_allclose(traces, discounts**2, rtol=1e-5)


@pytest.mark.parametrize("algorithm", [A2C, DQN])
def test_algorithms_without_masks_run(fake_world: World, algorithm: type) -> None:
    env = SchedulingEnv(world=fake_world)
    algorithm("MultiInputPolicy", env, seed=0, device="cpu").learn(150)
    assert env.batch.state.counts["illegal_actions"][0, 0] > 0


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match="--steps must be greater than 0"):
        PpoSettings(steps=0)


def test_the_buffer_holds_what_was_decided_on(fake_world: World) -> None:
    settings = PpoSettings(
        steps=64, environments=2, rollout_steps=32, width=8, validate_every=1, validation_seeds=1
    )
    training = PpoTraining([fake_world], settings)
    training.validate()
    training.segment()
    buffer = training.model.rollout_buffer
    training.venv.close()
    masks = buffer.action_masks.reshape(-1, training.venv.action_space.n)
    actions = buffer.actions.reshape(-1).astype(int)
    assert masks[np.arange(len(actions)), actions].all()
    seen = buffer.observations["action_mask"].reshape(masks.shape)
    np.testing.assert_array_equal(seen > 0, masks > 0)
