"""The guard: who has waited too long goes first, whatever the policy, in either mode."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.sim_worlds import synthetic_world
from shunter.agents.registry import make_policy
from shunter.envs.gym.scheduling import SchedulingEnv
from shunter.envs.observation.features import feature
from shunter.envs.rules.durations import fill_times
from shunter.envs.rules.dynamics import apply
from shunter.envs.rules.faults import fail
from shunter.envs.scenario.scenario import Scenario, load_scenario
from shunter.envs.state.records import FAR_NS
from shunter.envs.state.state import Requests, in_use
from shunter.envs.world.world import World, make_world
from shunter.errors import InputError
from shunter.eval.execution.runs import Run, simulate
from tests.fake_executor import execute
from tests.guarded import Watched
from tests.random_worlds import ByName, run_on, worlds

DEFAULT_POLICIES = ("cost-greedy", "sjf", "lru-keepalive", "random")
A_WHILE_S = 0.2
"""Prefills, restores and decisions of a turn in the worlds below."""


def one_at_a_time(models: int, guard_s: float | str = "off", max_batch: int = 4) -> World:
    """A device that holds any of its models, one at a time; loads take a second."""
    world = synthetic_world(models, 1, rate_per_s=0.2, requests=100, max_batch=max_batch)
    capacity = float(world.tables.capacity_bytes[0])
    shape = world.tables.load_s.shape
    top = np.zeros(shape, np.bool_)
    top[..., 0] = True
    tables = world.tables.changed(
        footprint_bytes=np.full(shape, 0.9 * capacity),
        level_ok=top,
        load_s=np.full(shape, 1.0),
        quantum_ns=round(0.5e9),
    )
    tables = tables._replace(step_s=np.full_like(tables.step_s, 0.02), prefill_s=tables.prefill_s * 0 + 0.01)
    return replace(world, tables=tables).with_guard(guard_s)


def arriving(*rows: tuple[float, int, int]) -> Requests:
    """Requests by arrival in seconds, model and decode tokens."""
    at_s, model, tokens = (np.array(column) for column in zip(*sorted(rows), strict=True))
    return Requests(np.round(at_s * 1e9).astype(np.int64), model, np.full(len(model), 64), tokens)


def waits_s(run: Run, model: str) -> pd.Series:
    requests = run.requests[run.requests.model == model]
    return requests.first_token_s - requests.arrival_s


@settings(max_examples=60, deadline=None)
@given(
    world=worlds(requests=24), seed=st.integers(0, 1000), name=st.sampled_from([*DEFAULT_POLICIES, "by-name"])
)
def test_in_random_worlds_every_decision_keeps_the_rule(world: World, seed: int, name: str) -> None:
    policy = ByName(world, seed) if name == "by-name" else make_policy(name)
    simulate(world, Watched(policy), seed)


@pytest.mark.parametrize("go", [simulate, execute])
@pytest.mark.parametrize("name", DEFAULT_POLICIES)
def test_simulator_and_executor_keep_the_same_rule(fake_world: World, go: Any, name: str) -> None:
    policy = Watched(make_policy(name))
    run = go(fake_world.with_guard(0.3), policy, 1)
    assert run.requests.finish_s.notna().all()
    assert policy.begun > 0


@pytest.mark.parametrize("name", ["cost-greedy", "sjf", "lru-keepalive", "fifo-collated:max_wait=1000"])
@pytest.mark.parametrize("guard_s", [10.0, 25.0])
def test_a_rare_model_beside_a_steady_one_waits_no_longer_than_the_bound(name: str, guard_s: float) -> None:
    steady = [(0.9 * k, 0, 60) for k in range(200)]
    rare = [(7.0 + 41.0 * k, 1, 80) for k in range(4)]
    world = one_at_a_time(2, guard_s)
    run = run_on(world, arriving(*steady, *rare), Watched(make_policy(name)))
    assert run.requests.finish_s.notna().all()
    quantum_s, swap_s = 0.5 + 0.02, float((world.tables.load_s + world.tables.unload_s).max())
    longest_s = guard_s + quantum_s + swap_s + A_WHILE_S
    assert waits_s(run, "m1").max() <= longest_s
    assert waits_s(run, "m0").max() <= longest_s + 80 * 0.02  # while the other is served


def test_without_it_the_rare_model_waits_longer() -> None:
    steady = [(0.9 * k, 0, 60) for k in range(200)]
    free = run_on(one_at_a_time(2), arriving(*steady, (7.0, 1, 80)), make_policy("sjf"))
    assert waits_s(free, "m1").max() > 30


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_of_two_who_waited_equally_long_the_first_to_arrive_is_served_first(order: tuple[int, int]) -> None:
    model = np.array([0] * 120 + [*order])
    arrival_ns = np.array([round(0.25e9 * k) for k in range(120)] + [round(1e9)] * 2)
    at = np.argsort(arrival_ns, kind="stable")
    requests = Requests(arrival_ns[at], model[at], np.full(122, 64), np.full(122, 60))
    policy = Watched(make_policy("sjf"))
    run = run_on(one_at_a_time(3, 4.0), requests, policy)
    first, second = (float(waits_s(run, f"m{m}").iloc[0]) for m in order)
    assert 4.0 < first < second
    assert policy.begun >= 2


def test_two_overdue_models_do_not_evict_each_other_before_they_served() -> None:
    """Whatever has arrived when a model's turn comes is served before anything else is loaded."""
    steady = [(0.25 * k, 0, 60) for k in range(240)]
    first, second = ([(1.0 + 0.3 * k + 0.1 * m, m, 60) for k in range(6)] for m in (1, 2))
    world = one_at_a_time(3, 4.0, max_batch=2)
    policy = Watched(make_policy("sjf"))
    run = run_on(world, arriving(*steady, *first, *second), policy)
    rows, requests = run.log.frame(), run.requests
    loads = rows[rows.operation == "load"].reset_index()
    turns = dict(
        zip(loads.model, zip(loads.decided_s, [*loads.decided_s[1:], np.inf], strict=True), strict=False)
    )
    for model in ("m1", "m2"):
        (begun_s, ended_s) = turns[model]
        assert (loads.model == model).sum() == 1
        own = requests[(requests.model == model) & (requests.arrival_s <= begun_s)]
        assert len(own) == 6
        assert (own.finish_s <= ended_s).all()
        inside = rows[(rows.decided_s > begun_s) & (rows.decided_s < ended_s) & (rows.operation == "run")]
        assert set(inside.model) == {model}
    assert policy.begun >= 2


