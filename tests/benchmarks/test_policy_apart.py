from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.policy_apart import small_rows, specialist_training_rows, times_clairvoyant, training_row
from benchmarks.policy_runs import Contender
from tests.networks import random_policy


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


def test_a_multiple_on_many_sequences_is_estimated_through_a_policy_that_has_one_on_few() -> None:
    theirs_s = np.random.default_rng(0).uniform(5, 9, (3, 20))
    value, interval = times_clairvoyant(0.9 * theirs_s, theirs_s, np.array([1.2, 1.2]))
    assert value == pytest.approx(0.9 * 1.2)
    assert interval == pytest.approx((0.9 * 1.2, 0.9 * 1.2))
    value, interval = times_clairvoyant(0.9 * theirs_s, theirs_s, np.array([1.1, 1.4]))
    assert value == pytest.approx(0.9 * (1.1 * 1.4) ** 0.5)
    assert interval == pytest.approx((0.9 * 1.1, 0.9 * 1.4))


def saved(path: Path, **metadata: str) -> Contender:
    policy = random_policy()
    policy.metadata.update(metadata)
    policy.save(path)
    return Contender(path.stem, str(path), "")


def training(**settings: float) -> str:
    empty: dict[str, object] = {name: [] for name in ("scenarios", "models", "devices", "loads")}
    return json.dumps({**empty, "steps": 1, "seed": 0, "settings": settings, "ranges": {}})


def test_training_has_a_bar_of_45_minutes(tmp_path: Path) -> None:
    (row,) = training_row(saved(tmp_path / "g.safetensors", elapsed_s="2760", training=training()))
    assert (row.value, row.bar, row.ok) == (46.0, "<= 45", False)
    (unknown,) = training_row(saved(tmp_path / "u.safetensors"))
    assert (unknown.value, unknown.ok) == (None, False)


def test_trainings_of_specialists_are_the_median_and_the_longest(tmp_path: Path) -> None:
    names = {"a": "100.0", "b": "130.0", "c": "400.0"}
    for name, elapsed_s in names.items():
        saved(tmp_path / f"{name}.safetensors", elapsed_s=elapsed_s, training=training(minutes=2))
    median, longest = specialist_training_rows(Contender("specialists", str(tmp_path), ""), list(names))
    assert (median.value, longest.value) == (130.0, 400.0)
    assert "a 100 s, b 130 s, c 400 s" in median.note
    assert longest.note == 'c; settings: {"minutes": 2}'
