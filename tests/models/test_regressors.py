import numpy as np
import pandas as pd
import pytest

from shunter.models.fit.intervals import conformal_quantile
from shunter.models.fit.regressors import (
    DeviceFit,
    GroupFit,
    fit_physics,
    mean_over_median,
    select_features,
)


def rows(n, repeats=1, models="m", levels=0):
    configurations = np.repeat([f"configuration-{i}" for i in range(n)], repeats)
    return pd.DataFrame({"cell_id": configurations, "model": models, "gpu_layers": levels})


def test_known_coefficients_come_back():
    rng = np.random.default_rng(0)
    features = pd.DataFrame({"bytes": rng.uniform(1e7, 1e9, 40), "constant": np.ones(40)})
    measured = 2e-9 * features["bytes"].to_numpy() + 0.03
    fit = fit_physics(features, measured, np.full(40, 1e-6), rows(40))
    assert fit.coefficients == {"bytes": pytest.approx(2e-9), "constant": pytest.approx(0.03)}


def test_coefficients_are_never_negative():
    features = pd.DataFrame({"bytes": [1.0, 2.0, 3.0, 4.0], "constant": np.ones(4)})
    fit = fit_physics(features, np.array([4.0, 3.0, 2.0, 1.0]), np.full(4, 1e-6), rows(4))
    assert min(fit.coefficients.values()) > 0
    assert set(fit.coefficients) <= {"bytes", "constant"}


def test_short_and_long_operations_count_alike():
    features = pd.DataFrame({"bytes": [1.0, 1000.0]})
    fit = fit_physics(features, np.array([1.0, 2000.0]), np.full(2, 1e-6), rows(2))
    ratio = fit.coefficients["bytes"] / np.array([1.0, 2.0])
    assert np.abs(ratio - 1).max() < 0.7


def test_a_stall_in_one_repeat_counts_for_little():
    features = pd.DataFrame({"bytes": np.repeat([1.0, 2.0, 3.0], 3)})
    measured = np.array([1.0, 1.0, 50.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0])
    fit = fit_physics(features, measured, np.full(9, 1e-6), rows(3, 3))
    assert fit.coefficients["bytes"] == pytest.approx(1.0)


def test_means_of_repeats_are_over_their_medians_by_what_few_of_them_take_longer():
    measured = np.array([1.0, 1.0, 1.6, 10.0, 10.0, 1000.0, 5.0, 9.0])
    configurations = np.array(list("aaabbbcc"), dtype=object)
    assert mean_over_median(measured, configurations) == pytest.approx((1 + 1 + 1.6 + 1 + 1 + 2) / 6)
    assert mean_over_median(measured[6:], configurations[6:]) == 1.0


