import os
import signal
from pathlib import Path

import pytest

from shunter.catalog.checkpoints import Checkpoint
from shunter.catalog.devices import parse_device
from shunter.catalog.models import ModelSpec
from shunter.engines.base import WorkerDiedError
from shunter.engines.caller.client import start_engine
from shunter.engines.fake.engine import FakeEngine
from shunter.errors import InputError, UnknownNameError
from shunter.profiling.dataset.journal import journal_path
from shunter.profiling.dataset.table import read_dataset
from shunter.profiling.sweep.plan import SweepSettings, make_plan
from shunter.profiling.sweep.sweep import plan_models, run_sweep

SETTINGS = SweepSettings(
    gpu_layers=("0", "all"),
    prompt_tokens=(16,),
    decode_tokens=(4,),
    batch=(1, 2),
    cut_tokens=(32,),
    repeats=2,
)
ROWS_PER_GROUP = 2 * ((1 + 1) + (2 + 1) + 5 + 2)


def checkpoint(name, layers=8):
    spec = ModelSpec(name, layers, 128, 2, 2, 64, 256, 300)
    return Checkpoint(
        name, Path(f"/nowhere/{name}"), "gguf", spec, "F32", 4 * spec.params, 4 * spec.params_per_layer
    )


def plan(settings=SETTINGS, models=("a", "b")):
    checkpoints = [checkpoint(name) for name in models]
    return make_plan(checkpoints, engine="fake", device=parse_device("cpu:1-threads"), settings=settings)


class Counting(FakeEngine):
    """Counts decodes, and fails at one of them."""

    def __init__(self, fail_at=None, error=KeyboardInterrupt, **kwargs):
        super().__init__(device="cpu:1-threads", **kwargs)
        self.decodes = 0
        self.dropped_caches = []
        self._fail_at, self._error = fail_at, error

    def decode(self, *args, **kwargs):
        self.decodes += 1
        if self.decodes == self._fail_at:
            raise self._error("stopped")
        return super().decode(*args, **kwargs)

    def drop_page_cache(self, checkpoint):
        self.dropped_caches.append(checkpoint)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "d.parquet"


def test_a_sweep_writes_a_row_for_each_operation_with_what_the_engine_measured(out):
    result = run_sweep(plan(), FakeEngine(device="cpu:1-threads"), out)
    data = read_dataset(out)
    assert (result.rows, len(data)) == (4 * ROWS_PER_GROUP, 4 * ROWS_PER_GROUP)
    assert not journal_path(out).exists()
    assert data["row_id"].is_unique
    counts = data["operation"].value_counts().to_dict()
    assert counts == {"prefill": 32, "decode": 16, "kv_save": 8, "unload": 16, "load": 16, "kv_restore": 8}
    decode = data[(data["operation"] == "decode") & (data["gpu_layers"] == 9) & (data["batch"] == 2)]
    assert decode["duration_s"].tolist() == pytest.approx([9e-3 + 4e-4 + 2e-7 * 18.5] * 4)
    assert decode["step_p50_s"].tolist() == pytest.approx([9e-3 + 4e-4 + 2e-7 * 18.5] * 4)
    assert set(decode["context_tokens"]) == {18.5}
    saved = data[data["operation"] == "kv_save"]
    assert set(saved["tokens"]) == {32}
    assert set(saved["kv_bytes"]) == {320_000.0}
    loaded = data[(data["operation"] == "load") & (data["gpu_layers"] == 9)]
    assert set(loaded["device_bytes"] - loaded["device_bytes_before"]) == {90_000_000.0}
    assert set(data["offload_ratio"]) == {0.0, 1.0}


def test_repeats_of_a_measurement_share_a_cell(out):
    run_sweep(plan(models=("a",)), FakeEngine(device="cpu:1-threads"), out)
    data = read_dataset(out)
    asked = ["operation", "gpu_layers", "batch", "tokens", "context_tokens"]
    assert (data.groupby("cell_id")[asked].nunique() == 1).all(axis=None)
    data["max_batch"] = data["max_batch"].where(data["operation"].isin(["load", "unload"]), 0)
    assert data["cell_id"].nunique() == len(data[[*asked, "max_batch"]].drop_duplicates())


