from __future__ import annotations

import pytest

from benchmarks.policy_apart import small_rows
from benchmarks.policy_runs import Contender


def contender(name: str) -> Contender:
    return Contender(name, name, name)


def test_small_instances_set_everybody_against_the_best_on_the_same_requests() -> None:
    rows = small_rows([contender("cost-greedy"), contender("random")], contender("cost-greedy"))
    assert [row.metric for row in rows] == [
        "small instances, 1 device: cost-greedy × of cost-greedy",
        "small instances, 1 device: random × of cost-greedy",
        "small instances, 2 devices: cost-greedy × of cost-greedy",
        "small instances, 2 devices: random × of cost-greedy",
    ]
    for itself, chance in (rows[:2], rows[2:]):
        assert itself.value == pytest.approx(1)
        assert itself.interval == pytest.approx((1, 1))
        assert chance.interval is not None
        assert chance.interval[0] > 1.5