def test_what_physics_leaves_is_corrected_by_model_and_level_and_not_for_new_models():
    n = 24
    frame = rows(n, models=np.repeat(["slow", "fast"], n // 2), levels=np.tile([0, 4], n // 2))
    features = pd.DataFrame({"bytes": np.linspace(1.0, 9.0, n)})
    factor = np.where(frame["model"] == "slow", 1.5, 0.9) * np.where(frame["gpu_layers"] == 0, 1.2, 1.0)
    fit = fit_physics(features, features["bytes"].to_numpy() * factor, np.full(n, 1e-6), frame)
    asked = pd.DataFrame({"model": ["slow", "slow", "slow", "fast", "new"], "gpu_layers": [0, 2, 4, 4, 4]})
    got = fit.predict(pd.DataFrame({"bytes": np.full(5, 10.0)}), asked)
    assert got[[0, 2, 3]] == pytest.approx([18.0, 15.0, 9.0], rel=0.08)
    assert got[1] == pytest.approx(np.sqrt(got[0] * got[2]))
    assert got[4] == pytest.approx(10 * fit.coefficients["bytes"])


def test_noise_is_not_taken_for_a_correction():
    rng = np.random.default_rng(0)
    frame = rows(60, models=np.repeat(["a", "b", "c"], 20), levels=np.tile([0, 1, 2, 3], 15))
    features = pd.DataFrame({"bytes": np.arange(1.0, 61.0)})
    noisy = features["bytes"].to_numpy() * np.exp(0.3 * rng.standard_normal(60))
    fit = fit_physics(features, noisy, np.full(60, 1e-6), frame)
    for table in fit.corrections.values():
        assert len({correction for _, correction in table}) == 1
        assert abs(table[0][1]) < 0.2
    plain = fit_physics(features, noisy, np.full(60, 1e-6), frame, corrected=False)
    assert (plain.corrections, plain.coefficients) == ({}, fit.coefficients)


def test_one_configuration_of_each_model_and_level_is_no_ground_for_a_correction():
    frame = rows(3, models=["a", "b", "c"])
    features = pd.DataFrame({"bytes": [1.0, 2.0, 3.0]})
    fit = fit_physics(features, np.array([1.0, 3.0, 2.5]), np.full(3, 1e-6), frame)
    assert fit.corrections == {"a": ((0, 0.0),), "b": ((0, 0.0),), "c": ((0, 0.0),)}


def test_features_that_data_cannot_tell_apart_are_left_out_last_first():
    features = pd.DataFrame({"bytes": [1.0, 2, 3, 4], "twice": [2.0, 4, 6, 8], "none": 0.0, "constant": 1.0})
    assert select_features(features, 4) == (["bytes", "constant"], ["twice"])


def test_few_configurations_allow_few_features():
    features = pd.DataFrame(np.random.default_rng(0).uniform(1, 2, (6, 5)), columns=list("abcde"))
    assert select_features(features, 1)[0] == ["a"]
    assert select_features(features, 2)[0] == ["a", "b"]
    assert select_features(features, 6)[0] == ["a", "b", "c", "d"]


def test_a_side_that_holds_next_to_nothing_is_not_fitted_to_noise():
    features = pd.DataFrame({"bytes_device": [100.0, 200, 300, 400], "bytes_host": [1.0, 5, 2, 3]})
    assert select_features(features, 4) == (["bytes_device"], [])
    features["bytes_host"] *= 50
    assert select_features(features, 4)[0] == ["bytes_device", "bytes_host"]


def fit_with_range(low, high):
    return GroupFit(
        target="decode_step_s",
        engine="e",
        device="d",
        page_cache="",
        physics=DeviceFit(coefficients={"constant": 2.0}, corrections={}),
        ranges={"constant": (low, high)},
        seen_log_errors=(-0.1, 0.2),
        unseen_log_errors=(-0.5, 0.6),
        models=("known",),
        rows=3,
        cells=3,
    )


def test_distance_from_the_data_is_counted_in_doublings():
    features = pd.DataFrame({"constant": [2.0, 1.0, 4.0, 8.0, 0.25, 0.0]})
    assert fit_with_range(1.0, 4.0).doublings_outside(features).tolist() == [0, 0, 0, 1, 2, 1]


def test_a_feature_that_was_always_zero_counts_once():
    features = pd.DataFrame({"constant": [0.0, 1e-3, 1e9]})
    assert fit_with_range(0.0, 0.0).doublings_outside(features).tolist() == [0, 1, 1]


def test_models_not_in_the_data_get_the_errors_of_held_out_models():
    low, high = fit_with_range(1, 2).log_errors(np.array(["known", "new"], dtype=object))
    assert low.tolist() == [-0.1, -0.5]
    assert high.tolist() == [0.2, 0.6]


def test_the_quantile_of_few_values_is_their_largest():
    assert conformal_quantile(np.arange(10.0), 0.95) == 9
    assert conformal_quantile(np.arange(100.0), 0.95) == 95


def test_a_model_of_a_kind_never_held_out_is_a_factor_of_two_either_way():
    alone = fit_with_range(1, 2).model_copy(update={"unseen_log_errors": None})
    low, high = alone.log_errors(np.array(["known", "new"], dtype=object))
    assert (low[1], high[1]) == pytest.approx((-np.log(2), np.log(2)))
    assert (low[0], high[0]) == (-0.1, 0.2)


def test_what_a_feature_costs_that_was_never_seen_is_a_factor_of_two_more():
    features = pd.DataFrame({"constant": [0.0, 3.0]})
    low, high = fit_with_range(0.0, 0.0).interval_ends(features, np.array(["known", "known"], dtype=object))
    assert low.tolist() == pytest.approx([-0.1, -0.2 - np.log(2)])
    assert high.tolist() == pytest.approx([0.2, 0.4 + np.log(2)])
