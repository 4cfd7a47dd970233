"""Offload curves of the fake engine, whose decode steps are formulas."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from shunter.errors import InputError
from shunter.profiling.dataset.table import read_dataset
from shunter.profiling.offload_report import (
    offload_curves,
    offload_findings,
    offload_tables,
    write_offload_page,
)
from shunter.profiling.sweep.plan import SweepSettings
from shunter.profiling.sweep.sweep import plan_models, run_sweep
from tests.worlds import durations_for, fake_engine


@pytest.fixture(scope="module")
def rows(fake_checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    settings = SweepSettings(
        gpu_layers=("0", "50%", "all"),
        prompt_tokens=(16, 64),
        decode_tokens=(8,),
        batch=(1, 2),
        cut_tokens=(),
        repeats=2,
    )
    path = tmp_path_factory.mktemp("offload") / "fake.parquet"
    plan = plan_models(
        list(fake_checkpoints.values()), engine="fake", device="cpu:1-threads", settings=settings
    )
    run_sweep(plan, fake_engine(fake_checkpoints), path)
    return read_dataset(path)


def test_curves_are_those_of_the_formulas(rows: pd.DataFrame, fake_checkpoints: dict[str, Path]) -> None:
    curves = offload_curves(rows)
    assert len(curves) == 3 * 2 * 3
    costs = durations_for(fake_checkpoints)
    for point in curves.itertuples():
        steps_s = [
            costs.decode_step_s(str(point.model), levels, 1, float(str(point.context_tokens)))
            for levels in (int(str(point.gpu_layers)), int(str(point.total_layers)))
        ]
        assert point.median == pytest.approx(1 / steps_s[0], rel=1e-2)
        assert point.relative_median == pytest.approx(steps_s[1] / steps_s[0], rel=1e-2)
        assert point.repeats == 2
    for name in ("median", "q25", "q75", "min", "max"):
        assert curves[f"relative_{name}"].to_numpy() == pytest.approx(
            (curves[name] * curves["relative_median"] / curves["median"]).to_numpy()
        )


def test_the_spread_of_repeats_is_kept(rows: pd.DataFrame) -> None:
    first = rows.assign(tokens_per_s=rows["tokens_per_s"].where(rows["repeat"] > 0, rows["tokens_per_s"] / 2))
    curves, plain = offload_curves(first), offload_curves(rows)
    assert curves["max"].to_numpy() == pytest.approx(plain["max"].to_numpy())
    assert curves["min"].to_numpy() == pytest.approx(plain["min"].to_numpy() / 2)
    assert (curves["min"] < curves["q25"]).all()
    assert (curves["q25"] < curves["median"]).all()
    assert (curves["median"] < curves["q75"]).all()


def test_batches_are_told_apart(rows: pd.DataFrame) -> None:
    assert set(offload_curves(rows, batch=2)["batch"]) == {2}
    assert (offload_curves(rows, batch=2)["median"] > offload_curves(rows)["median"]).all()
    with pytest.raises(InputError, match="--batch must be one that was profiled: 1, 2"):
        offload_curves(rows, batch=3)


def test_without_decode_rows_there_is_no_curve(rows: pd.DataFrame) -> None:
    with pytest.raises(InputError, match="DATASET must hold decode rows"):
        offload_curves(rows[rows["operation"] == "load"])


def test_findings_say_what_is_lost_and_what_cannot_be_compared(rows: pd.DataFrame) -> None:
    lines = offload_findings(offload_curves(rows))
    assert len(lines) == 6
    assert all("at 100% offloaded against all layers on the device" in line for line in lines)
    unanchored = offload_findings(offload_curves(rows[rows["offload_ratio"] > 0]))
    assert all("never profiled with all layers on the device" in line for line in unanchored)
    single = offload_findings(offload_curves(rows[rows["offload_ratio"] == 0]))
    assert all("only one level was profiled (0% offloaded)" in line for line in single)


def test_the_page_works_offline_and_shows_every_point(rows: pd.DataFrame, tmp_path: Path) -> None:
    curves = offload_curves(rows)
    page = write_offload_page(curves, tmp_path / "o.html", sources=["from <here>"]).read_text()
    assert "<script src=" not in page
    assert "from &lt;here&gt;" in page
    tables = offload_tables(curves)
    assert len(tables) == 3
    assert page.count("<tr>") == sum(1 + len(table.rows) for table in tables)
    assert [p.name for p in tmp_path.iterdir()] == ["o.html"]
