"""The paper's protocol on the fake engine, whose costs are formulas: every figure can be computed by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from shunter.catalog.checkpoints import Checkpoint, read_checkpoint
from shunter.errors import BrokenFileError, InputError, VersionError
from shunter.profiling.engines.base import Capabilities, MemoryReport
from shunter.profiling.engines.fake import FakeEngine
from shunter.profiling.preemption import Prediction, measure_preemption
from shunter.profiling.preemption_plan import (
    PreemptionPlan,
    PreemptionSettings,
    cut_points,
    make_preemption_plan,
)
from shunter.profiling.preemption_report import findings, preemption_results, preemption_tables
from shunter.profiling.preemption_rows import PARTS, PreemptionRow, read_rows, write_rows
from shunter.profiling.preemption_summary import paper_cells, slope_per_1000_tokens, summarise
from shunter.profiling.synthetic import write_checkpoint
from tests.worlds import durations_for, fake_engine

SETTINGS = PreemptionSettings(
    job_tokens=40, other_tokens=10, prompt_tokens=8, cuts=(2, 10, 20, 38), repeats=2
)


@pytest.fixture(scope="module")
def models(fake_checkpoints: dict[str, Path]) -> list[Checkpoint]:
    return [read_checkpoint(path) for path in fake_checkpoints.values()]


def measured(
    plan: PreemptionPlan, engine: FakeEngine, folder: Path, **options: Any
) -> tuple[list[PreemptionRow], pd.DataFrame]:
    rows: list[PreemptionRow] = []
    measure_preemption(plan, engine, device="cpu:1-threads", keep=rows.append, **options)
    write_rows(rows, folder / "preemption.parquet")
    return rows, read_rows(folder / "preemption.parquet")


def test_each_part_is_what_the_engine_took(
    models: list[Checkpoint], fake_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    plan = make_preemption_plan(models, None, SETTINGS)
    rows, frame = measured(plan, fake_engine(fake_checkpoints), tmp_path)
    assert len(rows) == len(models) * 4 * 2
    costs = durations_for(fake_checkpoints)
    for row in rows:
        assert row.other == "small"
        assert row.load_a_s == pytest.approx(costs.load_s(row.model, "", row.gpu_layers))
        assert row.load_b_s == pytest.approx(costs.load_s("small", "", row.gpu_layers))
        assert row.unload_a_s == row.unload_b_s == pytest.approx(costs.unload_s(row.model, row.gpu_layers))
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
    plan = make_preemption_plan(models[:1], models[2], SETTINGS)
    _, frame = measured(plan, fake_engine(fake_checkpoints), tmp_path)
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
    plan = make_preemption_plan(models, None, SETTINGS)
    cells = [(repeat, model.name, cut) for repeat, model, cut in plan.order()]
    assert len(set(cells)) == len(cells) == plan.runs - len(models)
    assert cells == [(r, m.name, c) for r, m, c in plan.order()]
    other = make_preemption_plan(models, None, replace(SETTINGS, seed=1))
    assert cells != [(r, m.name, c) for r, m, c in other.order()]
    assert [r for r, _, _ in cells] == sorted(r for r, _, _ in cells)


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
    plan = make_preemption_plan(models[:1], None, SETTINGS)
    engine = Leaking(total_layers=models[0].spec.total_layers)
    _, frame = measured(plan, engine, tmp_path)
    # The first cycle starts where the leak of the run before it is taken for idle.
    assert not frame["memory_back"].all() or (frame["device_bytes_idle"] >= 40_000_000).all()
    assert (frame["device_bytes_after_unload_a"] >= 40_000_000).all()


def test_tokens_that_differ_are_found(models: list[Checkpoint], tmp_path: Path) -> None:
    plan = make_preemption_plan(models[:1], None, SETTINGS)
    _, frame = measured(plan, Forgetful(total_layers=models[0].spec.total_layers), tmp_path)
    assert not frame["tokens_equal"].any()
    assert any("the tokens differ" in line for line in findings(preemption_results(frame)))


def test_an_engine_that_cannot_save_recomputes(models: list[Checkpoint], tmp_path: Path) -> None:
    plan = make_preemption_plan(models[:1], None, SETTINGS)
    engine = Recomputing(total_layers=models[0].spec.total_layers)
    rows, frame = measured(plan, engine, tmp_path)
    assert frame["tokens_equal"].all()
    assert set(frame["kv_mode"]) == {"recompute"}
    for row in rows:
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
    _, frame = measured(
        make_preemption_plan(models[:2], None, settings), Recording(total_layers=layers), tmp_path
    )
    assert set(frame["page_cache"]) == {"cold"}
    drops, loads = calls[::2], calls[1::2]
    assert [path for _, path in drops] == [path for _, path in loads]
    assert {what for what, _ in drops} == {"drop"}


def test_predictions_go_into_the_rows_and_are_judged(
    models: list[Checkpoint], fake_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    plan = make_preemption_plan(models[:1], None, SETTINGS)
    _, known = measured(plan, fake_engine(fake_checkpoints), tmp_path)
    own_s = known.groupby("cut_tokens")["own_s"].mean()
    predictions = {
        ("small", cut): Prediction(1.1 * own_s[cut], own_s[cut], 1.2 * own_s[cut] + 1, cut == 38)
        for cut in SETTINGS.cuts
    }
    _, frame = measured(plan, fake_engine(fake_checkpoints), tmp_path, predictions=predictions)
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
    plan = make_preemption_plan(models[:1], None, SETTINGS)
    _, frame = measured(plan, fake_engine(fake_checkpoints), tmp_path)
    rng = np.random.default_rng(1)
    noisy = pd.concat([frame] * 6, ignore_index=True)
    noisy["overhead_s"] = 1 + rng.normal(0, 0.01, len(noisy)) + 5.0 * (noisy.index % 40 == 7)
    assert "a flat line fits the cuts" in findings(preemption_results(noisy))[0]
    noisy["overhead_s"] = 1 + rng.normal(0, 0.01, len(noisy)) + 0.01 * noisy["cut_tokens"]
    assert "the cut matters" in findings(preemption_results(noisy))[0]


def test_the_papers_six_cells() -> None:
    cells = {(cell["gpu"], cell["model"]): cell for cell in paper_cells()}
    assert len(cells) == 6
    assert cells["RTX 5000 Ada", "Qwen2.5-14B"]["overhead_s"] == 7.31
    assert cells["RTX A6000", "Qwen2.5-3B"]["overhead_s"] == 2.62
    assert min(cell["swap_share"] for cell in cells.values()) == pytest.approx(0.985)
    assert all("summaries" in cell["provenance"] for cell in cells.values())
    assert cells["RTX A6000", "Qwen3-8B"]["kv_save_s"] == pytest.approx(0.0678)


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
        make_preemption_plan(models, None, replace(SETTINGS, **change))


def test_models_are_given_once(models: list[Checkpoint]) -> None:
    for wrong in ([], [models[0], models[0]]):
        with pytest.raises(InputError, match="--model must be given once or more"):
            make_preemption_plan(wrong, None, SETTINGS)


def test_an_engine_that_cannot_split_refuses_a_level(models: list[Checkpoint], tmp_path: Path) -> None:
    plan = make_preemption_plan(models[:1], None, replace(SETTINGS, gpu_layers="50%"))
    engine = FakeEngine(total_layers=models[0].spec.total_layers, partial_offload=False)
    with pytest.raises(InputError, match="--gpu-layers must be all: fake on fake cannot split"):
        measured(plan, engine, tmp_path)
    assert engine.clock.now_s == 0


def test_files_that_are_none(
    models: list[Checkpoint], fake_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    plan = make_preemption_plan(models[:1], None, replace(SETTINGS, repeats=1))
    measured(plan, fake_engine(fake_checkpoints), tmp_path)
    path = tmp_path / "preemption.parquet"
    table = pq.read_table(path)
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BrokenFileError, match=r"cut\.parquet: cannot be read"):
        read_rows(cut)
    pq.write_table(table.replace_schema_metadata({}), cut)
    with pytest.raises(BrokenFileError, match="no preemption measurement"):
        read_rows(cut)
    pq.write_table(table.replace_schema_metadata({"shunter_preemption_schema": "9"}), cut)
    with pytest.raises(VersionError, match="the preemption schema must be version 1"):
        read_rows(cut)
    with pytest.raises(InputError, match="be an existing Parquet file"):
        read_rows(tmp_path / "none.parquet")
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

    from shunter.profiling.worker import start_engine

    if importlib.util.find_spec(module) is None:
        pytest.skip(f"needs {module}")
    out = tmp_path / ("small.gguf" if format == "gguf" else "small")
    small = write_checkpoint(models[0].spec, out, format=format, quantization="F32")
    plan = make_preemption_plan([small], None, replace(SETTINGS, cuts=(2, 20, 38), repeats=1))
    rows: list[PreemptionRow] = []
    with start_engine(engine_name, device) as engine:
        measure_preemption(plan, engine, device=device, keep=rows.append)
        assert engine.memory().device_bytes > 0
    assert [row.cut_tokens for row in sorted(rows, key=lambda row: row.cut_tokens)] == [2, 20, 38]
    for row in rows:
        assert row.tokens_equal
        assert row.memory_back
        assert row.kv_bytes > 0
        assert row.kv_tokens == 8 + row.cut_tokens - 1
        assert all(getattr(row, part) >= 0 for part in PARTS)
        assert row.overhead_s == pytest.approx(sum(getattr(row, part) for part in PARTS))
