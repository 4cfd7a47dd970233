from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest

from shunter.agents.heuristics.cost_greedy import CostGreedy
from shunter.envs.gym.scheduling import SchedulingEnv
from shunter.envs.gym.vector import SchedulingVectorEnv
from shunter.envs.sim import batch as batches
from shunter.envs.sim.batch import Noise
from shunter.envs.world.world import World
from shunter.errors import InputError

KEYS = ("candidates", "context", "action_mask")


def changed(world: World, **limits: Any) -> World:
    scenario = world.scenario
    workload = scenario.workload.model_copy(update={"requests": limits.pop("requests", 25)})
    tables = world.tables
    if "max_time_s" in limits:
        tables = tables.changed(max_time_ns=round(limits["max_time_s"] * 1e9))
    return replace(world, scenario=scenario.model_copy(update={"workload": workload}), tables=tables)


def trail(env: SchedulingVectorEnv, steps: int, seed: Any = 3) -> list[dict[str, np.ndarray]]:
    """What random actions lead to, drawn for each environment apart from the others."""
    seen, _ = env.reset(seed=seed)
    rngs = [np.random.default_rng(e) for e in range(env.num_envs)]
    out = [{key: seen[key] for key in KEYS}]
    for _ in range(steps):
        legal = [np.flatnonzero(mask) for mask in seen["action_mask"]]
        actions = np.array([rng.choice(choices) for rng, choices in zip(rngs, legal, strict=True)])
        seen, reward, terminated, truncated, info = env.step(actions)
        more = {"reward": reward, "terminated": terminated, "truncated": truncated}
        out.append({**{key: seen[key] for key in KEYS}, **more, "elapsed": info["elapsed"]})
    return out


def first_arrivals(env: SchedulingVectorEnv, count: int = 10) -> np.ndarray:
    """When the first requests of each environment's episode arrive."""
    state = env.batch.state
    start = (state.clock["last"] - state.clock["length"]) + np.arange(count)
    return np.take_along_axis(state.ring["arrival_ns"], start % state.ring.shape[1], axis=1)


def assert_alike(a: list[dict[str, np.ndarray]], b: list[dict[str, np.ndarray]], envs: int) -> None:
    for x, y in zip(a, b, strict=True):
        for key in x:
            np.testing.assert_array_equal(x[key][:envs], y[key][:envs])


@pytest.mark.parametrize("noise", [False, True, "drift"])
def test_batch_size_and_threads_change_nothing(fake_world: World, noise: Noise) -> None:
    world = changed(fake_world)
    small = trail(SchedulingVectorEnv(3, world=world, noise=noise), 300)
    assert any(step["terminated"].any() for step in small[1:])
    assert_alike(small, trail(SchedulingVectorEnv(40, world=world, noise=noise), 300), 3)
    threaded = SchedulingVectorEnv(40, world=world, noise=noise, threads=2)
    assert_alike(small, trail(threaded, 300), 3)
    threaded.close()


