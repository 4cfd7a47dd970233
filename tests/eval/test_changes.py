"""Differences of real runs on a machine that drifts: none is claimed that is not there, large ones are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from shunter.eval.execution.order import run_order
from shunter.eval.metrics.changes import (
    TYPICAL_SPREAD,
    change_over_rounds,
    interleaved_change,
    paired_change,
    run_spread,
    runs_needed,
)
from shunter.uncertainty import FEWEST_ROUNDS, FEWEST_SEQUENCES

TRIALS = 400
ROUNDS = 6


@dataclass(frozen=True)
class Timed:
    """A run of requests that all respond alike."""

    seed: int
    requests: pd.DataFrame
    slowdown: float = math.nan


def timed(response_s: float, seed: int = 0, slowdown: float = math.nan) -> Timed:
    columns = {"arrival_s": [0.0], "first_token_s": [0.0], "finish_s": [response_s], "decode_tokens": [2]}
    return Timed(seed, pd.DataFrame(columns), slowdown)


def slow_waves(rng: np.random.Generator, count: int) -> np.ndarray:
    """AR(1): of a tenth around the mean, remembered over some ten runs."""
    course = [rng.normal(0, 0.1)]
    for _ in range(count - 1):
        course.append(0.9 * course[-1] + rng.normal(0, 0.1 * math.sqrt(1 - 0.9**2)))
    return np.array(course)


def step(rng: np.random.Generator, count: int) -> np.ndarray:
    """From some run on, all is 20 % slower or quicker."""
    return np.where(np.arange(count) < rng.integers(1, count), 0.0, rng.choice([-1, 1]) * math.log(1.2))


def signs(drift: Callable[..., np.ndarray], effect: float, *, sentinel: bool) -> list[int]:
    """What is claimed of the second of three policies, responses times ``effect``, in many trials."""
    rng, found = np.random.default_rng(7), []
    for trial in range(TRIALS):
        turns = run_order(3, [(0, n) for n in range(ROUNDS)], order=trial)
        response_s, slowdowns = np.empty((ROUNDS, 3)), np.full((ROUNDS, 3), math.nan)
        for turn, log_slower in zip(turns, drift(rng, len(turns)), strict=True):
            log_response = 1.5 * log_slower + rng.normal(0, 0.02) + math.log(effect) * (turn.policy == 1)
            response_s[turn.round, turn.policy] = math.exp(log_response)
            if sentinel:
                slowdowns[turn.round, turn.policy] = math.exp(log_slower + rng.normal(0, 0.02))
        found.append(change_over_rounds(response_s[:, [1, 0]], slowdowns[:, [1, 0]]).sign)
    return found


@pytest.mark.parametrize("sentinel", [False, True])
@pytest.mark.parametrize("drift", [slow_waves, step])
def test_copies_of_a_policy_do_not_differ_more_often_than_nominal(
    drift: Callable[..., np.ndarray], sentinel: bool
) -> None:
    wrong = sum(sign != 0 for sign in signs(drift, 1.0, sentinel=sentinel))
    assert wrong <= binom.ppf(0.999, TRIALS, 0.05)


@pytest.mark.parametrize("drift", [slow_waves, step])
def test_a_policy_that_is_quicker_by_30_percent_is_found(drift: Callable[..., np.ndarray]) -> None:
    found = signs(drift, 0.7, sentinel=False)
    assert found.count(-1) > 0.95 * TRIALS
    assert found.count(1) == 0


@pytest.mark.parametrize(("policies", "rounds"), [(2, 4), (5, 6)])
def test_every_policy_runs_as_often_before_each_other_one_as_after(policies: int, rounds: int) -> None:
    plan = [(seed, 0) for seed in range(rounds)]
    turns = run_order(policies, plan)
    assert len({(turn.round, turn.policy) for turn in turns}) == policies * rounds
    at = {(turn.round, turn.policy): number for number, turn in enumerate(turns)}
    for one, other in combinations(range(policies), 2):
        ahead = [at[number, other] - at[number, one] for number in range(rounds)]
        assert sum(ahead) == 0
    assert [t.seed for t in turns if t.policy == 0] == list(range(rounds))
    orders = {tuple(t.policy for t in turns if t.round == number) for number in range(0, rounds, 2)}
    assert policies == 2 or len(orders) > 1
    assert turns == run_order(policies, plan)


def test_too_few_rounds_claim_nothing_however_far_policies_are_apart() -> None:
    for rounds in range(1, FEWEST_ROUNDS):
        change = interleaved_change([timed(1.0)] * rounds, [timed(2.0)] * rounds)
        assert change["change"] == pytest.approx(-0.5)
        assert math.isnan(change["low"])
    enough = interleaved_change([timed(1.0)] * FEWEST_ROUNDS, [timed(2.0)] * FEWEST_ROUNDS)
    assert enough["high"] == pytest.approx(-0.5)


def test_one_sequence_claims_nothing_in_simulation_either() -> None:
    few = range(FEWEST_SEQUENCES - 1)
    change = paired_change([timed(1.0, s) for s in few], [timed(2.0, s) for s in few])
    assert math.isnan(change["low"])
    assert change["change"] == pytest.approx(-0.5)
    many = range(FEWEST_SEQUENCES)
    found = paired_change([timed(1.0, s) for s in many], [timed(2.0, s) for s in many])
    assert found["high"] < 0


def test_repeats_of_enough_sequences_are_no_further_units() -> None:
    rng = np.random.default_rng(0)
    a, b = ([timed(rng.gamma(9), seed) for seed in range(FEWEST_SEQUENCES)] for _ in range(2))
    for change in (interleaved_change, paired_change):
        assert change(a * 3, b * 3) == pytest.approx(change(a, b))


def test_the_sentinel_takes_out_what_it_saw() -> None:
    slow = [1.0, 1.3, 0.9, 1.2, 1.4, 1.0, 1.1]
    runs = [timed(0.8 * s, 0, s) for s in slow]
    against = [timed(1.0 * s, 0, s) for s in reversed(slow)]
    change = interleaved_change(runs, against)
    assert change["low"] == pytest.approx(-0.2)
    assert change["high"] == pytest.approx(-0.2)
    unseen = interleaved_change([timed(0.8 * s) for s in slow], [timed(1.0 * s) for s in reversed(slow)])
    assert unseen["low"] < -0.3


def test_a_change_needs_the_same_seeds() -> None:
    for change in (paired_change, interleaved_change):
        with pytest.raises(ValueError, match="same seeds"):
            change([timed(1.0, 0), timed(1.0, 1)], [timed(1.0, 0)])


def test_runs_that_are_needed_find_the_difference_four_times_out_of_five() -> None:
    spread = run_spread([[timed(1.0), timed(1.2)], [timed(1.0), timed(1.0)]])
    assert spread == pytest.approx(math.log(1.2) / math.sqrt(2))
    assert math.isnan(run_spread([[timed(1.0)], [timed(1.0)]]))
    count, rng = runs_needed(TYPICAL_SPREAD, 0.1), np.random.default_rng(3)
    drawn = np.exp(rng.normal(math.log(1.1), TYPICAL_SPREAD, (TRIALS, count)))
    nothing = np.full((count, 2), math.nan)
    found = [change_over_rounds(np.stack([row, np.ones(count)], 1), nothing).sign for row in drawn]
    assert 0.7 < np.mean(np.array(found) > 0) < 0.9
    assert runs_needed(TYPICAL_SPREAD, 0.3) < count < runs_needed(TYPICAL_SPREAD, 0.05)
