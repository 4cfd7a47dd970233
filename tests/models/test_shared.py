from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter.models import PerformanceModel
from shunter.models.fit.shared import SharedPhysics, fit_shared, term_values
from shunter.models.physics import PHYSICS, rated_configurations
from shunter.models.physics.decode import weight_read_s
from shunter.models.published.rows import published_frame

GPUS = ("RTX 3090", "RTX 4090", "RTX A6000", "RTX 5000 Ada", "RTX 4080")


@pytest.fixture(scope="module")
def decode():
    frame = published_frame()
    rows = frame[(frame["operation"] == "decode") & (frame["hardware_id"] == "published")]
    kept = rows["engine_version"].str.contains("May 2024|mid-2023") & (rows["gpu_count"] == 1)
    return rows[kept].iloc[::2].reset_index(drop=True)


@pytest.fixture(scope="module")
def model(decode):
    return PerformanceModel().fit(decode)


@cache
def eight_b():
    return published_frame().query("model == 'Llama-3-8B F16'")


def configurations(n=1, device="RTX 4090", **columns):
    """Complete configurations of an 8B model, changed as asked."""
    return (
        eight_b()
        .iloc[[0] * n]
        .reset_index(drop=True)
        .assign(**{"device": device, "datasheet": device, "context_tokens": 500.0, **columns})
    )


def plain(target="decode_step_s", **changes):
    """Physics with the priors' factors."""
    factors = {t.name: t.factor for t in PHYSICS[target].terms}
    return SharedPhysics(
        target=target, factors={**factors, **changes}, deviations={}, versions={}, corrections={}
    )


def predicted(physics, frame):
    return physics.predict(term_values(physics.target, rated_configurations(frame)), frame)


def test_a_read_takes_its_bytes_over_the_bandwidth():
    c = rated_configurations(configurations())
    assert weight_read_s(c)[0] == pytest.approx(c.at.read_bytes_device[0] / 1008e9)


def test_a_stage_takes_its_longest_term_and_stages_add_up():
    frame = configurations(batch=[1])
    values = term_values("decode_step_s", rated_configurations(frame))
    total = predicted(plain(), frame)[0]
    terms = PHYSICS["decode_step_s"].terms
    alone = {t.name: t.factor * v for t, v in zip(terms, values[0], strict=True)}
    assert max(alone.values()) < total < sum(alone.values())


def test_known_factors_come_back_and_an_unseen_gpu_follows_its_data_sheet():
    rng = np.random.default_rng(0)
    frame = pd.concat(
        [
            configurations(8, device=gpu, context_tokens=rng.uniform(100, 8000, 8), datasheet=gpu)
            for gpu in GPUS
        ],
        ignore_index=True,
    )
    half = configurations(
        8, device="RTX 3090", model="half", layers=16, total_layers=17, weight_bytes=8_900_000_000
    )
    frame = pd.concat([frame, half], ignore_index=True).assign(engine_version="v")
    truth = plain(weight_read_dense=1.2, launch_graph=8.0, kv_read=2.0)
    measured = predicted(truth, frame)
    fit = fit_shared(
        "decode_step_s", term_values("decode_step_s", rated_configurations(frame)), measured, frame
    )
    unseen = configurations(device="L40S", datasheet="L40S", engine_version="v")
    assert predicted(fit, frame) == pytest.approx(measured, rel=0.01)
    assert predicted(fit, unseen) == pytest.approx(predicted(truth, unseen), rel=0.03)


def test_a_slow_device_deviates_and_the_others_do_not():
    frame = pd.concat([configurations(6, device=gpu, datasheet=gpu) for gpu in GPUS], ignore_index=True)
    slow = (frame["device"] == "RTX 4080").to_numpy()
    measured = predicted(plain(), frame) * np.where(slow, 1.3, 1.0)
    fit = fit_shared(
        "decode_step_s", term_values("decode_step_s", rated_configurations(frame)), measured, frame
    )
    assert predicted(fit, frame) == pytest.approx(measured, rel=0.06)
    assert max(fit.deviations, key=lambda device: fit.deviations[device]) == "RTX 4080"


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(PHYSICS)),
    st.sampled_from(["params", "weight_bytes", "layer_weight_bytes"]),
    st.floats(1.0, 4.0),
    st.integers(0, 33),
)
def test_more_bytes_are_never_faster_or_smaller(target, column, times, gpu_layers):
    small = configurations(gpu_layers=gpu_layers, tokens=300, weight_bytes=16_060_000_000)
    grown = {name: small[name] * times for name in ("weight_bytes", "layer_weight_bytes", "params")}
    assert predicted(plain(target), small.assign(**grown))[0] >= predicted(plain(target), small)[0]


@settings(max_examples=40, deadline=None)
@given(st.floats(1e9, 4e12), st.floats(1.0, 50.0), st.integers(0, 33), st.integers(1, 8))
def test_slower_memory_is_never_faster(bandwidth, times, gpu_layers, batch):
    c = rated_configurations(configurations(gpu_layers=gpu_layers, batch=batch))
    fast = replace(c, bandwidth=np.array([bandwidth * times]), host_bandwidth=np.array([bandwidth * times]))
    slow = replace(c, bandwidth=np.array([bandwidth]), host_bandwidth=np.array([bandwidth]))
    frame = configurations()
    for target in PHYSICS:
        slower, faster = (plain(target).predict(term_values(target, at), frame)[0] for at in (slow, fast))
        assert slower >= faster