def test_sizes_of_rings_and_pools_change_nothing(fake_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = changed(fake_world, requests=40)
    roomy = trail(SchedulingVectorEnv(4, world=world), 200)
    monkeypatch.setattr(batches, "SLOTS", 1)
    monkeypatch.setattr(batches, "RING", 3)
    tight = SchedulingVectorEnv(4, world=world)
    assert_alike(roomy, trail(tight, 200), 4)
    assert 1 < tight.batch.state.slot.shape[1] <= 64
    assert tight.batch.state.ring.shape[1] == 3


@pytest.mark.parametrize("max_time_s", [36_000.0, 1.5])
def test_an_environment_of_a_batch_is_the_single_one_with_its_seed(
    fake_world: World, max_time_s: float
) -> None:
    world = changed(fake_world, max_time_s=max_time_s)
    vector, single = SchedulingVectorEnv(2, world=world), SchedulingEnv(world=world)
    policy = CostGreedy()
    seen, _ = vector.reset(seed=[7, 8])
    mine, _ = single.reset(seed=8)
    ends = 0
    for _ in range(250):
        for key in KEYS:
            np.testing.assert_array_equal(seen[key][1], mine[key])
        seen, rewards, terminated, truncated, info = vector.step(policy.act_batch(seen))
        mine, reward, over, cut, _ = single.step(policy.act(mine))
        assert (rewards[1], terminated[1], truncated[1]) == (reward, over, cut)
        if over or cut:
            for key in KEYS:
                np.testing.assert_array_equal(info["final_obs"][key][1], mine[key])
            mine, _ = single.reset()
            ends += 1
    assert ends > 1


def test_gymnasium_makes_it_by_name_without_a_copy_if_asked(fake_world: World) -> None:
    made = gymnasium.make_vec(
        "shunter/Scheduling-v0", 4, vectorization_mode="vector_entry_point", world=fake_world, copy=False
    )
    env = made.unwrapped
    assert isinstance(env, SchedulingVectorEnv)
    seen, _ = made.reset(seed=0)
    assert seen["candidates"] is env.batch.out.candidates
    assert made.observation_space.contains(seen)
    before = seen["candidates"].copy()
    made.step(env.action_masks().argmax(axis=1))
    np.testing.assert_array_equal(seen["candidates"], before)
    np.testing.assert_array_equal(env.action_masks(), env.batch.out.mask)


def test_seeds_and_environments_have_requests_of_their_own(fake_world: World) -> None:
    env = SchedulingVectorEnv(3, world=fake_world)
    arrivals = []
    for seed in (0, 1, 0):
        env.reset(seed=seed)
        arrivals.append(first_arrivals(env))
    np.testing.assert_array_equal(arrivals[0], arrivals[2])
    assert len(np.unique(np.concatenate(arrivals[:2])[:, 0])) == 6
    env.reset()
    assert not np.isin(first_arrivals(env), arrivals[2]).any()


def test_named_workloads_are_the_same_everywhere(fake_world: World) -> None:
    env = SchedulingVectorEnv(2, world=fake_world)
    env.reset(seed=0, options={"workload_seed": 5})
    requests = fake_world.draw(5)
    for arrivals_ns in first_arrivals(env, 60):
        np.testing.assert_array_equal(arrivals_ns, requests.arrival_ns)


def test_memory_does_not_grow_with_the_requests_served(fake_world: World) -> None:
    world = changed(fake_world, requests=5000)
    env = SchedulingVectorEnv(1, world=world)
    policy, (seen, _) = CostGreedy(), env.reset(seed=0)
    terminated = np.zeros(1, np.bool_)
    while not terminated[0]:
        seen, _, terminated, _, info = env.step(policy.act_batch(seen))
    assert info["final_info"]["served"][0] == 5000
    assert sum(records.size for records in env.batch.state) < 2000


def test_noise_is_drawn_for_the_episode_and_features_stay_nominal(fake_world: World) -> None:
    plain, noisy = SchedulingEnv(world=fake_world), SchedulingEnv(world=fake_world, noise=True)
    (a, _), (b, _) = plain.reset(seed=0), noisy.reset(seed=0)
    for key in KEYS:
        np.testing.assert_array_equal(a[key], b[key])
    luck = noisy.batch.state.model["load_noise"][0].copy()
    assert len(np.unique(luck)) == fake_world.models
    noisy.reset()
    assert not np.isin(noisy.batch.state.model["load_noise"][0], luck).any()
    assert (plain.batch.state.model["load_noise"] == 0).all()
    loads = [int(np.flatnonzero(a["candidates"][:, 1])[0])] * 2
    ends = []
    for env, action in zip((plain, noisy), loads, strict=True):
        env.reset(seed=0)
        env.step(action)
        device = env.batch.state.device[0, 0]
        ends.append(device["op_end_ns"] - device["op_start_ns"])
    width = fake_world.tables.load_halfwidth[0, 0, 0]
    assert (ends[0] != ends[1]) == (width > 0)


@pytest.mark.parametrize("field", ["num_envs", "threads"])
def test_counts_must_be_positive(fake_world: World, field: str) -> None:
    with pytest.raises(InputError, match=f"{field} must be at least 1"):
        SchedulingVectorEnv(**{"world": fake_world, field: 0})
