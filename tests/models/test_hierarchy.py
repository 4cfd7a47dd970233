"""The fit to many sources: what rows show, what they leave open, and how wide that makes intervals."""

import json

import numpy as np
import pandas as pd
import pytest

from shunter.catalog.gpus import catalog_gpus
from shunter.models import PerformanceModel
from shunter.models.fit.hierarchy import Hierarchy
from shunter.models.fit.physical import SharedPhysics
from shunter.models.fit.shared import term_values
from shunter.models.outside import why_out_of_range
from shunter.models.physics import PHYSICS, former, rated_configurations
from shunter.models.physics.release import NOW, release_of
from shunter.models.published.performance import ENGINE, published_performance
from shunter.models.published.rows import fitted_frame, published_frame

TARGET = "decode_step_s"


@pytest.fixture(scope="module")
def rows():
    frame = fitted_frame()
    kept = (frame["engine"] == ENGINE) & (frame["operation"] == "decode") & (frame["gpu_count"] == 1)
    few = frame[kept & (frame["batch"] == 1)].iloc[::3].reset_index(drop=True)
    return few.assign(datasheet=few["device"], attn_heads=few["attn_heads"].fillna(32))


def fitted(frame, measured=None):
    rated = rated_configurations(frame)
    measured = frame["duration_s"].to_numpy() if measured is None else measured
    values = term_values(TARGET, rated)
    return Hierarchy(PHYSICS[TARGET], TARGET, values, measured, frame, rated).fit()


def asked(gpu="RTX 4090", **changes):
    model = published_performance()
    given = {"operation": "decode", "context_tokens": 500.0, **changes}
    done = model.predict(model.configurations(ENGINE, gpu, "Llama-3-8B Q4_K_M", **given))
    width = np.log(done["duration_s_high"] / done["duration_s_low"]).to_numpy() / 2
    return done, width, why_out_of_range(model, done)


def test_a_wrong_row_moves_nothing(rows):
    right = fitted(rows)
    at = int((rows["device"] == "RTX A6000").to_numpy().argmax())
    wrong = rows["duration_s"].to_numpy() * np.where(np.arange(len(rows)) == at, 20.0, 1.0)
    assert fitted(rows, wrong).x == pytest.approx(right.x, abs=0.15)


def test_a_generation_that_is_slower_than_its_sheets_is_found_and_others_are_not(rows):
    before, gpus = fitted(rows).result(), catalog_gpus()
    slow = np.array([gpu in gpus and gpus[gpu].architecture == "Ada" for gpu in rows["device"]])
    after = fitted(rows, rows["duration_s"].to_numpy() * np.where(slow, 1.3, 1.0)).result()

    def moved(name):
        return after.generations[name] - before.generations[name]

    assert moved("Ada") > 0.05
    assert abs(moved("Ampere GA100")) < 0.05


def test_the_same_rows_give_the_same_fit(rows):
    assert fitted(rows).result() == fitted(rows.iloc[::1].copy()).result()


def test_few_sources_one_of_an_old_slow_release_are_predicted_as_they_were_measured():
    """What its kernels and its host do is no error of who measured it: or all sources are pushed off."""
    frame = published_frame().query(f"engine == '{ENGINE}' and operation == 'decode'").reset_index(drop=True)
    frame = frame.assign(datasheet=frame["device"], attn_heads=frame["attn_heads"].fillna(32))
    values = term_values(TARGET, rated_configurations(frame))
    fit = fitted(frame).result()
    off = np.log(fit.predict(values, frame) / frame["duration_s"])
    assert frame["source"].nunique() < 6
    assert abs(off.median()) < 0.05
    assert off.abs().mean() < 0.06
    assert fit.kernels["llama.cpp (mid-2023)"] > 0.1
    assert fit.uncertainty.spreads["source"] < 0.08


def test_a_file_of_before_kernels_and_hosts_had_effects_is_read():
    known = next(
        f for f in published_performance().state_.shared if f.target == TARGET and f.engine == ENGINE
    )
    content = json.loads(known.physics.model_dump_json())
    del content["kernels"], content["uncertainty"]["spreads"]["kernels"]
    del content["uncertainty"]["spreads"]["host"]
    read = SharedPhysics.model_validate(content)
    assert read.kernels == {}
    assert read.uncertainty.spreads["kernels"] == 0
    assert read.uncertainty.spreads["host"] == 0.2


def test_a_generation_without_rows_is_wider_and_says_so():
    _, seen, no_reason = asked("RTX 4090")
    done, unseen, reason = asked("H100 PCIe 80GB")
    assert unseen[0] > 1.2 * seen[0]
    assert done["out_of_range"].all()
    assert "no GPU of generation Hopper measured" in reason[0]
    assert no_reason == [""]


def test_a_host_that_is_not_known_is_wider_and_says_so():
    known = {"gpu_layers": 16}
    done, unknown, reason = asked(**known)
    _, stated, other = asked(**known, host_bandwidth_bytes_per_s=51.2e9)
    assert "host memory bandwidth not known" in reason[0]
    assert "host memory" not in other[0]
    assert done["out_of_range"].all()
    assert unknown[0] > 1.5 * stated[0]
    assert "host memory" not in asked(gpu_layers=33)[2][0]


