"""The paper's protocol on the fake engine, whose costs are formulas: every figure can be computed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shunter.catalog.checkpoints import Checkpoint, read_checkpoint
from shunter.catalog.devices import parse_device
from shunter.engines.base import Capabilities, Engine, MemoryReport, WorkerDiedError
from shunter.engines.fake.engine import FakeEngine
from shunter.errors import BrokenFileError, InputError, VersionError
from shunter.parquet import write_table
from shunter.profiling.checkpoints.synthetic import write_checkpoint
from shunter.profiling.dataset.table import read_dataset
from shunter.profiling.preemption.answers import answers, findings
from shunter.profiling.preemption.cycles import PARTS, read_cycles
from shunter.profiling.preemption.folder import (
    Prediction,
    open_measurement,
    read_measurement,
    run_measurement,
)
from shunter.profiling.preemption.paper import paper_cells, paper_lines
from shunter.profiling.preemption.plan import (
    PreemptionPlan,
    PreemptionSettings,
    cut_points,
    make_preemption_plan,
)
from shunter.profiling.preemption.report import preemption_results
from shunter.profiling.preemption.summary import slope_per_1000_tokens, summarise
from shunter.profiling.preemption.tables import preemption_tables
from tests.worlds import durations_for, fake_engine

SETTINGS = PreemptionSettings(
    job_tokens=40, other_tokens=10, prompt_tokens=8, cuts=(2, 10, 20, 38), repeats=2
)


@pytest.fixture(scope="module")
def models(fake_checkpoints: dict[str, Path]) -> list[Checkpoint]:
    return [read_checkpoint(path) for path in fake_checkpoints.values()]


def planned(
    models: list[Checkpoint], other: Checkpoint | None, settings: PreemptionSettings, **place: str
) -> PreemptionPlan:
    device = parse_device(place.get("device", "cpu:1-threads"))
    return make_preemption_plan(models, other, settings, engine=place.get("engine", "fake"), device=device)


def measured(
    plan: PreemptionPlan,
    engine: Engine,
    folder: Path,
    *,
    predictions: Sequence[Prediction] = (),
    resume: bool = False,
) -> pd.DataFrame:
    open_measurement(folder, plan, predict=lambda: predictions, resume=resume)
    run_measurement(folder, plan, engine)
    return read_measurement(folder, plan)


def test_each_part_is_what_the_engine_took(
    models: list[Checkpoint], fake_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    plan = planned(models, None, SETTINGS)
    frame = measured(plan, fake_engine(fake_checkpoints), tmp_path)
    assert len(frame) == len(models) * 4 * 2
    costs = durations_for(fake_checkpoints)
    for row in frame.itertuples():
        assert row.other == "small"
        assert row.load_a_s == pytest.approx(costs.load_s(row.model, "", row.gpu_layers))
        assert row.load_b_s == pytest.approx(costs.load_s("small", "", row.gpu_layers))
        unload_s = pytest.approx(costs.unload_s(row.model, row.gpu_layers))
        assert row.unload_a_s == unload_s
        assert row.unload_b_s == unload_s
        assert row.kv_tokens == 8 + row.cut_tokens - 1
        assert row.kv_save_s == pytest.approx(costs.kv_save_s(row.model, row.gpu_layers, row.kv_tokens))
        assert row.kv_restore_s == pytest.approx(row.kv_save_s)
        assert row.other_s == pytest.approx(0, abs=1e-9)
        assert row.overhead_s == pytest.approx(sum(getattr(row, part) for part in PARTS))
        assert row.compute_a_s == pytest.approx(row.baseline_s)
        assert row.device_bytes_loaded == costs.device_bytes(row.model, row.gpu_layers)
    assert frame["tokens_equal"].all()
    assert frame["memory_back"].all()
    assert frame["predicted_s"].isna().all()
    assert findings(preemption_results(frame))[0].endswith("from the first cut to the last.")


def test_the_dependence_on_the_cut_is_that_of_the_kv(
    models: list[Checkpoint], fake_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    plan = planned(models[:1], models[2], SETTINGS)
    frame = measured(plan, fake_engine(fake_checkpoints), tmp_path)
    summary = summarise(frame)["small"]
    costs = durations_for(fake_checkpoints)
    per_1000_s = 2 * 1000 * costs.kv_bytes_per_token / costs.bytes_per_s
    for slope in (summary["slope"], summary["kv_slope"]):
        assert slope["slope"] == pytest.approx(per_1000_s)
        assert slope["low"] <= slope["slope"] <= slope["high"]
        assert slope["robust_slope"] == pytest.approx(per_1000_s)
    assert summary["other"] == "large"
    assert summary["swap_share"] + summary["kv_share"] == pytest.approx(1)
    assert summary["swap_share"] > 0.9
    assert "the cut matters" in findings(preemption_results(frame))[0]


def test_every_cell_is_measured_in_an_order_that_the_seed_decides(models: list[Checkpoint]) -> None:
    plan = planned(models, None, SETTINGS)
    cells = order(plan)
    assert len(set(cells)) == len(cells) == len(models) * 5 * 2
    assert cells == order(plan)
    other = planned(models, None, replace(SETTINGS, seed=1))
    assert cells != order(other)
    assert [r for r, _, _ in cells] == sorted(r for r, _, _ in cells)


def order(plan: PreemptionPlan) -> list[tuple[int, str, int]]:
    """Repeat, model and cut of each unit; a cut of 0 is an uninterrupted run."""
    sweep = plan.sweep()
    return [(u.repeat, g.checkpoint.name, u.cut_tokens) for g in sweep.groups for u in g.units]


class Leaking(FakeEngine):
    """Keeps a model's memory after it was unloaded."""

    leaked_bytes = 0

    def unload(self, model: str) -> Any:
        done = super().unload(model)
        self.leaked_bytes = 40_000_000
        return done

    def memory(self) -> MemoryReport:
        return MemoryReport(super().memory().device_bytes + self.leaked_bytes, 0)

    def load(self, *args: Any, **options: Any) -> Any:
        self.leaked_bytes = 0
        return super().load(*args, **options)


