from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from shunter.errors import BrokenFileError
from shunter.models.performance import PerformanceModel
from shunter.models.scales import Scale, scale_factors
from shunter.seals import sealed

WHERE = {"engine": "fake", "device": "cpu:1-threads"}
TIMES = ["duration_s_predicted", "duration_s_low", "duration_s_high", "duration_s_mean"]


def scale(target: str, factor: float, **changes: object) -> Scale:
    return Scale.model_validate({**WHERE, "target": target, "factor": factor, "rows": 5.0, **changes})


@pytest.fixture(scope="module")
def configurations(fake_performance: PerformanceModel) -> pd.DataFrame:
    return pd.concat(
        fake_performance.configurations("fake", "cpu:1-threads-50MB", model, operation=["load", "decode"])
        for model in ("small", "large")
    )


def test_times_with_both_ends_of_their_intervals_are_multiplied_and_memory_is_not(
    fake_performance: PerformanceModel, configurations: pd.DataFrame
) -> None:
    scales = [
        scale("load_s", 2.0, page_cache="warm"),
        scale("decode_step_s", 1.5),
        scale("decode_step_s", 2.0, model="large"),
        scale("decode_step_s", 9.0, device="cpu:2-threads"),
        scale("decode_step_s", 9.0, engine="transformers"),
    ]
    scaled = fake_performance.with_scales(scales, ["a run"])

    before, after = fake_performance.predict(configurations), scaled.predict(configurations)

    np.testing.assert_allclose(after[TIMES] / before[TIMES], np.outer([2.0, 1.5, 2.0, 3.0], np.ones(4)))
    others = [column for column in before if column not in TIMES]
    pd.testing.assert_frame_equal(after[others], before[others])
    cold = configurations.assign(page_cache="cold")
    cold = cold[cold["operation"] == "decode"]
    assert scaled.predict(cold)[TIMES[0]].tolist() == pytest.approx(
        after[TIMES[0]].to_numpy()[[1, 3]].tolist()
    )


def test_a_scale_of_warm_loads_leaves_cold_ones_alone() -> None:
    rows = pd.DataFrame({**WHERE, "model": "m", "page_cache": ["warm", "cold"]})
    assert scale_factors([scale("load_s", 2.0, page_cache="warm")], "load_s", "fake", rows).tolist() == [
        2.0,
        1.0,
    ]


def test_scales_are_kept_in_the_file_and_a_file_without_them_is_still_read(
    fake_performance: PerformanceModel, tmp_path: Path
) -> None:
    scaled = fake_performance.with_scales([scale("load_s", 2.0)], ["a run"])
    path = scaled.save(tmp_path)
    assert PerformanceModel.load(path).state_ == scaled.state_
    assert scaled.state_.data_fingerprint == fake_performance.state_.data_fingerprint

    content = json.loads(path.read_text())
    del content["scales"], content["recalibrated_on"]
    path.write_text(json.dumps(sealed(content)))
    assert PerformanceModel.load(path).state_ == fake_performance.state_


@pytest.mark.parametrize(
    ("field", "value"), [("factor", 0.0), ("factor", "1e999"), ("rows", -1.0), ("target", "host_bytes")]
)
def test_what_is_no_scale_is_refused(
    fake_performance: PerformanceModel, tmp_path: Path, field: str, value: object
) -> None:
    with pytest.raises(ValidationError):
        Scale.model_validate({**scale("load_s", 1.0).model_dump(), field: value})
    path = fake_performance.with_scales([scale("load_s", 2.0)], ["a run"]).save(tmp_path)
    content = json.loads(path.read_text())
    content["scales"][0][field] = value
    path.write_text(json.dumps(sealed(content)))
    with pytest.raises(BrokenFileError, match=f"scales.0.{field}"):
        PerformanceModel.load(path)


def test_scales_are_among_the_parameters(fake_performance: PerformanceModel) -> None:
    scaled = fake_performance.with_scales([scale("load_s", 2.0), scale("load_s", 1.5, model="large")], [])
    found = scaled.parameters().set_index("parameter")["value"]
    assert (found["scale"], found["scale large"]) == (2.0, 1.5)