@pytest.mark.parametrize("guard_s", [100.0, None])
def test_the_feature_says_how_much_of_the_guard_is_used(guard_s: float | None) -> None:
    env = SchedulingEnv(world=one_at_a_time(2).with_guard(guard_s))
    observation, info = env.reset(seed=0)
    for _ in range(3):
        observation, *_, info = env.step(env.world.actions - 1)
    state = env.batch.state.of(0)
    here, levels = state.slot[in_use(state)], env.world.levels[2]
    assert len(here)
    for m in np.unique(here["model"]):
        waited_s = info["now_s"] - here["arrival_ns"][here["model"] == m].min() * 1e-9
        used = observation["candidates"][m * levels, feature("guard_used")]
        assert used == pytest.approx(0.0 if guard_s is None else waited_s / guard_s, abs=1e-6)


def test_a_failed_device_loses_its_promotion() -> None:
    world = one_at_a_time(2, 0.5)
    env = SchedulingEnv(world=world)
    env.reset(seed=0)
    state = env.batch.state.of(0)
    while state.device["promoted_model"][0] < 0:
        legal = np.flatnonzero(env.action_masks())
        env.step(int(legal[-1]))
    device, tables = state.device[0], world.tables
    assert device["promoted_ns"] > 0
    fail(tables, state, 0, np.ones(2, np.bool_), 99)
    assert (device["promoted_model"], device["promoted_ns"]) == (-1, 0)
    env.reset(seed=1)
    assert state.device["promoted_model"][0] == -1


