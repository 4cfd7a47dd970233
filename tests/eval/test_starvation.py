from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks.sim_worlds import synthetic_world
from shunter.agents.registry import make_policy
from shunter.eval.execution.batched import Batched, evaluate_batched
from shunter.eval.execution.runs import simulate
from shunter.eval.metrics.starvation import ALL, jain_index, waits


def batched(*rows: tuple[str, float, float], end_s: float) -> Batched:
    frame = pd.DataFrame(rows, columns=["model", "arrival_s", "first_token_s"])
    return Batched("p", (0,), (frame,), ({},), np.array([end_s]), np.zeros(1))


def test_waits_by_model() -> None:
    table = waits(batched(("a", 0, 1), ("a", 2, 5), ("b", 1, 7), end_s=9))
    assert table.index.tolist() == ["a", "b", ALL]
    assert table.requests.tolist() == [2, 1, 3]
    assert table.mean_s.tolist() == [2, 6, pytest.approx(10 / 3)]
    assert table.max_s.tolist() == table.p99_9_s.tolist() == [3, 6, 6]
    assert table.loc[ALL, "jain"] == pytest.approx(8**2 / (2 * 40))


def test_who_was_never_served_has_waited_until_the_end() -> None:
    table = waits(batched(("a", 0, 1), ("a", 2, np.nan), ("a", 99, np.nan), end_s=9))
    assert table.loc["a", ["requests", "unserved", "max_s"]].tolist() == [2, 1, 7]


def test_p99_9_is_one_in_a_thousand() -> None:
    rows = [("a", 0.0, float(i)) for i in range(2001)]
    assert waits(batched(*rows, end_s=3000)).loc["a", "p99_9_s"] == 1998


def test_jain_index() -> None:
    assert jain_index([2, 2, 2]) == 1
    assert jain_index([1, 0, 0, 0]) == 0.25
    assert jain_index([0, 0]) == 1


def test_runs_and_batches_give_the_same_table() -> None:
    world, policy = synthetic_world(3, 1, rate_per_s=0.2, requests=60), make_policy("cost-greedy")
    runs = [simulate(world, policy, seed) for seed in range(3)]
    pd.testing.assert_frame_equal(waits(runs), waits(evaluate_batched(world, policy, range(3))))
