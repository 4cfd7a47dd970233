from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from shunter.agents.registry import make_policy
from shunter.envs.world.world import World
from shunter.eval.evaluation import evaluate
from shunter.eval.execution.runs import Run, simulate
from shunter.eval.metrics.metrics import (
    ILLEGAL,
    METRICS,
    paired_change,
    paired_units,
    request_times,
    summarize,
)
from shunter.report.words import verdict


def with_times(run: Run, arrival: list[float], first: list[float], finish: list[float]) -> Run:
    frame = pd.DataFrame(
        {
            "model": "small",
            "arrival_s": arrival,
            "first_token_s": first,
            "finish_s": finish,
            "decode_tokens": [5] * len(arrival),
        }
    )
    return replace(run, requests=frame)


def test_definitions_by_hand(fake_world: World) -> None:
    run = simulate(fake_world, make_policy("cost-greedy"), 0)
    run = with_times(run, [0.0, 1.0], [1.0, 4.0], [3.0, math.nan])
    times = request_times(run)
    assert times.response_s.tolist()[0] == 3.0
    assert times.ttft_s.tolist() == [1.0, 3.0]
    assert times.tpot_s.tolist()[0] == 0.5
    summary = summarize([run])
    assert set(summary) == {*METRICS, *ILLEGAL}
    assert summary["illegal_share"] == 0
    assert summary["response_mean_s"] == 3.0
    assert summary["unfinished"] == 1


def test_a_policy_against_itself_has_no_change(fake_world: World) -> None:
    runs = [simulate(fake_world, make_policy("fifo-swap"), seed) for seed in range(5)]
    assert paired_change(runs, runs) == {"change": 0.0, "low": 0.0, "high": 0.0, "unit": "runs"}


def test_the_interval_covers_a_known_change(fake_world: World) -> None:
    rng = np.random.default_rng(1)
    base = simulate(fake_world, make_policy("fifo-swap"), 0)
    slow, fast = [], []
    for seed in range(30):
        one = replace(base, seed=seed)
        common = rng.gamma(2.0, 5.0, 40)
        zero = np.zeros(40)
        slow.append(with_times(one, zero.tolist(), zero.tolist(), common.tolist()))
        noisy = 0.8 * common * rng.normal(1.0, 0.05, 40)
        fast.append(with_times(one, zero.tolist(), zero.tolist(), noisy.tolist()))
    change = paired_change(fast, slow)
    assert change["low"] < -0.2 < change["high"]
    assert change["high"] - change["low"] < 0.02


def test_few_runs_are_resampled_by_blocks_and_say_so(fake_world: World) -> None:
    a, b = (simulate(fake_world, make_policy(name), 0) for name in ("cost-greedy", "fifo-swap"))
    change = paired_change([a], [b])
    assert change["unit"] == "blocks of 10 requests"
    assert change["low"] < change["change"] < change["high"]


def test_every_policy_gets_the_same_requests(fake_world: World) -> None:
    evaluation = evaluate(fake_world, [make_policy("fifo-swap"), make_policy("cost-greedy")], [3, 4])
    first, second = evaluation.simulated["fifo-swap"], evaluation.simulated["cost-greedy"]
    given = ["model", "arrival_s", "prompt_tokens", "decode_tokens"]
    for a, b in zip(first, second, strict=True):
        pd.testing.assert_frame_equal(a.requests[given], b.requests[given])
    assert not first[0].requests[given].equals(first[1].requests[given])


def test_the_verdict_names_the_best_by_its_numbers(fake_world: World) -> None:
    result = evaluate(fake_world, [make_policy("fifo-swap"), make_policy("cost-greedy")], range(5)).to_dict()
    means = {n: p["simulated"]["response_mean_s"] for n, p in result["policies"].items()}
    best = min(means, key=lambda name: means[name])
    assert verdict(result)[0].startswith(
        f"Simulated: {best} has the lowest mean response ({means[best]:.3f} s)"
    )


def test_a_change_needs_the_same_seeds(fake_world: World) -> None:
    run = simulate(fake_world, make_policy("fifo-swap"), 0)
    with pytest.raises(ValueError, match="same seeds"):
        paired_change([run, replace(run, seed=1)], [run])


def test_repeats_of_a_seed_are_averaged_and_count_once(fake_world: World) -> None:
    base = simulate(fake_world, make_policy("fifo-swap"), 0)
    zero = [0.0] * 20
    quick, slow = (with_times(base, zero, zero, [s] * 20) for s in (1.0, 3.0))
    units, unit = paired_units([[quick, slow], [slow]])
    assert unit == "blocks of 10 requests"
    assert units.tolist() == [[2.0, 3.0], [2.0, 3.0]]


def test_a_request_that_one_policy_did_not_finish_counts_for_none(fake_world: World) -> None:
    base = simulate(fake_world, make_policy("fifo-swap"), 0)
    whole = with_times(base, [0.0, 0.0], [0.0, 0.0], [1.0, 9.0])
    cut = with_times(base, [0.0, 0.0], [0.0, 0.0], [2.0, math.nan])
    units, _ = paired_units([[whole], [cut]])
    assert units.tolist() == [[1.0, 2.0]]


def test_the_worst_wait_and_evenness_count_who_was_never_served(fake_world: World) -> None:
    base = replace(simulate(fake_world, make_policy("fifo-swap"), 0), makespan_s=8.0)
    run = with_times(base, [0.0, 1.0], [2.0, math.nan], [3.0, math.nan])
    run = replace(run, requests=run.requests.assign(model=["small", "large"]))
    summary = summarize([run])
    assert summary["worst_wait_s"] == 7.0
    assert summary["jain_index"] == pytest.approx((2 + 7) ** 2 / (2 * (2**2 + 7**2)))