class Forgetful(FakeEngine):
    """Brings back the KV of another request."""

    def restore_kv(self, model: str, request: str) -> Any:
        done = super().restore_kv(model, request)
        self._ledger.residents[model].requests[request] = [1, 2, 3]
        return done


class Recomputing(FakeEngine):
    """Cannot save KV."""

    def capabilities(self) -> Capabilities:
        return replace(super().capabilities(), kv_save=False)

    def save_kv(self, model: str, request: str) -> Any:
        raise AssertionError("it said that it cannot")


def test_memory_that_does_not_come_back_is_found(models: list[Checkpoint], tmp_path: Path) -> None:
    plan = planned(models[:1], None, SETTINGS)
    engine = Leaking(total_layers=models[0].spec.total_layers)
    frame = measured(plan, engine, tmp_path)
    # The first cycle starts where the leak of the run before it is taken for idle.
    assert not frame["memory_back"].all() or (frame["device_bytes_idle"] >= 40_000_000).all()
    assert (frame["device_bytes_after_unload_a"] >= 40_000_000).all()


def test_tokens_that_differ_are_found(models: list[Checkpoint], tmp_path: Path) -> None:
    plan = planned(models[:1], None, SETTINGS)
    frame = measured(plan, Forgetful(total_layers=models[0].spec.total_layers), tmp_path)
    assert not frame["tokens_equal"].any()
    assert any("the tokens differ" in line for line in findings(preemption_results(frame)))


