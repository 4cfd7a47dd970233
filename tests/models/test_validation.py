import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.models.validation.held_out import HeldOut, fold_labels, hold_out, log_error_interval


@given(st.lists(st.integers(0, 30), min_size=1, max_size=80))
def test_repeats_of_a_configuration_never_straddle_folds(configurations):
    names = np.array([f"c{c}" for c in configurations], dtype=object)
    folds = fold_labels(names)
    assert len({(c, f) for c, f in zip(names, folds, strict=True)}) == len(set(names))
    assert len(set(folds)) == min(10, len(set(names)))


def held_out(measured, predicted, **changes):
    n = len(measured)
    configurations = np.array(["a"] * (n // 2) + ["b"] * (n - n // 2), dtype=object)
    return HeldOut(
        np.array(measured), np.array(predicted), np.full(n, 1e-6), configurations, configurations, np.ones(n)
    )


def test_errors_are_relative_to_what_was_measured():
    errors = held_out([1.0, 2.0, 4.0], [1.1, 2.0, 3.0]).errors()
    assert errors.mape == pytest.approx((0.1 + 0 + 0.25) / 3)
    assert errors.median_ape == pytest.approx(0.1)
    assert (errors.rows, errors.cells, errors.models) == (3, 2, 2)


def test_the_interval_encloses_no_error_at_all():
    low, high = log_error_interval(held_out([2.0] * 4, [1.0] * 4))
    assert (low, high) == (0.0, pytest.approx(np.log(2)))


def test_noise_is_the_spread_within_configurations_and_not_between_them():
    assert held_out([1.0, 1.0, 9.0, 9.0], [1.0] * 4).noise() == 0
    assert held_out([0.9, 1.1, 9.0, 9.0], [1.0] * 4).noise() == pytest.approx(0.05)


def test_a_held_out_label_is_predicted_without_its_rows():
    frame = pd.DataFrame({"cell_id": list("aabbcc"), "model": list("xxxxyy"), "gpu_layers": 1})
    features = pd.DataFrame({"bytes": [1.0, 1, 2, 2, 3, 3]})
    measured = np.array([1.0, 1, 2, 2, 30, 30])
    result = hold_out(features, measured, np.full(6, 1e-6), frame, frame["model"].to_numpy(dtype=str))
    assert result.predicted.tolist() == pytest.approx([10, 10, 20, 20, 3, 3])


def test_one_label_leaves_nothing_to_learn_from():
    frame = pd.DataFrame({"cell_id": ["a", "a"], "model": ["x", "x"], "gpu_layers": 1})
    features = pd.DataFrame({"bytes": [1.0, 1.0]})
    labels = frame["model"].to_numpy(dtype=str)
    assert hold_out(features, np.ones(2), np.ones(2), frame, labels) is None
