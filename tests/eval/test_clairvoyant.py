from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.instances import INSTANCES, small_world
from shunter.agents.registry import make_policy
from shunter.envs.state.state import Requests
from shunter.envs.world.world import World
from shunter.eval.bounds.clairvoyant import Plan, lower_bound_s, solve
from shunter.eval.execution.backends import SimulatedBackend
from shunter.eval.execution.runs import run_policy

NAMES = ["fifo-swap", "lru-keepalive", "cost-greedy"]


def response_s(world: World, requests: Requests, policy: Any) -> float:
    run = run_policy(
        world,
        requests,
        policy,
        seed=0,
        make_backend=lambda on_end: SimulatedBackend(world, requests, on_end),
        mode="simulated",
    )
    return float((run.requests.finish_s - run.requests.arrival_s).mean())


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    requests=st.integers(1, 25),
    models=st.integers(2, 4),
    devices=st.integers(1, 2),
    rate_per_s=st.sampled_from([0.05, 0.3, 5.0]),
)
def test_no_policy_is_below_the_bound(
    seed: int, requests: int, models: int, devices: int, rate_per_s: float
) -> None:
    world = small_world(models, devices, rate_per_s=rate_per_s, requests=requests)
    drawn = world.draw(seed)
    bound_s = lower_bound_s(world, drawn)
    found = solve(world, drawn, beam=3, max_nodes=200)
    costs = [response_s(world, drawn, make_policy(name)) for name in NAMES]
    assert 0 < bound_s <= found.bound_s * (1 + 1e-9)
    assert found.bound_s <= found.best_s
    assert bound_s <= min(costs)
    if found.optimal:
        assert found.best_s <= min(costs) * (1 + 1e-6)


def test_the_bound_holds_where_memory_is_ample_too(fake_world: World) -> None:
    for seed in range(5):
        drawn = fake_world.draw(seed)
        bound_s = lower_bound_s(fake_world, drawn)
        assert bound_s <= min(response_s(fake_world, drawn, make_policy(name)) for name in NAMES)


def test_the_bound_and_the_search_hold_where_models_sleep() -> None:
    world = small_world(3, 1, rate_per_s=0.3, requests=15)
    t = world.tables
    asleep = t.changed(sleep=1, wake_s=0.1 * t.load_s, fall_asleep_s=0.01, asleep_bytes=1e8)
    world = replace(world, tables=asleep)
    for seed in range(3):
        drawn = world.draw(seed)
        found = solve(world, drawn, beam=5, max_nodes=500)
        costs = [response_s(world, drawn, make_policy(name)) for name in NAMES]
        assert lower_bound_s(world, drawn) <= min(found.best_s, *costs)
        assert response_s(world, drawn, Plan(found.actions)) == pytest.approx(found.best_s, rel=1e-9)


def test_the_bound_of_one_request_is_what_it_takes() -> None:
    world = small_world(2, 1, rate_per_s=0.3, requests=1)
    for seed in range(5):
        drawn = world.draw(seed)
        found = solve(world, drawn, beam=2)
        assert found.optimal
        assert 0.5 * found.best_s < lower_bound_s(world, drawn) <= found.best_s


def test_the_best_schedule_can_be_carried_out() -> None:
    world, drawn = INSTANCES[0].make()
    found = solve(world, drawn, beam=20, max_nodes=2000)
    assert response_s(world, drawn, Plan(found.actions)) == pytest.approx(found.best_s, rel=1e-9)


def test_more_searching_never_makes_it_worse() -> None:
    world, drawn = INSTANCES[3].make()
    found = [solve(world, drawn, beam=10, max_nodes=n) for n in (0, 1000, 20_000)]
    for less, more in itertools.pairwise(found):
        assert more.best_s <= less.best_s
        assert more.bound_s >= less.bound_s * (1 - 1e-9)


def test_longer_requests_and_fewer_devices_do_not_lower_the_bound() -> None:
    drawn = small_world(3, 1, rate_per_s=0.3, requests=15).draw(4)
    longer = drawn._replace(decode_tokens=drawn.decode_tokens * 2)
    bounds = {d: lower_bound_s(small_world(3, d, rate_per_s=0.3, requests=15), drawn) for d in (1, 2, 3)}
    assert bounds[1] >= bounds[2] >= bounds[3]
    assert lower_bound_s(small_world(3, 1, rate_per_s=0.3, requests=15), longer) > bounds[1]


def test_the_ratio_is_an_interval() -> None:
    world, drawn = INSTANCES[0].make()
    found = solve(world, drawn, beam=2, max_nodes=0)
    low, high = found.times(found.best_s)
    assert low == 1.0
    assert high > 1.0


def test_the_committed_instances_are_what_they_say() -> None:
    assert len({instance.name for instance in INSTANCES}) == len(INSTANCES)
    for instance in INSTANCES:
        world, drawn = instance.make()
        assert 12 <= len(drawn.model) <= 30
        assert 3 <= world.models <= 4
        tables = world.tables
        footprint = np.where(tables.level_ok, tables.footprint_bytes, np.inf).min(axis=2)
        for device, capacity in enumerate(tables.capacity_bytes):
            three = np.sort(footprint[device])[:3].sum()
            two = np.sort(footprint[device])[:2].sum()
            assert two <= capacity < three