def test_an_engine_that_cannot_save_recomputes(models: list[Checkpoint], tmp_path: Path) -> None:
    plan = planned(models[:1], None, SETTINGS)
    engine = Recomputing(total_layers=models[0].spec.total_layers)
    frame = measured(plan, engine, tmp_path)
    assert frame["tokens_equal"].all()
    assert set(frame["kv_mode"]) == {"recompute"}
    for row in frame.itertuples():
        again_s = engine.durations.prefill_s(row.model, row.gpu_layers, 8 + row.cut_tokens)
        assert row.kv_restore_s == pytest.approx(again_s)
        assert row.kv_save_s == row.kv_bytes == 0


def test_cold_drops_the_file_before_each_load(models: list[Checkpoint], tmp_path: Path) -> None:
    calls: list[tuple[str, str]] = []

    class Recording(FakeEngine):
        def drop_page_cache(self, checkpoint: str) -> None:
            calls.append(("drop", checkpoint))

        def load(self, model: str, checkpoint: str, gpu_layers: int | None, **options: Any) -> Any:
            calls.append(("load", checkpoint))
            return super().load(model, checkpoint, gpu_layers, **options)

    settings = replace(SETTINGS, cuts=(5,), repeats=1, page_cache="cold")
    layers = {model.name: model.spec.total_layers for model in models}
    frame = measured(planned(models[:2], None, settings), Recording(total_layers=layers), tmp_path)
    assert set(frame["page_cache"]) == {"cold"}
    drops, loads = calls[::2], calls[1::2]
    assert [path for _, path in drops] == [path for _, path in loads]
    assert {what for what, _ in drops} == {"drop"}


