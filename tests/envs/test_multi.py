"""Several scenarios as one environment."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest

import shunter  # noqa: F401 - registers the environments
from shunter.agents.heuristics.cost_greedy import CostGreedy
from shunter.envs.gym.multi import MultiSchedulingEnv
from shunter.envs.gym.scheduling import SchedulingEnv
from shunter.envs.scenario.scenario import Scenario
from shunter.envs.world.world import World, make_world
from shunter.errors import InputError, UnknownNameError
from shunter.models.performance import PerformanceModel
from shunter.registration import MULTI_ENV_ID
from tests.envs.test_faces import shortened

policy = CostGreedy()


@pytest.fixture(scope="module")
def short(fake_world: World) -> World:
    return shortened(fake_world, 12)


def test_a_multi_scenario_environment_plays_each_as_it_is_alone(
    short: World, fake_performance: PerformanceModel
) -> None:
    data = short.scenario.model_dump(mode="json")
    data.update(name="two", models=data["models"][:2])
    small = Scenario.parse(data)
    env = gymnasium.make(MULTI_ENV_ID, scenarios=[short.scenario, small], performance=fake_performance)
    alone = SchedulingEnv(small, fake_performance)
    actions = alone.world.actions
    seen, info = env.reset(seed=0, options={"scenario": "two", "workload_seed": 3})
    mine, _ = alone.reset(options={"workload_seed": 3})
    over = False
    while not over:
        assert env.observation_space.contains(seen)
        assert info["scenario"] == "two"
        np.testing.assert_array_equal(seen["candidates"][:actions], mine["candidates"])
        assert not seen["action_mask"][actions:].any()
        np.testing.assert_array_equal(env.get_wrapper_attr("action_masks")(), info["action_mask"])
        action = policy.act(mine)
        seen, reward, over, _, info = env.step(action)
        mine, own, *_ = alone.step(action)
        assert reward == own
    names = [env.reset(seed=0 if i == 0 else None)[1]["scenario"] for i in range(12)]
    assert set(names) == {"fake", "two"}
    assert names == [env.reset(seed=0 if i == 0 else None)[1]["scenario"] for i in range(12)]
    env.reset(options={"scenario": "two"})
    assert env.step(env.action_space.n - 1)[4]["illegal_actions"] == 1  # type: ignore[attr-defined]
    with pytest.raises(UnknownNameError, match="options\\['scenario'\\]"):
        env.reset(options={"scenario": "three"})
    with pytest.raises(InputError, match="scenarios must be a list"):
        gymnasium.make(MULTI_ENV_ID, scenarios="trivial-two-models")


def test_a_candidate_that_a_scenario_lacks_is_illegal_even_where_all_of_its_own_are_legal(
    fake_world: World, fake_performance: PerformanceModel
) -> None:
    data = fake_world.scenario.model_dump(mode="json")
    few = make_world(
        {**data, "name": "one", "models": [{**data["models"][0], "levels": ["all"]}]}, fake_performance
    )
    env = MultiSchedulingEnv(worlds=[few, fake_world], render_mode="ansi")
    _, info = env.reset(seed=0, options={"scenario": "one"})
    while not env.action_masks()[: few.actions].all():
        *_, info = env.step(int(np.flatnonzero(env.action_masks())[0]))
    illegal = info["illegal_actions"]
    *_, info = env.step(few.actions)
    assert info["illegal_actions"] == illegal + 1
    assert "chose no candidate" in str(env.render())


def test_a_multi_scenario_environment_goes_back_to_a_state_of_whatever_was_played(short: World) -> None:
    worlds = [short, replace(short, scenario=short.scenario.model_copy(update={"name": "other"}))]
    env = MultiSchedulingEnv(worlds=worlds)
    played = {}
    for name in env.names:
        env.reset(seed=5, options={"scenario": name})
        env.step(env.action_masks().argmax())
        played[name] = pickle.loads(pickle.dumps(env.get_state()))

    def on(name: str) -> list[Any]:
        env.set_state(played[name])
        return [env.step(env.action_masks().argmax()), env.reset(), env.reset()]

    first = {name: on(name) for name in env.names}
    assert {name: trail[0][4]["scenario"] for name, trail in first.items()} == {
        name: name for name in env.names
    }
    np.testing.assert_equal({name: on(name) for name in reversed(env.names)}, first)
    before = env.env
    for wrong in (None, env.env.get_state(), replace(played["other"], scenario="no such")):
        with pytest.raises(InputError, match="state must be from get_state of"):
            env.set_state(wrong)  # type: ignore[arg-type]
    assert env.env is before


@pytest.mark.parametrize(
    "given", [{"scenarios": 7}, {"scenarios": {"laptop": 1}}, {"worlds": []}, {"worlds": [7]}]
)
def test_what_is_no_list_of_scenarios_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"(scenarios|worlds?) must be a"):
        MultiSchedulingEnv(**given)


def test_a_reset_that_is_refused_draws_nothing(short: World) -> None:
    env = MultiSchedulingEnv(worlds=[short])
    env.reset(seed=1)
    before = env.np_random.bit_generator.state
    for name in ("no such", ["fake"], np.array(["fake", "fake"])):
        with pytest.raises(UnknownNameError, match="options\\['scenario'\\]"):
            env.reset(seed=2, options={"scenario": name})
    assert env.np_random.bit_generator.state == before
