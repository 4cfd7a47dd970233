"""The benchmark's arithmetic, on small frames and on the fake engine, whose costs are formulas."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.profiling import curve_difference, error_rows, interleaved, overhead_row
from shunter.profiling.dataset.table import read_dataset
from shunter.profiling.sweep.plan import SweepSettings
from shunter.profiling.sweep.sweep import plan_models
from tests.worlds import fake_engine, fit_fake


@pytest.mark.parametrize(("engine_s", "ok"), [(91.0, True), (89.0, False)])
def test_overhead_is_what_is_not_in_the_engine(engine_s: float, ok: bool) -> None:
    row = overhead_row("transformers", engine_s=engine_s, wall_s=100, configurations=97)
    assert row.value == pytest.approx(1 - engine_s / 100)
    assert row.ok is ok
    assert "97 cells" in row.metric


def test_two_sweeps_take_turns_on_every_configuration(fake_checkpoints: dict[str, Path]) -> None:
    settings = SweepSettings(
        gpu_layers=("0", "50%", "all"), prompt_tokens=(16, 64), decode_tokens=(8,), batch=(1,), repeats=3
    )
    plan = plan_models([fake_checkpoints["small"]], engine="fake", device="cpu:1-threads", settings=settings)
    lines: list[str] = []
    rows = interleaved(fake_engine(fake_checkpoints), plan, say=lines.append)
    counts = rows.groupby(["cell_id", "sweep"]).size().unstack()
    assert counts.shape == (3 * 2, 2)
    assert (counts == 3).all(axis=None)
    assert rows["sweep"].iloc[::2].nunique() == 2, "which of the two is first is random"
    turns = [set(pair) for pair in rows["sweep"].to_numpy().reshape(-1, 2).tolist()]
    assert turns == [{"A", "B"}] * len(turns)
    assert len(lines) == len(plan.groups)
    difference, interval, configurations = curve_difference(rows)
    assert difference == pytest.approx(0, abs=1e-9)
    assert interval == pytest.approx((0, 0), abs=1e-9)
    assert configurations == 6


def test_the_difference_is_that_of_the_configurations_medians() -> None:
    both = {"a": (1.0, 1.02), "b": (2.0, 1.9), "c": (3.0, 3.3), "d": (1.0, 1.04), "e": (1.0, 1.0)}
    rows = pd.DataFrame(
        [
            (sweep, name, value * factor)
            for name, values in both.items()
            for sweep, value in zip("AB", values, strict=True)
            for factor in (1, 0.9, 9)
        ],
        columns=["sweep", "cell_id", "duration_s"],
    )
    difference, (low, high), count = curve_difference(rows)
    assert difference == pytest.approx(0.04)
    assert 0 <= low < difference < high <= 0.1 + 1e-9
    assert count == 5


@pytest.fixture(scope="module")
def frame(fake_checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("fit")
    fit_fake(fake_checkpoints, folder)
    return read_dataset(folder / "fake.parquet")


def test_errors_are_judged_against_the_bar(frame: pd.DataFrame) -> None:
    rows = error_rows("fake", frame)
    bars = {row.metric.rsplit(" ", 1)[1]: row.bar for row in rows}
    assert bars == {
        "decode": "<= 0.03",
        "prefill": "<= 0.05",
        "load": "<= 0.08",
        "kv_save": "<= 0.1",
        "kv_restore": "<= 0.1",
    }
    assert all(row.value is not None and row.value < 0.02 for row in rows[:3]), "formulas can be learned"
    # The fake engine's KV is as large for every model, which physics does not expect.
    assert [row.ok for row in rows] == [True, True, True, False, False]


def test_twice_the_noise_is_the_bar_where_it_is_more(frame: pd.DataFrame) -> None:
    again = frame.assign(row_id=frame["row_id"] + "x", duration_s=frame["duration_s"] * 1.2)
    decode = error_rows("fake", pd.concat([frame, again], ignore_index=True))[0]
    assert decode.bar == f"<= {2 * (0.1 / 1.1):.4g}"
    assert "repeats differ by 9.1%" in decode.note


def test_an_operation_that_the_budget_left_out_is_missed(frame: pd.DataFrame) -> None:
    rows = error_rows("fake", frame[~frame["operation"].str.startswith("kv_")])
    assert [row.ok for row in rows[-2:]] == [False, False]
    assert rows[-1].value is None