def test_swaps_load_for_one_and_for_all_requests(out):
    run_sweep(plan(models=("a",)), FakeEngine(device="cpu:1-threads"), out)
    data = read_dataset(out)
    loads = data[data["operation"] == "load"]
    assert loads.groupby("gpu_layers")["max_batch"].agg(sorted).tolist() == [[1, 1, 2, 2], [1, 1, 2, 2]]
    assert set(data.loc[~data["operation"].isin(["load", "unload"]), "max_batch"]) == {2}


def test_cold_loads_drop_the_page_cache_first(out):
    settings = SweepSettings(
        prompt_tokens=(8,), decode_tokens=(4,), batch=(1,), page_cache=("warm", "cold"), repeats=1
    )
    engine = Counting()
    run_sweep(plan(settings, ("a",)), engine, out)
    loads = read_dataset(out).query("operation == 'load'")
    assert loads["page_cache"].value_counts().to_dict() == {"warm": 2, "cold": 2}
    assert engine.dropped_caches == ["/nowhere/a"] * 2


@pytest.mark.parametrize("fail_at", [1, 2, 5, 9, 20])
def test_an_interrupted_sweep_keeps_its_rows_and_resumes_without_measuring_twice(out, fail_at):
    with pytest.raises(KeyboardInterrupt):
        run_sweep(plan(), Counting(fail_at), out)
    before = read_dataset(out) if out.exists() else None
    assert not journal_path(out).exists()
    result = run_sweep(plan(), FakeEngine(device="cpu:1-threads"), out, mode="resume")
    data = read_dataset(out)
    kept = 0 if before is None else len(before)
    assert result.rows == len(data) - kept
    assert len(data) == 4 * ROWS_PER_GROUP
    assert data["row_id"].str.partition("/")[2].is_unique
    if before is not None:
        assert data.head(kept).equals(before)


def test_resuming_a_finished_sweep_starts_nothing(out):
    run_sweep(plan(), FakeEngine(device="cpu:1-threads"), out)
    engine = Counting()
    result = run_sweep(plan(), engine, out, mode="resume")
    assert (result.rows, result.units_measured, engine.decodes) == (0, 0, 0)
    assert result.units_skipped == plan().units


def test_a_journal_that_a_crash_left_is_taken_up(out):
    with pytest.raises(WorkerDiedError):
        run_sweep(plan(), Counting(12, WorkerDiedError), out)
    kept = read_dataset(out)
    out.rename(out.with_suffix(".gone"))
    header = '{"header": {"schema_version": 1}}\n'
    lines = kept.astype(object).where(kept.notna(), None).to_json(orient="records", lines=True)
    journal_path(out).write_text(header + lines + '{"row_id": "torn')
    with pytest.raises(InputError, match="not exist yet"):
        run_sweep(plan(), FakeEngine(device="cpu:1-threads"), out)
    result = run_sweep(plan(), FakeEngine(device="cpu:1-threads"), out, mode="resume")
    assert result.rows == 4 * ROWS_PER_GROUP - len(kept)
    assert len(read_dataset(out)) == 4 * ROWS_PER_GROUP


def test_a_wider_sweep_measures_only_what_is_new(out):
    run_sweep(plan(models=("a",)), FakeEngine(device="cpu:1-threads"), out)
    result = run_sweep(plan(models=("a", "b")), FakeEngine(device="cpu:1-threads"), out, mode="resume")
    assert result.rows == 2 * ROWS_PER_GROUP


def test_another_engine_version_is_measured_again(out):
    class Newer(FakeEngine):
        def capabilities(self):
            can = super().capabilities()
            return type(can)(**{**vars(can), "engine_version": "2"})

    run_sweep(plan(models=("a",)), FakeEngine(device="cpu:1-threads"), out)
    result = run_sweep(plan(models=("a",)), Newer(device="cpu:1-threads"), out, mode="resume")
    assert result.rows == 2 * ROWS_PER_GROUP