def test_a_longer_context_a_larger_batch_and_more_gpus_in_a_row_cost_more_after_fitting(model):
    for column, values in (("context_tokens", [10.0, 500.0, 9000.0]), ("batch", [1, 4, 64])):
        asked = model.configurations(
            "llama-cpp",
            "RTX 4090",
            "Llama-3-8B F16",
            operation="decode",
            **{"context_tokens": 10.0, column: values},
        )
        assert np.all(np.diff(model.predict(asked)["duration_s_predicted"]) > 0)


def test_fewer_layers_on_a_fast_gpu_are_slower_after_fitting(model):
    asked = model.configurations(
        "llama-cpp", "RTX 3090", "Llama-2-13B Q4_0", operation="decode", gpu_layers=range(2, 42)
    )
    steps = model.predict(asked)["duration_s_predicted"].to_numpy()
    assert np.all(np.diff(steps) < 0)


def test_an_unseen_gpu_is_predicted_with_a_wider_interval(model):
    seen, unseen = (
        model.predict(
            model.configurations("llama-cpp", gpu, "Llama-3-8B F16", operation="decode", context_tokens=300.0)
        )
        for gpu in ("NVIDIA GeForce RTX 4090", "H100 PCIe")
    )
    width = [float(np.log(d["duration_s_high"] / d["duration_s_low"]).iloc[0]) for d in (seen, unseen)]
    assert 0 < width[0] < width[1]
    assert 1 / 90 < unseen["duration_s_predicted"].iloc[0] < 1 / 50


def test_a_saved_model_predicts_gpus_the_very_same(model, decode, tmp_path):
    model.save(tmp_path)
    loaded = PerformanceModel.load(tmp_path)
    pd.testing.assert_frame_equal(loaded.predict(decode), model.predict(decode), check_exact=True)
    assert {"weight_read_dense", "device_factor"} <= set(loaded.parameters()["parameter"])


def test_cuda_devices_are_known_by_the_hardware_of_the_dataset(decode):
    rows = decode[decode["device"] == "RTX 4090"].assign(
        device="cuda:0", hardware='{"gpus": ["NVIDIA GeForce RTX 4090, 24564 MiB"]}'
    )
    fitted = PerformanceModel().fit(pd.concat([decode[decode["device"] != "RTX 4090"], rows]))
    asked = fitted.configurations(
        "llama-cpp", "cuda:0", "Llama-3-8B F16", operation="decode", context_tokens=300.0
    )
    assert asked["datasheet"].tolist() == ["RTX 4090"]
    assert fitted.predict(asked)["duration_s_predicted"].between(1 / 60, 1 / 50).all()


def test_flagged_stalls_do_not_move_a_gpu_s_fit_and_are_said(decode):
    rng = np.random.default_rng(0)
    rows = decode.iloc[::3].reset_index(drop=True)
    stalled = rng.random(len(rows)) < 0.1
    slow = rows.assign(duration_s=rows["duration_s"] * np.where(stalled, 4.0, 1.0))
    clean = PerformanceModel(correction=False).fit(rows[~stalled])
    flagged = PerformanceModel(correction=False).fit(slow.assign(is_outlier=stalled))
    assert flagged.state_.shared[0].physics == clean.state_.shared[0].physics
    assert f"{stalled.sum()} rows flagged as outliers left out, but for intervals" in flagged.notes
    widths = [m.state_.shared[0].errors[""].cell for m in (clean, flagged)]
    assert widths[0] < widths[1]


def test_keys_and_values_in_host_memory_take_a_prefill_longer_the_more_the_longer():
    physics = plain("prefill_s")
    prompts = {"operation": "prefill", "tokens": [256, 512, 1024]}
    on_device, on_host = (
        predicted(physics, configurations(3, kv_on_host=where, **prompts)) for where in (0.0, 1.0)
    )
    assert (np.diff(on_host / on_device) > 0).all()
    assert (on_host > on_device).all()


def test_a_kind_of_configuration_that_was_hardly_measured_has_a_wider_interval():
    frame = published_frame()
    rows = frame[(frame["operation"] == "prefill") & (frame["engine"] == "llama-cpp")]
    whole = configurations(tokens=512).assign(operation="prefill")
    widths = []
    for train in (rows, rows[rows["gpu_count"] > 1]):
        done = PerformanceModel().fit(train).predict(whole)
        widths.append(np.log(done["duration_s_high"] / done["duration_s_low"]).item())
    assert widths[1] > widths[0] + np.log(1.5)


def test_a_model_beside_two_shapes_only_is_within_a_factor_of_two_at_best():
    frame = published_frame()
    rows = frame[(frame["operation"] == "prefill") & (frame["engine"] == "llama-cpp")]
    train = rows[~rows["model"].str.startswith("Llama-3-70B")]
    done = PerformanceModel().fit(train).predict(rows[rows["model"] == "Llama-3-70B F16"])
    assert (done["duration_s_high"] / done["duration_s_predicted"] > 1.9).all()


def test_a_kind_measured_at_unknown_lengths_is_measured_all_the_same():
    frame = published_frame()
    rows = frame[(frame["operation"] == "decode") & (frame["engine"] == "llama-cpp")]
    whole = (
        (rows["gpu_count"] == 1) & (rows["gpu_layers"] == rows["total_layers"]) & (rows["kv_on_host"] == 0)
    )
    (fit,) = PerformanceModel().fit(rows.assign(steps=rows["steps"].where(~whole, 0))).state_.shared
    assert set(fit.errors) == {"", "offloaded", "several", "whole"}
    assert fit.errors["whole"] == fit.errors[""]
