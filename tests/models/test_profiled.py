"""What a profile measured of the smallest pieces of work."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from shunter.models.fit.profiled import profiled_work
from shunter.models.performance import PerformanceModel
from shunter.models.scales import Scale
from tests.models.conftest import MODELS, Physics


def test_the_smallest_request_of_each_model_and_level_is_kept(
    dataset: pd.DataFrame, physics: Physics
) -> None:
    found = profiled_work(dataset)
    places = {(one.model, one.gpu_layers) for one in found}
    assert places == set(zip(dataset["model"], dataset["gpu_layers"], strict=True))
    for one in found:
        assert (one.prompt_tokens, one.steps) == (16, 8)
        assert one.prefill_s == pytest.approx(physics.prefill_s(one.model, one.gpu_layers, 16))
        steps = [physics.decode_step_s(one.model, one.gpu_layers, 1, 16 + n) for n in range(1, 9)]
        assert one.decode_s == pytest.approx(sum(steps))
        assert one.half_width == pytest.approx(0.0, abs=1e-6)


def test_repeats_that_differ_make_it_unsure(dataset: pd.DataFrame) -> None:
    rng = np.random.default_rng(0)
    shaken = dataset.assign(duration_s=dataset["duration_s"] * rng.lognormal(0.0, 0.05, len(dataset)))
    assert all(0.005 < one.half_width < 2.0 for one in profiled_work(shaken))


@pytest.mark.parametrize(
    "change",
    [
        {"source": "llama-bench table.json"},
        {"is_outlier": True},
        {"batch": 2},
        {"repeat_only": 1},
        {"machines": 2},
    ],
)
def test_what_was_not_measured_here_twice_is_left_out(
    dataset: pd.DataFrame, change: dict[str, object]
) -> None:
    if "repeat_only" in change:
        frame = dataset.drop_duplicates(
            ["model", "gpu_layers", "operation", "prompt_tokens", "tokens", "batch"]
        )
        frame = frame[frame["batch"] == 1]
    elif "machines" in change:
        frame = dataset.assign(hardware_id=[f"m{i % 2}" for i in range(len(dataset))])
    else:
        frame = dataset.assign(**change)
    assert profiled_work(frame) == ()


def test_it_is_no_part_of_what_predicts_and_nothing_once_predictions_moved(dataset: pd.DataFrame) -> None:
    model = PerformanceModel().fit(dataset)
    assert model.profiled == profiled_work(dataset)
    scale = Scale(target="load_s", engine="fake", device=str(dataset["device"].iloc[0]), factor=1.1, rows=3)
    assert model.with_scales([scale], ["x"]).profiled == ()
    bare = PerformanceModel()._set(model.state_.model_copy(update={"profiled": ()}))
    assert bare.digest == model.digest
    assert set(MODELS) >= {one.model for one in model.profiled}
