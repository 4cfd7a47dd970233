"""A search's scores are what evaluating its policies would give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from benchmarks.sim_worlds import synthetic_world
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.learned.weights import from_vector
from shunter.envs.scenario.scenario import Scenario
from shunter.envs.sim.batch import Noise
from shunter.envs.world.world import World
from shunter.eval.execution.batched import evaluate_batched
from shunter.train.search.trials import CUT_OFF, EpisodeScore, Trials
from tests.networks import random_policy

SEEDS = [3, 11, 4]
WIDTH = 8


@pytest.fixture(scope="module")
def world() -> World:
    return synthetic_world(4, 2, rate_per_s=0.4, requests=120)


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float64]:
    return np.stack([random_policy(seed, scale=0.3, width=WIDTH).vector for seed in range(3)])


def policy_of(vector: NDArray[np.float64]) -> LearnedPolicy:
    return LearnedPolicy("p", from_vector(vector, WIDTH), {})


def frames(world: World, vector: NDArray[np.float64]) -> list[pd.DataFrame]:
    """One row per request of each seed, with its response, as evaluating the policy gives them."""
    requests = evaluate_batched(world, policy_of(vector), SEEDS).requests
    return [frame.assign(response_s=frame.finish_s - frame.arrival_s) for frame in requests]


def mean_costs(world: World, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([[one.response_s.mean() for one in frames(world, vector)] for vector in vectors])


def closed_loop(world: World) -> World:
    """The same world, its requests sent by users who think in between."""
    data = world.scenario.model_dump(mode="json")
    data["workload"] = {"requests": 120, "closed_loop": {"users": 6, "think_s": 5.0}}
    return replace(world, scenario=Scenario.parse(data))


def cut_off(world: World, max_time_s: float) -> World:
    limits = world.scenario.limits.model_copy(update={"max_time_s": max_time_s})
    scenario = world.scenario.model_copy(update={"limits": limits})
    tables = world.tables.changed(max_time_ns=round(max_time_s * 1e9))
    return replace(world, scenario=scenario, tables=tables)


@pytest.mark.parametrize("width", [0, 16])
def test_costs_are_the_mean_responses_of_an_evaluation(world: World, width: int) -> None:
    policies = [random_policy(seed, scale=0.3, width=width) for seed in range(2)]
    costs, decisions = Trials(world, SEEDS, width=width).costs(np.stack([p.vector for p in policies]))
    evaluated = [evaluate_batched(world, policy, SEEDS) for policy in policies]
    np.testing.assert_allclose(costs, [one.response_mean_s for one in evaluated], rtol=1e-9)
    assert decisions == sum(counts["decisions"] for one in evaluated for counts in one.counts)


@pytest.mark.parametrize("noise", [False, True, "drift"])
@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize(
    "score", [EpisodeScore(), EpisodeScore(tail_share=0.1, tail_weight=0.5, by_model=True)]
)
def test_a_policys_costs_depend_on_nothing_that_was_played_before(
    world: World, vectors: NDArray[np.float64], noise: Noise, closed: bool, score: EpisodeScore
) -> None:
    where = closed_loop(world) if closed else world
    trials = Trials(where, SEEDS, width=WIDTH, score=score, noise=noise)
    first, decisions = trials.costs(vectors)
    again, as_many = trials.costs(vectors)
    np.testing.assert_array_equal(again, first)
    assert as_many == decisions
    for vector, costs in zip(vectors, first, strict=True):
        alone = Trials(where, SEEDS, width=WIDTH, score=score, noise=noise)
        np.testing.assert_array_equal(alone.costs(vector[None])[0][0], costs)
    turned, _ = Trials(where, SEEDS[::-1], width=WIDTH, score=score, noise=noise).costs(vectors)
    np.testing.assert_array_equal(turned[:, ::-1], first)


def test_closed_loops_cost_what_an_evaluation_says(world: World, vectors: NDArray[np.float64]) -> None:
    closed = closed_loop(world)
    assert closed.scenario.workload.first_sends_ns() is not None
    np.testing.assert_allclose(
        Trials(closed, SEEDS, width=WIDTH).costs(vectors)[0], mean_costs(closed, vectors), rtol=1e-9
    )


def test_all_policies_of_a_call_have_the_same_luck(world: World, vectors: NDArray[np.float64]) -> None:
    lucky, plain = (Trials(world, SEEDS, width=WIDTH, noise=noise) for noise in (True, False))
    same = np.repeat(vectors[:1], 3, axis=0)
    costs, _ = lucky.costs(same)
    np.testing.assert_array_equal(costs[1:], costs[:-1])
    assert (costs != plain.costs(same)[0]).all()
    assert len(np.unique(lucky.costs(vectors)[0])) > len(SEEDS)  # and yet differ if they decide otherwise


def test_an_evaluations_luck_is_of_the_seed(world: World) -> None:
    policy = random_policy(0, scale=0.3)
    lucky, turned = (
        evaluate_batched(world, policy, seeds, noise=True).response_mean_s for seeds in (SEEDS, SEEDS[::-1])
    )
    np.testing.assert_array_equal(turned[::-1], lucky)
    assert (lucky != evaluate_batched(world, policy, SEEDS).response_mean_s).all()


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("by_model", [False, True])
def test_tails_and_models_are_those_of_the_requests(
    world: World, vectors: NDArray[np.float64], weight: float, by_model: bool
) -> None:
    score = EpisodeScore(tail_share=0.05, tail_weight=weight, by_model=by_model)
    costs, _ = Trials(world, SEEDS, width=WIDTH, score=score).costs(vectors)
    longest = round(0.05 * 120)
    for vector, got in zip(vectors, costs, strict=True):
        for one, cost in zip(frames(world, vector), got, strict=True):
            tail = one.response_s.nlargest(longest).mean()
            means = one.groupby("model").response_s.mean() if by_model else one.response_s
            assert cost == pytest.approx((1 - weight) * means.mean() + weight * tail, rel=1e-9)


@pytest.mark.parametrize(
    "score", [EpisodeScore(), EpisodeScore(tail_weight=0.5), EpisodeScore(by_model=True)]
)
def test_what_is_cut_off_costs_many_times_what_it_had_accrued(
    world: World, vectors: NDArray[np.float64], score: EpisodeScore
) -> None:
    short = cut_off(world, 60.0)
    costs, _ = Trials(short, SEEDS, width=WIDTH, score=score).costs(vectors)
    for vector, got in zip(vectors, costs, strict=True):
        batched = evaluate_batched(short, policy_of(vector), SEEDS)
        for one, end_s, cost in zip(batched.requests, batched.makespan_s, got, strict=True):
            assert one.finish_s.isna().any()
            spent_s = (one.finish_s.fillna(end_s) - one.arrival_s).clip(lower=0).sum()
            assert cost == pytest.approx(CUT_OFF * spent_s / len(one), rel=1e-6)
