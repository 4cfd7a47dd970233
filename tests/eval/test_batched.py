from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from benchmarks.sim_worlds import synthetic_world
from shunter.agents.registry import make_policy
from shunter.envs.world.world import World
from shunter.eval.execution.batched import evaluate_batched
from shunter.eval.execution.runs import simulate

SEEDS = [3, 11, 4, 7, 7]


@pytest.fixture(scope="module")
def world() -> World:
    return synthetic_world(4, 2, rate_per_s=0.4, requests=150)


@pytest.mark.parametrize("name", ["cost-greedy", "fifo-swap", "sjf-oracle", "random"])
def test_every_figure_is_that_of_simulate(world: World, name: str) -> None:
    policy = make_policy(name)
    batched = evaluate_batched(world, policy, SEEDS, environments=3)
    for i, seed in enumerate(SEEDS):
        run = simulate(world, policy, seed)
        pd.testing.assert_frame_equal(batched.requests[i], run.requests, check_exact=True)
        assert batched.counts[i] == run.counts
        assert batched.makespan_s[i] == run.makespan_s
        assert batched.response_mean_s[i] == (run.requests.finish_s - run.requests.arrival_s).mean()


def test_episodes_that_are_cut_off_have_no_mean(world: World) -> None:
    limits = world.scenario.limits.model_copy(update={"max_time_s": 60.0})
    short = replace(world, scenario=world.scenario.model_copy(update={"limits": limits}))
    short = replace(short, tables=world.tables.changed(max_time_ns=round(60e9)))
    policy = make_policy("cost-greedy")
    batched, run = evaluate_batched(short, policy, [3]), simulate(short, policy, 3)
    assert np.isnan(batched.response_mean_s).all()
    assert batched.unfinished[0] == run.requests.finish_s.isna().sum() > 0
    pd.testing.assert_frame_equal(batched.requests[0], run.requests, check_exact=True)


def test_in_a_fitted_world_too(fake_world: World) -> None:
    policy = make_policy("lru-keepalive")
    batched = evaluate_batched(fake_world, policy, range(4))
    for i in range(4):
        pd.testing.assert_frame_equal(
            batched.requests[i], simulate(fake_world, policy, i).requests, check_exact=True
        )
