from __future__ import annotations

import numpy as np

from benchmarks.compiled_policy import drawn_observations, equality_row, first_of_best, speed_row
from shunter.envs.observation.features import CONTEXT_TABLE, FEATURE_TABLE, feature_bounds


def test_observations_are_within_bounds_and_always_leave_a_choice() -> None:
    seen = drawn_observations(500, 6, seed=0)
    for key, table in (("candidates", FEATURE_TABLE), ("context", CONTEXT_TABLE)):
        assert (seen[key] >= 0).all()
        assert (seen[key] <= feature_bounds(table)).all()
        assert (seen[key].reshape(-1, len(table)).std(axis=0) > 0).all()
    assert (seen["candidates"][..., :4].sum(axis=-1) == 1).all()
    assert (seen["action_mask"].sum(axis=1) >= 1).all()


def test_the_first_of_equals_is_the_best() -> None:
    scores = np.array([[0.0, 1.0, 1.0 + 1e-12], [0.0, 1.0, 1.0 + 1e-6], [-np.inf, -np.inf, -2.0]])
    assert first_of_best(scores).tolist() == [1, 2, 2]


def test_rows_are_judged() -> None:
    row = speed_row("6 models on 1 device", 0, quick=True)
    assert row.bar == ">= 150000"
    assert row.value is not None
    assert row.value > 0
    assert equality_row(0).ok