def test_a_promotion_begins_when_the_action_is_applied_and_not_before() -> None:
    env = SchedulingEnv(world=one_at_a_time(2, 3.0))
    env.reset(seed=0)
    state, tables = env.batch.state.of(0), env.world.tables
    while env.action_masks()[-1]:
        env.step(env.world.actions - 1)
    (action,) = np.flatnonzero(env.action_masks())
    assert state.device["promoted_model"][0] == -1
    assert apply(tables, state, 0, action)
    fill_times(tables, state, 0)
    assert state.device["promoted_model"][0] == action // 3
    assert state.device["promoted_ns"][0] == state.clock["now_ns"][0]


def test_the_default_follows_the_rate_and_what_was_asked_for_stays() -> None:
    world = make_world("paper-a6000")
    assert world.guard_s == pytest.approx(world.rotation.guard_s)
    assert world.guard_feasible
    slower, busier = (world.at_rate(factor * world.rate_per_s) for factor in (0.5, 1.2))
    assert slower.guard_s < world.guard_s < busier.guard_s
    assert world.at_load(0.9).guard_s == pytest.approx(world.at_rate(world.rate_at(0.9)).guard_s)
    fixed, off = world.with_guard(12), world.with_guard(None)
    assert (fixed.guard_s, fixed.at_rate(1.0).guard_s) == (12.0, 12.0)
    assert off.guard_s == off.at_rate(1.0).guard_s == np.inf
    assert off.tables.guard_ns[0] == FAR_NS
    assert off.with_guard("auto").guard_s == world.guard_s
    assert not world.at_rate(100.0).guard_feasible
    assert not world.with_guard(1.0).guard_feasible


def test_in_the_case_that_starved_the_default_bounds_the_wait() -> None:
    """Two models of 14 billion parameters, of which one fits; one is asked for 48 times as often."""
    models = [{"name": n, "catalog": n, "quantization": "Q8_0"} for n in ("Qwen2.5-14B", "Qwen3-14B")]
    workload = {"requests": 600, "rate_per_s": 1 / 2.5 + 1 / 120, "popularity_zipf": 5.585}
    scenario = Scenario.parse(
        {
            "name": "starving",
            "engine": "llama-cpp",
            "models": [{**m, "name": m["name"].lower()} for m in models],
            "devices": [{"name": "gpu0", "gpu": "RTX 4090"}],
            "workload": {**workload, "prompt_scale": 0.35, "decode_scale": 0.71},
            "limits": {"context_tokens": 2048},
        }
    )
    world = make_world(scenario)
    assert world.guard_feasible
    assert 20 < world.guard_s < 60
    run = simulate(world, make_policy("sjf"), 0)
    assert waits_s(run, "qwen3-14b").max() < world.guard_s + 10


@pytest.mark.parametrize("value", ["soon", 0, -3, True, float("nan"), float("inf"), None, 1e10])
def test_bad_values_are_refused_by_name(value: Any) -> None:
    data = load_scenario("laptop").model_dump(mode="json")
    data["limits"]["guard_s"] = value
    with pytest.raises(InputError, match=r"limits\.guard_s must be auto, off, or seconds above 0"):
        Scenario.parse(data)


@pytest.mark.parametrize(("given", "read"), [("auto", "auto"), ("off", "off"), (False, "off"), (7, 7.0)])
def test_values_survive_being_written_and_read(given: Any, read: Any) -> None:
    data = load_scenario("laptop").model_dump(mode="json")
    data["limits"]["guard_s"] = given
    scenario = Scenario.parse(data)
    assert scenario.limits.guard_s == read
    assert Scenario.parse(scenario.model_dump(mode="json")) == scenario


def test_a_guard_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="guard_s must be auto"):
        one_at_a_time(2).with_guard(-1.0)
