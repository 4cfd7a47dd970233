import numpy as np
import pandas as pd
import pytest

from shunter.models.validation.scores import score
from shunter.models.validation.splits import make_splits


def asked(measured, predicted, low=np.nan, high=np.nan, configurations=None):
    n = len(measured)
    names = configurations or [f"c{i}" for i in range(n)]
    columns = {"measured": measured, "predicted": predicted, "smallest": 1e-6, "low": low, "high": high}
    return pd.DataFrame({"cell_id": names, **columns})


def test_errors_are_relative_to_the_measurement_and_refused_rows_are_counted():
    s = score("p", "s", "load_s", asked([1.0, 2.0, 4.0], [1.1, 2.0, np.nan]))
    assert (s.rows, s.refused, s.mape) == (2, 1, pytest.approx(0.05))
    assert s.mape_interval[0] <= s.mape <= s.mape_interval[1]
    assert (s.coverage, s.noise) == (None, None)


def test_coverage_far_from_nine_tenths_is_rejected():
    half = score("p", "s", "t", asked([1.0, 3.0] * 30, [1.0] * 60, 0.5, 2.0))
    assert half.coverage == 0.5
    assert half.coverage_p < 1e-6
    right = score("p", "s", "t", asked(([1.0] * 9 + [3.0]) * 6, [1.0] * 60, 0.5, 2.0))
    assert right.coverage_p == pytest.approx(1.0)


def test_repeats_of_a_configuration_are_one_trial():
    rows = ([1.0] * 19 + [3.0]) * 15
    alone = score("p", "s", "t", asked(rows, [1.0] * 300, 0.5, 2.0))
    assert alone.coverage_p < 0.05
    repeated = score("p", "s", "t", asked(rows, [1.0] * 300, 0.5, 2.0, [f"c{i // 10}" for i in range(300)]))
    assert repeated.coverage == alone.coverage == 0.95
    assert repeated.coverage_p > 0.3


def test_one_shape_in_two_quantisations_is_held_out_as_one_model(dataset):
    again = dataset.assign(
        model=dataset["model"] + " Q8_0",
        weight_bytes=dataset["weight_bytes"] // 2,
        cell_id=dataset["cell_id"] + "q",
        row_id=dataset["row_id"] + "q",
    )
    both = pd.concat([dataset, again], ignore_index=True)
    split = {s.name: s for s in make_splits(both)}["leave one model out"]
    assert len(split.folds) == dataset["model"].nunique()
    for out in split.folds:
        assert not set(both["params"][out]) & set(both["params"][~out])
        assert len(set(both["model"][out])) == 2


def test_a_predictor_that_refuses_everything_has_no_error():
    s = score("p", "s", "t", asked([1.0], [np.nan]))
    assert (s.rows, s.refused, s.mape) == (0, 1, None)


def test_splits_hold_out_what_they_say_and_name_what_cannot_be_made(one_model, dataset):
    by_name = {split.name: split for split in make_splits(dataset)}
    for out in by_name["leave one model out"].folds:
        assert not set(dataset["model"][out]) & set(dataset["model"][~out])
    for out in by_name["random cells"].folds:
        assert not set(dataset["cell_id"][out]) & set(dataset["cell_id"][~out])
    (out,) = by_name["larger batch"].folds
    assert set(dataset["batch"][out]) == {4}
    assert dataset["batch"][~out].max() < 4
    assert "one device only" in by_name["leave one device out"].impossible
    assert "one model only" in {s.name: s for s in make_splits(one_model)}["leave one model out"].impossible
