"""Own rows of a GPU correct what others measured of it, and nothing else."""

import numpy as np
import pytest

from shunter.errors import InputError
from shunter.models import PerformanceModel
from shunter.models.published.performance import published_performance
from shunter.models.published.rows import published_frame

GPU = "RTX 4090"


def own_rows(count, factor, operation="decode"):
    frame = published_frame().query(
        f"engine == 'llama-cpp' and device == '{GPU}' and operation == '{operation}'"
    )
    rows = frame.head(count).reset_index(drop=True)
    return rows.assign(duration_s=factor * rows["duration_s"])


@pytest.fixture(scope="module")
def corrected():
    return PerformanceModel().fit(own_rows(6, 1.4), published_performance())


def predicted(model, gpu=GPU, operation="decode", **asked):
    asked = {"tokens": 512, "context_tokens": 512.0, **asked}
    return model.predict(
        model.configurations("llama-cpp", gpu, "Llama-3-8B F16", operation=operation, **asked)
    )


def test_a_few_rows_of_a_gpu_correct_it(corrected):
    (errors,) = corrected.state_.corrected
    assert (errors.target, errors.device, errors.rows, errors.used) == ("decode_step_s", GPU, 6, True)
    assert errors.before.mape > 0.2
    assert errors.after.mape < 0.1
    ratio = (
        predicted(corrected)["duration_s_predicted"]
        / predicted(published_performance())["duration_s_predicted"]
    )
    assert ratio[0] == pytest.approx(1.4, rel=0.1)


def test_other_gpus_and_operations_are_as_others_measured_them(corrected):
    others, version = published_performance(), "llama.cpp (2026-08)"  # not by default that of one's own rows
    for gpu, operation in (("RTX 3090", "decode"), (GPU, "prefill"), (GPU, "load")):
        columns = ["duration_s_predicted", "duration_s_low", "duration_s_high"]
        np.testing.assert_array_equal(
            predicted(corrected, gpu, operation, engine_version=version)[columns],
            predicted(others, gpu, operation, engine_version=version)[columns],
        )


def test_what_others_measured_is_still_in_range(corrected):
    assert not predicted(corrected)["out_of_range"][0]


def test_intervals_are_around_the_own_rows_and_do_not_vanish_with_few(corrected):
    step = predicted(corrected)
    assert step["duration_s_low"][0] < step["duration_s_predicted"][0] < step["duration_s_high"][0]
    two = PerformanceModel().fit(own_rows(2, 1.4), published_performance())
    width = np.log(predicted(two)["duration_s_high"] / predicted(two)["duration_s_predicted"])[0]
    assert width > 0.03


def test_one_configuration_corrects_with_an_unknown_error():
    model = PerformanceModel().fit(own_rows(1, 1.4), published_performance())
    (errors,) = model.state_.corrected
    assert errors.after is None
    assert errors.used
    assert (
        predicted(model)["duration_s_predicted"][0]
        > 1.1 * (predicted(published_performance())["duration_s_predicted"][0])
    )


def test_a_correction_that_makes_it_worse_is_not_used():
    rows = own_rows(6, 1.0)
    wild = rows.assign(duration_s=rows["duration_s"] * [0.5, 2.0, 0.4, 2.5, 0.5, 2.0])
    model = PerformanceModel().fit(wild, published_performance())
    for errors in model.state_.corrected:
        assert errors.used == (errors.after.mape < errors.before.mape)
        assert errors.used == any(fit.target == errors.target for fit in model.state_.own)


def test_a_corrected_model_is_kept_in_its_file(corrected, tmp_path):
    again = PerformanceModel.load(corrected.save(tmp_path))
    np.testing.assert_array_equal(
        predicted(again)["duration_s_predicted"], predicted(corrected)["duration_s_predicted"]
    )


def test_throttled_rows_are_left_out_unless_they_are_asked_for():
    rows = own_rows(6, 1.0)
    hot = rows.assign(
        throttle_reasons=[0.0, 0.0, 0.0, 0.0, 0x20, 0x20], duration_s=rows["duration_s"] * [1, 1, 1, 1, 3, 3]
    )
    model = PerformanceModel().fit(hot, published_performance())
    assert model.state_.corrected[0].rows == 4
    assert "throttled: 2 of 6 rows (heat 2), left out (--keep-throttled fits them)" in model.notes
    kept = PerformanceModel(keep_throttled=True).fit(hot, published_performance())
    assert kept.state_.corrected[0].rows == 6
    assert "throttled: 2 of 6 rows (heat 2), fitted all the same" in kept.notes
    with pytest.raises(InputError, match="have rows that are not throttled"):
        PerformanceModel().fit(hot.assign(throttle_reasons=4.0))
