"""A learned policy decides in compiled code what its scores in numpy say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.compiled_policy import drawn_observations, first_of_best
from benchmarks.sim_worlds import synthetic_world
from shunter.agents.learned.base_policy import MOST_CANDIDATES, BasePolicy
from shunter.agents.learned.inputs import INPUTS, KINDS, input_names
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.learned.weights import from_vector, layer_shapes, to_vector
from shunter.envs.world.world import World
from shunter.eval.execution.batched import SLOTS, evaluate_batched
from shunter.eval.execution.runs import simulate
from tests.networks import random_policy

WIDTHS = (0, 8, 16)


@pytest.mark.parametrize("width", WIDTHS)
def test_choices_are_those_of_the_scores(width: int) -> None:
    policy = random_policy(width, scale=2.0, width=width, prior=BasePolicy(2.0, 7.0, 0.3, 1.5))
    chosen, beaten, cut = [], 0, 0
    for actions in (5, MOST_CANDIDATES, 2 * MOST_CANDIDATES + 3):
        seen = drawn_observations(10_000 // 3 + 1, actions, seed=actions)
        mask = seen["action_mask"] > 0
        scores = policy.scores(seen["candidates"], seen["context"], mask)
        got = policy.act_batch(seen)
        np.testing.assert_array_equal(got, first_of_best(scores))
        assert mask[np.arange(len(got)), got].all()
        chosen.append(got)
        untrained = random_policy(scale=0.0, width=0, prior=policy.prior).act_batch(seen)
        beaten += int((untrained != got).sum())
        cut += int((np.isfinite(scores).sum(axis=1) < mask.sum(axis=1)).sum())
    assert len(np.unique(np.concatenate(chosen))) > MOST_CANDIDATES
    assert beaten > 1000  # the weights matter, not only the prior
    assert cut > 1000  # and so does the pruned


def test_a_single_choice_is_that_of_a_batch_of_any_layout() -> None:
    seen = drawn_observations(50, 7, seed=1)
    policy = random_policy(width=8)
    batch = policy.act_batch(seen)
    assert [policy.act({key: x[i] for key, x in seen.items()}) for i in range(50)] == batch.tolist()
    turned = {key: np.asfortranarray(x.astype(np.float64)) for key, x in seen.items()}
    np.testing.assert_array_equal(policy.act_batch(turned), batch)


def test_of_equals_the_first_is_taken() -> None:
    seen = drawn_observations(1, 6, seed=0)
    seen["candidates"][:] = seen["candidates"][:, :1]
    seen["action_mask"][:] = [[0, 1, 1, 0, 1, 1]]
    assert random_policy(width=16).act_batch(seen).tolist() == [1]


@pytest.mark.parametrize("width", WIDTHS)
def test_vectors_and_weights_are_each_other(width: int) -> None:
    weights = random_policy(3, width=width).weights
    vector = to_vector(weights)
    numbers = (
        len(BasePolicy()) + len(KINDS) * INPUTS + sum(o * i + o for o, i in layer_shapes(width).values())
    )
    assert vector.shape == (numbers,)
    again = from_vector(vector, width)
    assert again.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(again[name], array)
        assert again[name].dtype == np.float32
    np.testing.assert_array_equal(to_vector(again), vector)


def test_every_input_has_a_name_of_its_own() -> None:
    assert len(set(input_names())) == INPUTS


def assert_as_simulated(world: World, policy: LearnedPolicy, seeds: list[int]) -> list[pd.DataFrame]:
    batched = evaluate_batched(world, policy, seeds, environments=3)
    for i, seed in enumerate(seeds):
        run = simulate(world, policy, seed)
        pd.testing.assert_frame_equal(batched.requests[i], run.requests, check_exact=True)
        assert batched.counts[i] == run.counts
        assert batched.makespan_s[i] == run.makespan_s
    return list(batched.requests)


@pytest.mark.parametrize("width", WIDTHS)
def test_episodes_are_those_of_simulate(width: int) -> None:
    world = synthetic_world(4, 2, rate_per_s=0.4, requests=100)
    assert_as_simulated(world, random_policy(1, scale=0.3, width=width), [3, 11, 4, 7])


def test_episodes_that_need_more_slots_than_they_begin_with_too() -> None:
    world = synthetic_world(3, 1, rate_per_s=20.0, requests=3 * SLOTS)
    for requests in assert_as_simulated(world, random_policy(1, scale=0.1), [0, 1]):
        assert most_at_once(requests) > SLOTS


def most_at_once(requests: pd.DataFrame) -> int:
    arrived, finished = np.sort(requests.arrival_s), np.sort(requests.finish_s)
    return int((np.arange(1, len(arrived) + 1) - np.searchsorted(finished, arrived)).max())


def test_episodes_that_are_cut_off_too() -> None:
    world = synthetic_world(4, 2, rate_per_s=0.4, requests=100)
    limits = world.scenario.limits.model_copy(update={"max_time_s": 60.0})
    changed: dict[str, Any] = {"scenario": world.scenario.model_copy(update={"limits": limits})}
    changed["tables"] = world.tables.changed(max_time_ns=round(60e9))
    for requests in assert_as_simulated(replace(world, **changed), random_policy(scale=0.1), [3, 4]):
        assert requests.finish_s.isna().any()