def test_a_release_far_ahead_is_out_of_range():
    _, now, _ = asked(engine_version=f"llama.cpp ({NOW:.0f}-01)")
    done, later, reason = asked(engine_version="llama.cpp (2031-06)")
    assert "released after" in reason[0]
    assert done["out_of_range"].all()
    assert later[0] > now[0]


@pytest.mark.parametrize(
    ("text", "year", "flash", "ubatch"),
    [
        ("llama.cpp llama-bench b6123 79c1160 (2025-08), -fa 1, -ub 2048", 2025.62, True, 2048),
        ("llama.cpp llama-bench, CUDA 12.1 (May 2024)", 2024.38, False, None),
        ("llama.cpp build 1786", 2024.05, False, None),
        ("llama.cpp (mid-2023)", 2023.5, False, None),
        ("llama.cpp (2026-08), -fa 0", 2026.62, False, None),
        ("0.3.16", NOW, True, None),
    ],
)
def test_a_version_says_when_it_was_released_and_how_it_works(text, year, flash, ubatch):
    found = release_of(text)
    assert found.year == pytest.approx(year, abs=0.01)
    assert (found.flash_attention, found.ubatch_tokens) == (flash, ubatch)
    assert found.is_known == (text != "0.3.16")


def test_a_model_that_was_saved_with_former_terms_is_read_and_predicts(tmp_path):
    state = published_performance().state_
    fit = next(fit for fit in state.shared if fit.target == TARGET and fit.rows)
    terms = [term for stage in former.DECODE for term in stage]
    physics = fit.physics.model_copy(
        update={
            "factors": {t.name: t.factor for t in terms},
            "uncertainty": None,
            "generations": {},
            "own": {},
        }
    )
    old = fit.model_copy(update={"physics": physics, "ranges": {t.name: (0.0, 1.0) for t in terms}})
    model = PerformanceModel()._set(state.model_copy(update={"shared": (old,)}))
    loaded = PerformanceModel.load(model.save(tmp_path))
    step = loaded.predict(
        loaded.configurations(ENGINE, "RTX 4090", "Llama-3-8B F16", operation="decode", context_tokens=500.0)
    )
    assert step["duration_s_predicted"].between(1 / 70, 1 / 40).all()
    assert "uncertainty" in json.loads((tmp_path / "performance.json").read_text())["shared"][0]["physics"]


def test_own_rows_correct_it_and_are_saved(tmp_path):
    rows = fitted_frame().query(f"engine == '{ENGINE}' and device == 'RTX 4090' and operation == 'decode'")
    own = rows.head(6).reset_index(drop=True).assign(duration_s=lambda f: 1.4 * f["duration_s"])
    model = PerformanceModel().fit(own, published_performance())
    (verdict,) = model.state_.corrected
    assert verdict.used
    assert verdict.after.mape < verdict.before.mape
    pd.testing.assert_frame_equal(
        PerformanceModel.load(model.save(tmp_path)).predict(own), model.predict(own)
    )


@pytest.fixture(scope="module")
def prefills():
    frame = fitted_frame()
    kept = (frame["engine"] == ENGINE) & (frame["operation"] == "prefill") & (frame["gpu_count"] == 1)
    return frame[kept].reset_index(drop=True).assign(datasheet=lambda rows: rows["device"])


@pytest.mark.parametrize(
    ("gpu", "quantised", "term"),
    [
        ("RTX 4090", False, "matrix_16_bit"),
        ("RTX 4090", True, "matrix_int8"),
        ("M2 Ultra 192GB", True, "lanes"),
        ("P40", False, "lanes"),
        ("P40", True, "lanes_int8"),
        ("RX 6800", True, "lanes_int8"),
        ("RX 6800", False, "matrix_library"),
        ("RX 7900 XTX", True, "matrix_library"),
    ],
)
def test_what_multiplies_is_told_by_the_generation_and_the_weights(prefills, gpu, quantised, term):
    model = "Llama-3-8B Q4_K_M" if quantised else "Llama-3-8B F16"
    row = (
        prefills[prefills["model"] == model].head(1).assign(datasheet=gpu, engine_version="llama.cpp (2025)")
    )
    values = dict(
        zip(
            [t.name for t in PHYSICS["prefill_s"].terms],
            term_values("prefill_s", rated_configurations(row))[0],
            strict=True,
        )
    )
    multiplying = {name for name in values if name.startswith(("matrix", "lanes")) and values[name] > 0}
    assert multiplying == {term}


def test_a_slow_library_of_one_source_leaves_cuda_as_it_was(prefills):
    slow = prefills["source"].str.contains("kyuz0").to_numpy()
    seconds = prefills["duration_s"].to_numpy()

    def factors(measured):
        rated = rated_configurations(prefills)
        values = term_values("prefill_s", rated)
        fit = Hierarchy(PHYSICS["prefill_s"], "prefill_s", values, measured, prefills, rated).fit()
        return fit.result().factors

    before, after = factors(seconds), factors(seconds * np.where(slow, 3.0, 1.0))
    assert slow.any()
    assert after["matrix_16_bit"] == pytest.approx(before["matrix_16_bit"], rel=0.05)
    assert after["power_int8"] == pytest.approx(before["power_int8"], rel=0.05)