def test_an_existing_dataset_is_only_continued_or_added_to(out):
    run_sweep(plan(models=("a",)), FakeEngine(device="cpu:1-threads"), out)
    with pytest.raises(InputError, match="--out must not exist yet, or be finished with --resume"):
        run_sweep(plan(models=("a",)), FakeEngine(device="cpu:1-threads"), out)
    run_sweep(plan(models=("a",)), FakeEngine(device="cpu:1-threads"), out, mode="append")
    assert len(read_dataset(out)) == 4 * ROWS_PER_GROUP
    with pytest.raises(InputError, match="mode must be one of"):
        run_sweep(plan(models=("a",)), FakeEngine(device="cpu:1-threads"), out, mode="overwrite")


def test_levels_that_do_not_fit_are_reported_and_the_rest_measured(out):
    engine = FakeEngine(device="cpu:1-threads", memory_bytes=50_000_000)
    result = run_sweep(plan(models=("a",)), engine, out)
    assert len(result.refused) == 1
    assert "a at 9 layers" in result.refused[0]
    assert set(read_dataset(out)["gpu_layers"]) == {0}


def test_an_engine_that_cannot_split_refuses_levels_before_it_measures(out):
    with pytest.raises(InputError, match="cannot split a model"):
        run_sweep(plan(), FakeEngine(device="cpu:1-threads", partial_offload=False), out)
    assert list(out.parent.iterdir()) == []


def test_an_engine_without_kv_save_is_swapped_without_requests(out):
    class Forgetful(FakeEngine):
        def capabilities(self):
            can = super().capabilities()
            return type(can)(**{**vars(can), "kv_save": False})

    result = run_sweep(plan(models=("a",)), Forgetful(device="cpu:1-threads"), out)
    assert set(read_dataset(out)["operation"]) == {"prefill", "decode", "load", "unload"}
    again = run_sweep(plan(models=("a",)), Forgetful(device="cpu:1-threads"), out, mode="resume")
    assert (result.rows, again.rows) == (2 * 2 * (2 + 3 + 2 + 2), 0)


def test_progress_counts_units_and_rows(out):
    seen = []
    run_sweep(plan(), FakeEngine(device="cpu:1-threads"), out, progress=seen.append)
    assert [p.units_done for p in seen] == list(range(1, plan().units + 1))
    assert seen[-1].rows == 4 * ROWS_PER_GROUP
    assert seen[-1].eta_s == pytest.approx(0.0, abs=1.0)


def test_an_unknown_engine_is_named_before_anything_is_read():
    with pytest.raises(UnknownNameError, match="did you mean transformers"):
        plan_models(["/nowhere"], engine="transformer", device="cpu", settings=SETTINGS)


def test_the_time_in_the_engine_is_told_apart(out):
    engine = FakeEngine(device="cpu:1-threads")
    result = run_sweep(plan(), engine, out, clock=lambda: engine.clock.now_s)
    # On its virtual clock only the engine's calls take time.
    assert result.engine_s == pytest.approx(result.duration_s)
    data = read_dataset(out)
    measured_s = (data["duration_s"] * data["steps"].clip(lower=1)).sum()
    assert 0.5 * result.engine_s < measured_s < result.engine_s  # the rest warmed up


@pytest.mark.engine
@pytest.mark.parametrize("kill_after_units", [1, 6])
def test_a_device_that_vanishes_leaves_what_was_measured_and_is_gone_on_with(out, kill_after_units):
    with start_engine("fake", "cpu:1-threads") as engine:

        def kill(progress):
            if progress.units_done == kill_after_units:
                os.kill(engine.pids()[0], signal.SIGKILL)

        with pytest.raises(WorkerDiedError, match="was killed by SIGKILL in the call"):
            run_sweep(plan(models=("a",)), engine, out, progress=kill)
    before = read_dataset(out)
    assert len(before) > 0
    assert not journal_path(out).exists()
    with start_engine("fake", "cpu:1-threads") as engine:
        result = run_sweep(plan(models=("a",)), engine, out, mode="resume")
    data = read_dataset(out)
    assert (result.units_skipped, len(data)) == (kill_after_units, 2 * ROWS_PER_GROUP)
    assert data["row_id"].head(len(before)).tolist() == before["row_id"].tolist()
