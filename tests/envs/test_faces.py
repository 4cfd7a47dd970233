"""The environment by its name: registration, options, modes, and what ``info`` says."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import shunter
from shunter.agents.heuristics.cost_greedy import CostGreedy
from shunter.envs.gym.flat import FlatSchedulingEnv
from shunter.envs.gym.multi import MultiSchedulingEnv
from shunter.envs.gym.scheduling import SchedulingEnv
from shunter.envs.gym.vector import SchedulingVectorEnv
from shunter.envs.scenario.scenario import Scenario, load_scenario
from shunter.envs.world.world import World, make_world
from shunter.errors import InputError, UnknownNameError
from shunter.models.performance import PerformanceModel
from shunter.registration import ENV_ID, FLAT_ENV_ID, MULTI_ENV_ID

IDS = [ENV_ID, FLAT_ENV_ID, MULTI_ENV_ID]
SMALL = "trivial-two-models"
policy = CostGreedy()


@pytest.fixture(scope="module")
def short(fake_world: World) -> World:
    return shortened(fake_world, 12)


def shortened(world: World, requests: int) -> World:
    workload = world.scenario.workload.model_copy(update={"requests": requests})
    return replace(world, scenario=world.scenario.model_copy(update={"workload": workload}))


def test_a_spec_with_a_scenario_s_data_goes_through_json() -> None:
    scenario = load_scenario(SMALL)
    env = gymnasium.make(ENV_ID, scenario=scenario.model_dump(mode="json"))
    assert env.spec is not None
    again = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
    by_object = gymnasium.make(ENV_ID, scenario=scenario)
    first, second, third = (e.reset(seed=3)[0] for e in (env, again, by_object))
    for key in first:
        np.testing.assert_array_equal(first[key], second[key])
        np.testing.assert_array_equal(first[key], third[key])
    with pytest.raises(InputError, match="scenario: like must not be given: there is no such key"):
        gymnasium.make(ENV_ID, scenario={**scenario.model_dump(mode="json"), "like": 1})


def test_a_scenario_that_there_is_none_of_is_told_as_it_was_given() -> None:
    for make in (gymnasium.make, gymnasium.make_vec):
        with pytest.raises(UnknownNameError, match=r"^scenario: unknown name 'lapto'; did you mean laptop"):
            make(ENV_ID, scenario="lapto")
        with pytest.raises(InputError, match=r"^scenario must be an existing YAML file .* Got 'no\.yaml'"):
            make(ENV_ID, scenario="no.yaml")


@pytest.mark.parametrize(
    "code",
    [
        "import shunter, gymnasium; ids = list(gymnasium.registry)",
        "import gymnasium, shunter; ids = list(gymnasium.registry)",
    ],
)
def test_importing_shunter_registers_whatever_is_imported_first(code: str) -> None:
    check = f"{code}\nassert {IDS} == [i for i in ids if i.startswith('shunter')], ids"
    subprocess.run([sys.executable, "-W", "error", "-c", check], check=True)


def test_the_module_may_be_named_with_the_id_in_workers_of_gymnasium() -> None:
    assert shunter.__version__
    env_fns = [lambda: gymnasium.make(f"shunter:{ENV_ID}", scenario=SMALL)]
    envs = gymnasium.vector.AsyncVectorEnv(env_fns, context="spawn")
    try:
        seen, info = envs.reset(seed=3)
        alone = gymnasium.make_vec(ENV_ID, 1, scenario=SMALL)
        mine, own = alone.reset(seed=[3])
        for key, array in mine.items():
            np.testing.assert_array_equal(seen[key], array)
        np.testing.assert_array_equal(info["action_mask"], own["action_mask"])
        envs.step(policy.act_batch(seen))
    finally:
        envs.close()


@pytest.mark.parametrize("name", [ENV_ID, FLAT_ENV_ID, MULTI_ENV_ID])
def test_gymnasiums_checker_passes_each(short: World, name: str) -> None:
    how: Any = {"worlds": [short]} if name == MULTI_ENV_ID else {"world": short}
    env = gymnasium.make(name, render_mode="ansi", **how).unwrapped
    check_env(env, skip_render_check=False)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"workload-seed": 7}, "options: unknown name 'workload-seed'; did you mean workload_seed"),
        ({"workload_seed": 7.9}, "integer from 0 to .* Got 7.9 instead"),
        ({"workload_seed": "7"}, "Got '7' instead"),
        ({"workload_seed": True}, "Got True instead"),
        ({"workload_seed": -1}, "Got -1 instead"),
        ({"workload_seed": 2**63}, "Got 9223372036854775808 instead"),
        ([7], r"options must be a mapping .* Got \[7\] instead"),
    ],
)
def test_options_are_refused_by_name(short: World, options: Any, says: str) -> None:
    for env in (
        SchedulingEnv(world=short),
        SchedulingVectorEnv(2, world=short),
        MultiSchedulingEnv(worlds=[short]),
    ):
        env.reset(seed=0)
        with pytest.raises(InputError, match=says):
            env.reset(options=options)


def test_options_are_honoured_whatever_integer_they_are(short: World) -> None:
    env = SchedulingEnv(world=short)
    starts = []
    for seed in (7, np.int64(7), np.uint8(7), 8):
        seen, _ = env.reset(options={"workload_seed": seed})
        times = []
        for _ in range(10):
            seen, *_, info = env.step(policy.act(seen))
            times.append(info["now_s"])
        starts.append(times)
    assert starts[0] == starts[1] == starts[2] != starts[3]
    assert env.reset(options={"workload_seed": None})[1]["requests_left"] == 12


def test_one_and_many_say_the_same(short: World) -> None:
    vector, single = SchedulingVectorEnv(2, world=short), SchedulingEnv(world=short)
    seen, info = vector.reset(seed=[5, 6])
    mine, own = single.reset(seed=6)
    ends = 0
    for _ in range(120):
        assert_same_info(info, own)
        assert mine["action_mask"].dtype == own["action_mask"].dtype == info["action_mask"].dtype == np.int8
        seen, _, terminated, truncated, info = vector.step(policy.act_batch(seen))
        mine, _, over, cut, own = single.step(policy.act(mine))
        assert (terminated[1], truncated[1]) == (over, cut)
        if over:
            ends += 1
            assert_same_info(info["final_info"], own)
            np.testing.assert_array_equal(info["finished"]["model"][1], own["finished"]["model"])
            mine, own = single.reset()
            own = {**own, **{key: info[key][1] for key in ("elapsed", "cost_request_s")}}
            own["finished"] = {key: values[1] for key, values in info["finished"].items()}
    assert ends > 1


def assert_same_info(info: dict[str, Any], own: dict[str, Any]) -> None:
    assert set(own) == {key for key in info if key[0] != "_" and not key.startswith("final")}
    assert all(info[f"_{key}"][1] for key in own)
    for key, value in own.items():
        if key == "finished":
            for name, array in value.items():
                np.testing.assert_array_equal(info[key][name][1], array)
        else:
            np.testing.assert_array_equal(info[key][1], value)


@pytest.mark.parametrize("preemption", ["save", "drain"])
def test_every_request_is_told_once_when_it_finishes(
    fake_world: World, fake_performance: PerformanceModel, preemption: str
) -> None:
    data = fake_world.scenario.model_dump(mode="json")
    data["limits"]["preemption"] = preemption
    world = make_world(Scenario.parse(data), fake_performance)
    env, drawn = SchedulingEnv(world=world), world.draw(4)
    rng = np.random.default_rng(0)
    _, info = env.reset(options={"workload_seed": 4})
    assert info["requests_left"] == 60
    told: list[tuple[Any, ...]] = []
    response_s, over = 0.0, False
    while not over:
        _, _, over, _, info = env.step(rng.choice(np.flatnonzero(info["action_mask"])))
        done = info["finished"]
        count = int((done["model"] >= 0).sum())
        assert (done["model"][:count] >= 0).all()
        assert all((values[count:] == 0).all() for key, values in done.items() if key != "model")
        fields = (done["arrival_s"], done["model"], done["prompt_tokens"], done["decode_tokens"])
        told += zip(*(values[:count].tolist() for values in fields), strict=True)
        response_s += done["response_s"].sum()
        assert (done["ttft_s"] <= done["response_s"]).all()
        assert len(told) == info["served"] == 60 - info["requests_left"]
        assert response_s == pytest.approx(info["response_s"])
    ours = zip((drawn.arrival_ns * 1e-9).tolist(), *(v.tolist() for v in drawn[1:]), strict=True)
    assert sorted(told) == sorted(ours)


def test_step_limits_truncate_as_gymnasiums_wrapper_does(short: World) -> None:
    vector = gymnasium.make_vec(ENV_ID, 2, world=short, max_episode_steps=9)
    single = gymnasium.make(ENV_ID, world=short, max_episode_steps=9)
    seen, _ = vector.reset(seed=[1, 2])
    mine, _ = single.reset(seed=2)
    for number in range(1, 28):
        seen, reward, over, cut, info = vector.step(policy.act_batch(seen))
        mine, own, ended, stopped, _ = single.step(policy.act(mine))
        assert (reward[1], over[1], cut[1]) == (own, ended, stopped)
        assert cut[1] == (number % 9 == 0)
        if cut[1]:
            assert info["final_info"]["decisions"][1] == 9
            for key, array in mine.items():
                np.testing.assert_array_equal(info["final_obs"][key][1], array)
            mine, _ = single.reset()
    for wrong in (0, True, 2.5):
        with pytest.raises(InputError, match="max_episode_steps must be"):
            SchedulingVectorEnv(1, world=short, max_episode_steps=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_autoreset_modes_are_those_of_gymnasiums_own_face(short: World, mode: AutoresetMode) -> None:
    ours = gymnasium.make_vec(ENV_ID, 3, world=short, autoreset_mode=mode)
    theirs = gymnasium.make_vec(
        ENV_ID, 3, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}, world=short
    )
    assert ours.metadata["autoreset_mode"] == mode
    seen, _ = ours.reset(seed=[1, 2, 3])
    theirs.reset(seed=[1, 2, 3])
    ends = 0
    for _ in range(150):
        actions = policy.act_batch(seen)
        seen, *mine, info = ours.step(actions)
        other, *own, _ = theirs.step(actions)
        over = mine[1] | mine[2]
        for a, b in zip(mine, own, strict=True):
            np.testing.assert_array_equal(a, b)
        for key, array in seen.items():
            np.testing.assert_array_equal(array, other[key])
        ends += over.sum()
        if mode == AutoresetMode.DISABLED and over.any():
            with pytest.raises(gymnasium.error.ResetNeeded, match=str(np.flatnonzero(over)[0])):
                ours.step(actions)
            kept = {key: array.copy() for key, array in seen.items()}
            seen, info = ours.reset(options={"reset_mask": over})
            other, _ = theirs.reset(options={"reset_mask": over})
            for key, array in seen.items():
                np.testing.assert_array_equal(array, other[key])
                np.testing.assert_array_equal(array[~over], kept[key][~over])
            assert (info["requests_left"][over] == 12).all()
    assert ends > 3


def test_words_for_modes_and_masks_are_checked(short: World) -> None:
    assert (
        SchedulingVectorEnv(1, world=short, autoreset_mode="NextStep").autoreset_mode
        is AutoresetMode.NEXT_STEP
    )
    with pytest.raises(UnknownNameError, match=r"autoreset_mode.*did you mean NextStep"):
        SchedulingVectorEnv(1, world=short, autoreset_mode="next-step")
    env = SchedulingVectorEnv(2, world=short)
    env.reset(seed=0)
    for mask in (np.ones(3, np.bool_), np.zeros(2, np.bool_), [True, False], np.ones(2)):
        with pytest.raises(InputError, match=r"reset_mask.* numpy array of bool of shape \(2,\)"):
            env.reset(options={"reset_mask": mask})


def test_many_are_rendered_one_by_one(short: World) -> None:
    envs = gymnasium.make_vec(ENV_ID, 2, world=short, render_mode="ansi")
    envs.reset(seed=0)
    texts = envs.render()
    assert texts is not None
    assert len(texts) == 2
    assert all("d0" in str(text) for text in texts)
    assert SchedulingVectorEnv(1, world=short).render() is None


def test_after_a_truncation_a_reset_is_needed(short: World) -> None:
    env = SchedulingEnv(world=replace(short, tables=short.tables.changed(max_time_ns=1)))
    seen, _ = env.reset(seed=0)
    cut = False
    while not cut:
        seen, _, _, cut, info = env.step(policy.act(seen))
    assert seen["candidates"].any()
    assert info["device"] == -1
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)


def test_flat_observations_are_normalised_and_tell_what_is_left(short: World) -> None:
    ours = gymnasium.make_vec(FLAT_ENV_ID, 2, world=short)
    one, plain = FlatSchedulingEnv(world=short), SchedulingEnv(world=short)
    seen, info = ours.reset(seed=[1, 2])
    mine, _ = one.reset(seed=2)
    dicts, _ = plain.reset(seed=2)
    width, ends, largest = short.actions, 0, 0.0
    for _ in range(80):
        assert ours.observation_space.contains(seen)
        np.testing.assert_array_equal(seen[1], mine)
        np.testing.assert_array_equal(mine[-1 - width : -1], info["action_mask"][1])
        assert mine[-1] == np.float32(info["requests_left"][1] / 12)
        largest = max(largest, dicts["candidates"].max())
        action = policy.act(dicts)
        seen, _, terminated, _, info = ours.step(np.array([width - 1, action]))
        mine, _, over, _, _ = one.step(action)
        dicts, *_ = plain.step(action)
        assert terminated[1] == over
        if over:
            np.testing.assert_array_equal(info["final_obs"][1], mine)
            assert mine[-1] == 0
            (mine, _), (dicts, _), ends = one.reset(), plain.reset(), ends + 1
    assert ends > 1
    assert largest > 1


@pytest.mark.parametrize("mode", AutoresetMode)
def test_environments_that_were_never_reset_are_named_and_begin_with_a_mask(
    short: World, mode: AutoresetMode
) -> None:
    def begun() -> SchedulingVectorEnv:
        env = SchedulingVectorEnv(3, world=short, autoreset_mode=mode)
        env.reset(seed=3, options={"reset_mask": np.array([False, True, False])})
        return env

    env, twin, whole = begun(), begun(), SchedulingVectorEnv(3, world=short)
    whole.reset(seed=3)
    np.testing.assert_array_equal(env.batch.state.ring[1], whole.batch.state.ring[1])
    with pytest.raises(gymnasium.error.ResetNeeded, match="no episode is under way in environments 0, 2"):
        env.step(env.action_masks().argmax(axis=1))
    for one in (env, twin):
        one.reset(options={"reset_mask": np.array([True, False, False])})
        one.reset(options={"reset_mask": np.array([False, False, True])})
    for _ in range(5):
        chosen = env.action_masks().argmax(axis=1)
        np.testing.assert_equal(env.step(chosen), twin.step(chosen))


def test_step_limits_of_many_are_any_integer_that_has_room(short: World) -> None:
    assert SchedulingVectorEnv(1, world=short, max_episode_steps=np.int64(5)).batch.state.clock["most"] == 5
    with pytest.raises(InputError, match="max_episode_steps must be an integer of at least 1"):
        SchedulingVectorEnv(1, world=short, max_episode_steps=2**70)
