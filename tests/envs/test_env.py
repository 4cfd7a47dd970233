from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import shunter.envs  # noqa: F401 - registers the environment
from shunter.envs.gym.scheduling import SchedulingEnv, empty_observation
from shunter.envs.observation.features import CONTEXT_TABLE, FEATURE_TABLE, FEATURES, feature_lines
from shunter.envs.observation.observe import observe
from shunter.envs.rules.candidates import is_legal
from shunter.envs.state.state import LOAD, counted, in_use
from shunter.envs.world.world import World, make_world
from shunter.models.performance import PerformanceModel
from tests import worlds


def legal_episode(env: SchedulingEnv, seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    trail: list[Any] = [observation]
    done = False
    while not done:
        action = rng.choice(np.flatnonzero(env.action_masks()))
        observation, reward, terminated, truncated, info = env.step(action)
        trail.append((observation, reward, info["now_s"]))
        done = terminated or truncated
    return trail


def assert_same(a: Any, b: Any) -> None:
    for x, y in zip(a, b, strict=True):
        np.testing.assert_equal(x, y)


def test_gymnasium_makes_it_by_name(fake_world: World) -> None:
    env = gymnasium.make("shunter/Scheduling-v0", world=fake_world)
    observation, info = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    np.testing.assert_array_equal(info["action_mask"], observation["action_mask"])


def test_gymnasiums_checker(fake_world: World) -> None:
    env = gymnasium.make("shunter/Scheduling-v0", world=fake_world, render_mode="ansi").unwrapped
    check_env(env, skip_render_check=False)


# Advice for sb3's stock policies; ours scores rows of candidates, so the table keeps its shape.
@pytest.mark.filterwarnings("ignore:Your observation candidates has an unconventional shape")
def test_sb3s_checker(fake_world: World) -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    checker.check_env(SchedulingEnv(world=fake_world))


def test_an_episode_is_the_same_for_the_same_seed(fake_world: World) -> None:
    env, other = SchedulingEnv(world=fake_world), SchedulingEnv(world=fake_world)
    assert_same(legal_episode(env, 5), legal_episode(other, 5))
    assert_same(legal_episode(env, 5), legal_episode(other, 5))


def test_every_request_is_served_and_the_return_is_the_sum_of_response_times(fake_world: World) -> None:
    env = SchedulingEnv(world=fake_world)
    trail = legal_episode(env, 1)
    state = env.batch.state.of(0)
    assert state.clock["served"][0] == fake_world.scenario.workload.requests
    assert state.model["queue_length"].sum() == 0
    assert state.clock["in_system"][0] == 0
    assert not in_use(state).any()
    response_s = state.clock["response_ns"][0] * 1e-9
    total = -sum(reward for _, reward, _ in trail[1:]) * fake_world.time_scale_s
    assert total == pytest.approx(response_s, rel=1e-9)


def test_memory_stays_within_the_budget_and_the_clock_never_goes_back(fake_world: World) -> None:
    env = SchedulingEnv(world=fake_world)
    rng = np.random.default_rng(3)
    tables = fake_world.tables
    env.reset(seed=3)
    done, now_ns = False, 0
    while not done:
        _, _, done, _, _ = env.step(rng.choice(np.flatnonzero(env.action_masks())))
        for d in range(fake_world.devices):
            state = env.batch.state.of(0)
            resident, device = state.place["resident"][d], state.device[d]
            loading = device["op_kind"] == LOAD
            held = sum(tables.footprint_bytes[d, m, level] for m, level in enumerate(resident) if level >= 0)
            if loading:
                held += tables.footprint_bytes[d, device["op_model"], device["op_level"]]
            assert held <= tables.capacity_bytes[d]
        assert env.batch.state.clock["now_ns"][0, 0] >= now_ns
        now_ns = int(env.batch.state.clock["now_ns"][0, 0])


def test_illegal_actions_wait_and_are_counted(fake_world: World) -> None:
    env = SchedulingEnv(world=fake_world)
    env.reset(seed=0)
    evict_nobody = int(np.flatnonzero(~env.action_masks())[0])
    twin = SchedulingEnv(world=fake_world)
    twin.reset(seed=0)
    observation, reward, _, _, info = env.step(evict_nobody)
    waited, waited_reward, _, _, waited_info = twin.step(fake_world.actions - 1)
    assert info["illegal_actions"] == 1
    assert waited_info["illegal_actions"] == 0
    assert reward == waited_reward
    assert_same(observation.values(), waited.values())


def test_a_load_without_room_asks_for_evictions_until_it_fits(fake_world: World) -> None:
    env = SchedulingEnv(world=fake_world)
    env.reset(seed=0)
    levels = fake_world.levels[2]
    seen = False
    for step in range(60):
        mask = env.action_masks()
        loads = [a for a in (2 * levels, levels, 0) if mask[a]]
        observation, *_ = env.step(loads[step % len(loads)] if loads else int(np.flatnonzero(mask)[0]))
        if observation["context"][0] == 1:
            seen = True
            legal = np.flatnonzero(env.action_masks())
            assert (legal >= fake_world.models * levels).all()
            assert (legal < fake_world.actions - 1).all()
            assert (observation["candidates"][legal, FEATURES.index("is_evict")] == 1).all()
    assert seen


def test_no_feature_depends_on_decode_lengths_unless_for_an_oracle(fake_world: World) -> None:
    env, oracle = SchedulingEnv(world=fake_world), SchedulingEnv(world=fake_world, oracle=True)
    told = 0
    for seen in (env, oracle):
        seen.reset(seed=2)
        for _ in range(20):
            mine, longer = (empty_observation(fake_world.actions) for _ in range(2))
            state = seen.batch.state.of(0)
            for observation, extra in ((mine, 0), (longer, 1000)):
                state.slot["decode_tokens"] += extra
                state.place["stale"] = state.place["changed"] = 1
                mask = observation["action_mask"].view(np.bool_)
                parts = observation["candidates"], observation["context"], mask
                observe(seen.batch.tables, state, seen.device, *parts)
                state.slot["decode_tokens"] -= extra
            same = all(np.array_equal(mine[key], longer[key]) for key in mine)
            assert same or seen is oracle
            told += not same
            state.place["stale"] = state.place["changed"] = 1
            seen.step(int(np.flatnonzero(seen.action_masks())[0]))
    assert told > 0


def test_what_is_cached_for_observations_is_what_is_computed_anew(fake_world: World) -> None:
    env = SchedulingEnv(world=fake_world)
    seen, _ = env.reset(seed=4)
    rng, done = np.random.default_rng(4), False
    while not done:
        state, anew = env.batch.state.of(0), empty_observation(fake_world.actions)
        state.place["stale"] = state.place["changed"] = 1
        mask = anew["action_mask"].view(np.bool_)
        observe(env.batch.tables, state, env.device, anew["candidates"], anew["context"], mask)
        assert_same(seen.values(), anew.values())
        assert [is_legal(env.batch.tables, state, env.device, a) for a in range(len(mask))] == mask.tolist()
        for _ in range(10):
            seen, _, terminated, truncated, _ = env.step(rng.choice(np.flatnonzero(env.action_masks())))
            done = terminated or truncated
            if done:
                break


def test_the_docstring_has_the_table_of_features() -> None:
    lines = [line.strip() for line in (SchedulingEnv.__doc__ or "").splitlines()]
    table = feature_lines(FEATURE_TABLE) + feature_lines(CONTEXT_TABLE)
    assert [line for line in lines if line[:3].strip("| ").isdigit() or line[2:4].isdigit()] == table


def test_stepping_after_the_end_asks_for_a_reset(fake_world: World) -> None:
    env = SchedulingEnv(world=fake_world)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)
    legal_episode(env, 0)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)