def test_predictions_go_into_the_rows_and_are_judged(
    models: list[Checkpoint], fake_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    plan = planned(models[:1], None, SETTINGS)
    known = measured(plan, fake_engine(fake_checkpoints), tmp_path / "known")
    own_s = known.groupby("cut_tokens")["own_s"].mean()
    predictions = [
        Prediction("small", cut, 1.1 * own_s[cut], own_s[cut], 1.2 * own_s[cut] + 1, cut == 38)
        for cut in SETTINGS.cuts
    ]
    frame = measured(plan, fake_engine(fake_checkpoints), tmp_path, predictions=predictions)
    judged = summarise(frame)["small"]["prediction"]
    assert judged["bias"] == pytest.approx(0.1)
    assert judged["mape"] == pytest.approx(0.1)
    assert judged["out_of_range"] == pytest.approx(0.25)
    titles = [table.title for table in preemption_tables(preemption_results(frame))]
    assert titles[-1] == "The performance model's prediction"


def test_slopes_against_the_formula() -> None:
    rng = np.random.default_rng(0)
    cuts = pd.Series(np.repeat(np.arange(100, 5001, 600), 4))
    line = slope_per_1000_tokens(cuts, 3 + 0.02 * cuts / 1000 + pd.Series(rng.normal(0, 0.01, len(cuts))))
    assert line is not None
    assert line["low"] < 0.02 < line["high"]
    assert line["robust_low"] < 0.02 < line["robust_high"]
    exact = slope_per_1000_tokens(cuts, 3 + 0.02 * cuts / 1000)
    assert exact is not None
    assert exact["slope"] == pytest.approx(0.02)
    assert slope_per_1000_tokens(cuts[:4], cuts[:4] * 1.0) is None
    assert slope_per_1000_tokens(pd.Series([1, 2]), pd.Series([1.0, 2.0])) is None


def test_a_few_slow_cycles_make_no_dependence_on_the_cut(
    models: list[Checkpoint], fake_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    plan = planned(models[:1], None, SETTINGS)
    frame = measured(plan, fake_engine(fake_checkpoints), tmp_path)
    rng = np.random.default_rng(1)
    noisy = pd.concat([frame] * 6, ignore_index=True)
    noisy["overhead_s"] = 1 + rng.normal(0, 0.01, len(noisy)) + 5.0 * (noisy.index % 40 == 7)
    assert "undecided whether the cut matters" in findings(preemption_results(noisy))[0]
    noisy["overhead_s"] = 1 + rng.normal(0, 0.01, len(noisy)) + 0.01 * noisy["cut_tokens"]
    assert "the cut matters" in findings(preemption_results(noisy))[0]


def test_an_interval_that_holds_no_change_is_no_flat_line(
    models: list[Checkpoint], fake_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    frame = measured(planned(models[:1], None, SETTINGS), fake_engine(fake_checkpoints), tmp_path)
    results = preemption_results(frame)
    model = results["models"]["small"]
    slope = {"slope": -0.27, "low": -0.57, "high": 0.04}
    model["slope"] = {**slope, **{f"robust_{end}": value for end, value in slope.items()}}
    model["change_over_cuts"] = slope
    flat = answers(results)[1]
    assert "cut point? Undecided (a change by 57.0% of the overhead is within the widest interval)." in flat
    assert "-27.0% [-57.0%, +4.0%]" in flat
    assert "flat" not in flat.removeprefix("Is it flat in the cut point?")
    assert "undecided whether the cut matters" in findings(results)[0]


def test_most_of_one_cycle_is_no_answer(
    models: list[Checkpoint], fake_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    frame = measured(planned(models[:1], None, SETTINGS), fake_engine(fake_checkpoints), tmp_path)
    frame["overhead_s"] = frame[[name for name in frame if name.startswith(("load_", "unload_"))][:1]].sum(
        axis=1
    )
    assert "here too? Undecided" in answers(preemption_results(frame[:1]))[0]


def test_the_papers_six_cells() -> None:
    cells = {(cell["gpu"], cell["model"]): cell for cell in paper_cells()}
    assert len(cells) == 6
    assert cells["RTX 5000 Ada", "Qwen2.5-14B"]["overhead_s"] == 7.31
    assert cells["RTX A6000", "Qwen2.5-3B"]["overhead_s"] == 2.62
    assert min(cell["swap_share"] for cell in cells.values()) == pytest.approx(0.985)
    assert all("summaries" in cell["provenance"] for cell in cells.values())
    assert cells["RTX A6000", "Qwen3-8B"]["kv_save_s"] == pytest.approx(0.0678)


def test_the_papers_lines_are_those_of_its_cells() -> None:
    lines = paper_lines(paper_cells())
    assert lines["RTX 5000 Ada"]["bytes_per_s"] / 1e9 == pytest.approx(5.21, abs=0.01)
    assert lines["RTX A6000"]["intercept_s"] == pytest.approx(1.84, abs=0.01)


def test_the_answers_are_computed_from_the_rows(
    models: list[Checkpoint], fake_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    frame = measured(planned(models, None, SETTINGS), fake_engine(fake_checkpoints), tmp_path)
    dominates, flat, differs = answers(preemption_results(frame))
    assert "here too? Yes" in dominates
    assert "98.5% to 99.4%" in dominates
    assert "cut point? No" in flat
    assert "the loads are complete" in differs
    frame["kv_save_s"], frame["resume_step_s"] = frame["overhead_s"] * 2, 1.0
    frame["overhead_s"] *= 3
    dominates, _, differs = answers(preemption_results(frame))
    assert "here too? No" in dominates
    assert "are not complete" in differs


class Dying(FakeEngine):
    """Ends in the middle of a cycle."""

    saves_left = 3

    def save_kv(self, model: str, request: str) -> Any:
        self.saves_left -= 1
        if self.saves_left < 0:
            raise WorkerDiedError("killed")
        return super().save_kv(model, request)


def test_an_interrupted_measurement_goes_on_with_what_is_missing(
    models: list[Checkpoint], fake_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    plan = planned(models[:2], None, SETTINGS)
    predictions = [Prediction(m.name, c, 1.0, 0.5, 2.0, False) for m in models[:2] for c in SETTINGS.cuts]
    dying = Dying(durations_for(fake_checkpoints), total_layers=fake_engine(fake_checkpoints).total_layers)
    with pytest.raises(WorkerDiedError):
        measured(plan, dying, tmp_path, predictions=predictions)
    before = read_measurement(tmp_path, plan)
    assert len(before) == 3
    (tmp_path / ".preemption.parquet.999999999.tmp").write_text("half a file of a killed process")

    frame = measured(plan, fake_engine(fake_checkpoints), tmp_path, resume=True)
    pd.testing.assert_frame_equal(frame.head(3), before)
    assert len(frame) == len(frame[["model", "cut_tokens", "repeat"]].drop_duplicates()) == 2 * 4 * 2
    assert frame["measured_at"].is_monotonic_increasing
    assert frame["session_id"].nunique() == 2
    assert (frame["predicted_s"] == 1.0).all(), "predictions are those of before the first row"
    assert frame["tokens_equal"].all()
    assert [p.name for p in tmp_path.glob(".*.tmp")] == []

    rows = read_dataset(tmp_path / "preemption.parquet")
    assert rows["row_id"].str.partition("/")[2].is_unique, "nothing is measured twice"
    assert len(rows) == 2 * 2 * (4 * 11 + 2)

    engine = fake_engine(fake_checkpoints)
    pd.testing.assert_frame_equal(measured(plan, engine, tmp_path, resume=True), frame)
    assert engine.clock.now_s == 0, "nothing is left to measure"


def test_an_uninterrupted_run_precedes_the_cycles_of_its_model(models: list[Checkpoint]) -> None:
    plan = planned(models[:2], None, SETTINGS)
    for group in plan.sweep().groups:
        assert [unit.kind for unit in group.units] == ["run", *["cycle"] * 4]
        assert {unit.cut_tokens for unit in group.units[1:]} == set(SETTINGS.cuts)


def test_only_the_same_measurement_goes_on(
    models: list[Checkpoint], fake_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    plan = planned(models[:1], None, replace(SETTINGS, repeats=1))
    measured(plan, fake_engine(fake_checkpoints), tmp_path)
    before = (tmp_path / "preemption.parquet").read_bytes()
    again = fake_engine(fake_checkpoints)
    with pytest.raises(InputError, match="--out must be a folder without an earlier measurement"):
        measured(plan, again, tmp_path)
    longer = planned(models[:1], None, replace(SETTINGS, repeats=1, job_tokens=50))
    with pytest.raises(InputError, match="--resume must go on with what was begun: job_tokens was 40"):
        measured(longer, again, tmp_path, resume=True)
    with pytest.raises(InputError, match=r"--resume .* models was small \("):
        measured(planned(models[:2], models[0], plan.settings), again, tmp_path, resume=True)
    elsewhere = pd.read_parquet(tmp_path / "preemption.parquet").assign(hardware_id="another")
    table = pq.read_table(tmp_path / "preemption.parquet")
    moved = pa.Table.from_pandas(elsewhere).replace_schema_metadata(table.schema.metadata)
    write_table(moved, tmp_path / "preemption.parquet")
    with pytest.raises(InputError, match="--resume must go on where it began: hardware_id was another"):
        measured(plan, again, tmp_path, resume=True)
    (tmp_path / "preemption.parquet").write_bytes(before)
    for name in ("predictions.json", "plan.json"):
        (tmp_path / name).write_text("{")
        with pytest.raises(BrokenFileError, match=name):
            measured(plan, again, tmp_path, resume=True)
    assert again.clock.now_s == 0
    assert (tmp_path / "preemption.parquet").read_bytes() == before


def test_cut_points_cover_the_share_of_the_job_that_the_paper_covers() -> None:
    points = cut_points(9, 7000)
    assert (points[0], points[-1], len(points)) == (100, 5000, 9)
    assert cut_points(9, 200)[0] == 3
    with pytest.raises(InputError, match="--cuts must fit into a job of 8 tokens"):
        cut_points(9, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cuts": ()}, "--cuts must be from 2 to 38"),
        ({"cuts": (1, 5)}, "--cuts must be from 2 to 38"),
        ({"cuts": (39,)}, "--cuts must be from 2 to 38"),
        ({"other_tokens": 1}, "--other-tokens must be at least 2"),
        ({"prompt_tokens": 0}, "--prompt must be at least 1"),
        ({"repeats": 0}, "--repeats must be at least 1"),
        ({"context_tokens": 20}, "--context must be at least 49"),
        ({"page_cache": "icy"}, "--page-cache must be warm or cold"),
        ({"gpu_layers": "1000"}, "--gpu-layers must be all"),
    ],
)
def test_bad_settings(models: list[Checkpoint], change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        planned(models, None, replace(SETTINGS, **change))


def test_models_are_given_once(models: list[Checkpoint]) -> None:
    for wrong in ([], [models[0], models[0]]):
        with pytest.raises(InputError, match="--model must be given once or more"):
            planned(wrong, None, SETTINGS)


def test_an_engine_that_cannot_split_refuses_a_level(models: list[Checkpoint], tmp_path: Path) -> None:
    plan = planned(models[:1], None, replace(SETTINGS, gpu_layers="50%"))
    engine = FakeEngine(total_layers=models[0].spec.total_layers, partial_offload=False)
    with pytest.raises(InputError, match="--gpu-layers must be all: fake on fake cannot split"):
        measured(plan, engine, tmp_path)
    assert engine.clock.now_s == 0


def test_files_that_are_none(
    models: list[Checkpoint], fake_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    plan = planned(models[:1], None, replace(SETTINGS, repeats=1))
    measured(plan, fake_engine(fake_checkpoints), tmp_path)
    path = tmp_path / "preemption.parquet"
    table = pq.read_table(path)
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BrokenFileError, match=r"cut\.parquet: cannot be read"):
        read_cycles(cut)
    pq.write_table(table.replace_schema_metadata({}), cut)
    with pytest.raises(BrokenFileError, match="no profile dataset"):
        read_cycles(cut)
    pq.write_table(table.replace_schema_metadata({"shunter_preemption_schema": "9"}), cut)
    with pytest.raises(VersionError, match="the preemption schema must be version 1"):
        read_cycles(cut)
    with pytest.raises(InputError, match="be an existing Parquet file"):
        read_cycles(tmp_path / "none.parquet")
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")] == []


@pytest.mark.engine
@pytest.mark.parametrize(
    ("engine_name", "module", "device", "format"),
    [
        ("transformers", "transformers", "cpu:1-threads", "safetensors"),
        ("llama-cpp", "llama_cpp", "loopback:1-threads", "gguf"),
    ],
)
def test_a_real_engine(
    models: list[Checkpoint], tmp_path: Path, engine_name: str, module: str, device: str, format: str
) -> None:
    """Tokens equal those of an uninterrupted run and memory comes back, on the engine itself."""
    import importlib.util

    from shunter.engines.caller.client import start_engine

    if importlib.util.find_spec(module) is None:
        pytest.skip(f"needs {module}")
    out = tmp_path / ("small.gguf" if format == "gguf" else "small")
    small = write_checkpoint(models[0].spec, out, format=format, quantization="F32")
    settings = replace(SETTINGS, cuts=(2, 20, 38), repeats=1)
    plan = planned([small], None, settings, engine=engine_name, device=device)
    with start_engine(engine_name, device) as engine:
        rows = measured(plan, engine, tmp_path / "out")
        assert engine.memory().device_bytes > 0
    assert sorted(rows["cut_tokens"]) == [2, 20, 38]
    for row in rows.itertuples():
        assert row.tokens_equal
        assert row.memory_back
        assert row.kv_bytes > 0
        assert row.kv_tokens == 8 + row.cut_tokens - 1
        assert all(getattr(row, part) >= 0 for part in PARTS)
        assert row.overhead_s == pytest.approx(sum(getattr(row, part) for part in PARTS))
