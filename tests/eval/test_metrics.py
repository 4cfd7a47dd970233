from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd

from shunter.agents.registry import make_policy
from shunter.envs.world.world import World
from shunter.eval.evaluation import evaluate
from shunter.eval.execution.runs import Run, simulate
from shunter.eval.metrics.changes import paired_change
from shunter.eval.metrics.metrics import (
    ILLEGAL,
    METRICS,
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