def test_a_load_of_a_model_that_nobody_asked_for_is_legal_and_saves_its_time_later(fake_world: World) -> None:
    env = SchedulingEnv(world=fake_world)
    seen, _ = env.reset(seed=0)
    place = env.batch.state.place[0]
    idle = np.flatnonzero((seen["candidates"][:, 1] == 1) & (seen["candidates"][:, 5] == 0))
    assert seen["action_mask"][idle].all()
    model, level = divmod(int(idle[0]), fake_world.levels[2])
    env.step(idle[0])
    while place["resident"][0, model] < 0:
        env.step(fake_world.actions - 1)
    assert place["resident"][0, model] == level
    assert env.batch.state.counts["swaps"][0, 0] == 1


def test_rendering_names_devices_and_models(fake_world: World) -> None:
    env = SchedulingEnv(world=fake_world, render_mode="ansi")
    env.reset(seed=0)
    env.step(0)
    text = env.render()
    assert text is not None
    assert "d0" in text
    assert "small" in text


def test_an_engine_that_cannot_save_kv_recomputes(
    fake_checkpoints: dict[str, Path], fake_performance: PerformanceModel
) -> None:
    state = fake_performance.state_
    fits = tuple(fit for fit in state.fits if not fit.target.startswith("kv_"))
    forgetful = PerformanceModel()._set(state.model_copy(update={"fits": fits}))
    world = make_world(worlds.fake_scenario(fake_checkpoints), forgetful)
    assert not world.tables.kv_can_save.any()
    env = SchedulingEnv(world=world)
    legal_episode(env, 0)
    state = env.batch.state.of(0)
    assert state.clock["served"][0] == world.scenario.workload.requests
    assert counted(state.counts)["recomputed_tokens"] > 0
