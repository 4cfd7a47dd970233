"""``shunter profile preemption`` and ``shunter profile offload``, as a user runs them."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from mlflow.entities import Run

from shunter.cli.main import main
from shunter.cli.profiles import profile_preemption as command
from shunter.engines.base import WorkerDiedError
from shunter.engines.fake.engine import FakeEngine
from shunter.models.performance import PerformanceModel
from shunter.outputs import sole_writer
from shunter.profiling.dataset.table import read_dataset
from shunter.profiling.preemption import report
from shunter.profiling.preemption.cycles import read_cycles
from shunter.tracking.store import open_store, store_uri
from tests.worlds import durations_for, fit_fake

JOB = ["--engine", "fake", "--device", "cpu:1-threads", "--job-tokens", "30", "--other-tokens", "5"]
JOB += ["--cuts", "5,20", "--repeats", "2", "--prompt", "8"]


class Virtual(FakeEngine):
    """Stands where the worker would: the same engine on a virtual clock, in this process."""

    interrupt_at = 0
    out: Path | None = None

    def __init__(self, paths: dict[str, Path]) -> None:
        durations = durations_for(paths)
        layers = {name: n for name, _, n in durations.layer_bytes_of}
        super().__init__(durations, device="cpu:1-threads", total_layers=layers)
        self.saves = 0

    def load(self, *args: Any, **options: Any) -> Any:
        if self.out is not None:
            assert (self.out / "predictions.json").exists()
        return super().load(*args, **options)

    def save_kv(self, model: str, request: str) -> Any:
        self.saves += 1
        if self.saves == self.interrupt_at:
            raise KeyboardInterrupt
        return super().save_kv(model, request)

    def __enter__(self) -> Virtual:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    done = capsys.readouterr()
    return int(caught.value.code or 0), done.out, done.err


@pytest.fixture
def preemption(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fake_checkpoints: dict[str, Path]
) -> Any:
    monkeypatch.setattr(command, "start_engine", lambda engine, device, python: Virtual(fake_checkpoints))
    models = [word for path in fake_checkpoints.values() for word in ("--model", str(path))]
    return lambda *words: run(capsys, "profile", "preemption", *models, *JOB, *words)


def test_the_words_after_profile(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "profile", "--help")
    assert code == 0
    assert "shunter profile preemption" in " ".join(out.split())
    assert "shunter profile offload" in " ".join(out.split())
    for word in ("preemption", "offload"):
        code, out, _ = run(capsys, "profile", word, "--help")
        assert code == 0
        assert f"Usage: shunter profile {word}" in out
    code, _, _ = run(capsys, "profile", "preemptions")
    assert code == 2


def test_help_imports_no_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "shunter.cli.profiles.profile_offload", raising=False)
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert "profile offload" in out
    assert "shunter.cli.profiles.profile_offload" not in sys.modules


def test_preemption_writes_rows_a_page_and_results(preemption: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, text, err = preemption("--out", out, "--verbose")
    assert code == 0, err
    assert {p.name for p in out.iterdir()} == {
        "plan.json",
        "predictions.json",
        "preemption.parquet",
        "preemption.html",
        "results.json",
    }
    rows = read_cycles(out / "preemption.parquet")
    assert len(rows) == 3 * 2 * 2
    results = json.loads((out / "results.json").read_text())
    for name, summary in results["models"].items():
        own = rows[rows["model"] == name]
        assert summary["overhead_mean_s"] == pytest.approx(own["overhead_s"].mean())
        assert summary["tokens_equal"] == summary["memory_back"] == len(own) == 4
    assert len(results["paper"]) == 6
    page = (out / "preemption.html").read_text()
    assert "<script src=" not in page
    for words in ("RTX A6000", "as summarised", "large: ", "Does reload dominate here too? "):
        assert words in page
    for words in ("Overhead by part", "Does the cut point matter?", "six cells", "12 cycles in"):
        assert words in text


@pytest.fixture
def logged(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Run]]:
    """Asks for the runs of a test, the latest first."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", request.node.name)
    client = open_store(store_uri())
    return lambda: client.search_runs([client.get_experiment_by_name(request.node.name).experiment_id])


def test_preemptions_are_a_run_with_one_for_each_model(
    preemption: Any, tmp_path: Path, logged: Callable[[], list[Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(Virtual, "interrupt_at", 6)
    assert preemption("--out", out)[0] == 130
    assert {run.info.status for run in logged() if "mlflow.parentRunId" not in run.data.tags} == {"KILLED"}
    monkeypatch.setattr(Virtual, "interrupt_at", 0)
    assert preemption("--out", out, "--resume")[0] == 0
    results = json.loads((out / "results.json").read_text())
    (whole,) = (
        r for r in logged() if r.info.status == "FINISHED" and "mlflow.parentRunId" not in r.data.tags
    )
    names = {file.path for file in open_store(store_uri()).list_artifacts(whole.info.run_id)}
    assert names == {path.name for path in out.iterdir()}
    assert whole.data.tags["shunter.kind"] == "preemption"
    assert whole.data.tags["mlflow.note.content"].startswith("Does reload dominate here too?")
    (dataset,) = whole.inputs.dataset_inputs
    assert dataset.dataset.digest == whole.data.tags["shunter.dataset_digest"]
    parts = [run for run in logged() if run.data.tags.get("mlflow.parentRunId") == whole.info.run_id]
    assert {run.data.params["model"]: run.data.metrics["overhead_mean_s"] for run in parts} == {
        name: summary["overhead_mean_s"] for name, summary in results["models"].items()
    }


def test_the_prediction_is_written_before_anything_is_measured(
    preemption: Any, tmp_path: Path, fake_performance: PerformanceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    fake_performance.save(tmp_path / "perf")
    monkeypatch.setattr(Virtual, "out", out)
    monkeypatch.setattr(Virtual, "interrupt_at", 4)
    code, text, err = preemption("--out", out, "--performance", tmp_path / "perf")
    assert code == 130, err
    before = (out / "predictions.json").read_bytes()
    monkeypatch.setattr(Virtual, "interrupt_at", 0)
    written: list[pd.DataFrame] = []
    write = command.write_preemption_report
    monkeypatch.setattr(
        command, "write_preemption_report", lambda rows, *rest: written.append(rows) or write(rows, *rest)
    )
    code, text, err = preemption("--out", out, "--resume", "--verbose")
    assert code == 0, err
    assert (out / "predictions.json").read_bytes() == before
    kept = {
        (p["model"], p["cut_tokens"]): p["own_s"] for p in json.loads((out / "predictions.json").read_text())
    }
    rows = written[-1]
    cost = fake_performance.preemption_cost_s("fake", "cpu:1-threads", "large", 8 + 20 - 1)
    assert kept["large", 20] == pytest.approx(cost.total_s, rel=0.05)
    assert all(kept[row.model, row.cut_tokens] == row.predicted_s for row in rows.itertuples())
    assert rows["predicted_s"].to_numpy() == pytest.approx(rows["own_s"].to_numpy(), rel=0.1)
    assert "The performance model's prediction" in text


def test_ctrl_c_keeps_every_finished_cycle(
    preemption: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Virtual, "interrupt_at", 6)
    code, text, _ = preemption("--out", tmp_path / "out")
    assert code == 130
    assert len(read_cycles(tmp_path / "out" / "preemption.parquet")) == 5
    assert "Interrupted; --resume goes on." in text
    assert "5 cycles in preemption.parquet" in text
    monkeypatch.setattr(Virtual, "interrupt_at", 0)
    code, text, _ = preemption("--out", tmp_path / "out", "--resume")
    assert code == 0
    assert "12 cycles in preemption.parquet" in text
    lines = text.splitlines()
    assert lines[0].startswith("Does reload dominate here too? ")
    assert len(lines) <= 10
    assert str(tmp_path / "out" / "preemption.html") in lines[-1]
    monkeypatch.setattr(Virtual, "interrupt_at", 1)
    code, text, _ = preemption("--out", tmp_path / "none")
    assert code == 130
    assert "no cycle was finished" in text


def test_a_dead_engine_is_one_line_and_leaves_the_finished_cycles(
    preemption: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_kv = Virtual.save_kv

    def dying(self: Virtual, *args: Any) -> Any:
        if self.saves == 3:
            raise WorkerDiedError("the worker was killed")
        return save_kv(self, *args)

    monkeypatch.setattr(Virtual, "save_kv", dying)
    code, text, err = preemption("--out", tmp_path / "out")
    assert code == 1
    assert "the worker was killed" in err
    assert err.count("\n") == 1
    assert "keeps 3 cycles; --resume goes on from there" in text
    assert len(read_cycles(tmp_path / "out" / "preemption.parquet")) == 3


def test_what_will_not_fit_is_refused_unless_it_is_to_be_tried(preemption: Any, tmp_path: Path) -> None:
    tiny = ("--out", tmp_path / "out", "--device", "cpu:1-threads-1MB")
    code, _, err = preemption(*tiny)
    assert code == 2
    assert "--model must fit the memory at one level at least" in err
    code, text, err = preemption(*tiny, "--allow-overcommit")
    assert code == 0, err
    assert "on cpu:1-threads-1MB, warm page cache, 12 cycles" in text


def test_rows_are_those_of_a_dataset(
    preemption: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert preemption("--out", tmp_path / "out")[0] == 0
    rows = read_dataset(tmp_path / "out" / "preemption.parquet")
    cycle = ["load", "unload"] * 2 + ["prefill"] * 2 + ["decode"] * 3 + ["kv_save", "kv_restore"]
    whole = ["prefill", "decode"]
    assert sorted(rows["operation"]) == sorted(12 * cycle + 6 * whole)
    code, out, _ = run(capsys, "dataset", "validate", tmp_path / "out" / "preemption.parquet")
    assert code == 0, out


def test_a_folder_of_an_older_shunter_is_shown_as_it_is(preemption: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _, text, _ = preemption("--out", out)
    cycles = read_cycles(out / "preemption.parquet")
    unpredicted = dict.fromkeys(("predicted_s", "predicted_low_s", "predicted_high_s"), float("nan"))
    old = pa.Table.from_pandas(cycles.assign(**unpredicted, predicted_out_of_range=False))
    before = old.replace_schema_metadata({"shunter_preemption_schema": "1"})
    pq.write_table(before, out / "preemption.parquet")
    code, again, err = preemption("--out", out, "--resume")
    assert code == 0, err
    assert again == text.replace(".parquet,", ".parquet, to which this version adds none,")


def test_a_file_in_the_place_of_the_folder(preemption: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    code, _, err = preemption("--out", tmp_path / "file")
    assert code == 2
    assert "--out must be a folder. Got" in err
    assert (tmp_path / "file").read_text() == "precious"


def test_a_folder_has_one_writer(preemption: Any, tmp_path: Path, data: Path, capsys: Any) -> None:
    with sole_writer("--out", tmp_path / "out", folder=True):
        for code, _, err in (
            preemption("--out", tmp_path / "out"),
            run(capsys, "profile", "offload", data, "--out", tmp_path / "out"),
        ):
            assert code == 2
            assert "--out must not be written by another command at the same time" in err
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_fails_halfway_leaves_the_one_of_before(
    preemption: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert preemption("--out", out)[0] == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(path: Path, value: object) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(report, "write_json", full)
    code, _, err = preemption("--out", out, "--resume")
    assert code == 1
    assert err.splitlines()[-1].endswith("cannot be written: No space left on device")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_an_earlier_measurement_is_not_written_over(preemption: Any, tmp_path: Path) -> None:
    assert preemption("--out", tmp_path / "out")[0] == 0
    before = (tmp_path / "out" / "preemption.parquet").read_bytes()
    code, _, err = preemption("--out", tmp_path / "out")
    assert code == 2
    assert "--out must be a folder without an earlier measurement" in err
    assert (tmp_path / "out" / "preemption.parquet").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--cuts", "a,b"), "--cuts must be a count of points"),
        (("--cuts", "5,29"), "--cuts must be from 2 to 28"),
        (("--cuts", "40"), "--cuts must fit into a job of 30 tokens"),
        (("--other", "/nowhere"), "--other must name a GGUF file or a Hugging Face folder that exists"),
        (("--engine", "fakes"), "--engine: unknown name 'fakes'"),
        (("--engine", "llama-cpp"), "must be gguf for the engine llama-cpp"),
        (("--device", "tpu"), "--device: unknown name 'tpu'"),
        (("--gpu-layers", "2000"), "--gpu-layers must be all"),
        (("--page-cache", "icy"), "--page-cache must be warm or cold"),
        (("--performance", "/nowhere"), "/nowhere"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    preemption: Any, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    code, _, err = preemption("--out", tmp_path / "out", *words)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def data(fake_checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("offload")
    fit_fake(fake_checkpoints, folder)
    return folder / "fake.parquet"


def test_offload(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    data: Path,
    fake_checkpoints: dict[str, Path],
    logged: Callable[[], list[Run]],
) -> None:
    out = tmp_path / "out"
    code, text, err = run(capsys, "profile", "offload", data, data, "--out", out)
    assert code == 0, err
    assert {p.name for p in out.iterdir()} == {"offload.html", "results.json"}
    points = pd.DataFrame(json.loads((out / "results.json").read_text())["points"])
    assert set(points["model"]) == set(fake_checkpoints)
    assert (points["repeats"] == 1).all()
    assert (points.loc[points["offload_ratio"] == 0, "relative_median"] == 1).all()
    assert (points.loc[points["offload_ratio"] > 0, "relative_median"] < 1).all()
    assert "18 points in offload.html" in text
    (run_,) = logged()
    assert (run_.data.tags["shunter.kind"], run_.data.metrics) == ("offload", {"points": 18.0})
    (made_of,) = run_.inputs.dataset_inputs  # given twice, and one
    assert made_of.dataset.digest == run_.data.tags["shunter.dataset_digest"]
    files = {file.path for file in open_store(store_uri()).list_artifacts(run_.info.run_id)}
    assert files == {"offload.html", "results.json", "curves.json"}


def test_offload_of_what_is_no_dataset(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, data: Path
) -> None:
    loads = tmp_path / "loads.parquet"
    table = pq.read_table(data)
    loaded = table.filter(pc.equal(table["operation"], "load"))
    pq.write_table(loaded, tmp_path / "changed.parquet")
    metadata = loaded.schema.metadata or {}
    pq.write_table(
        loaded.replace_schema_metadata({k: v for k, v in metadata.items() if not k.endswith(b"sha256")}),
        loads,
    )
    file = tmp_path / "file"
    file.write_text("x")
    for words, message in (
        ((tmp_path / "none.parquet",), "dataset must be an existing Parquet file"),
        ((file,), "cannot be read"),
        ((loads,), "DATASET must hold decode rows"),
        ((tmp_path / "changed.parquet",), "it was changed since it was written"),
        ((data, "--batch", "7"), "--batch must be one that was profiled: 1, 2, 4"),
        ((data, "--out", file), "--out must be a folder"),
    ):
        code, _, err = run(capsys, "profile", "offload", "--out", tmp_path / "out", *words)
        assert code == 2
        assert message in err
        assert not (tmp_path / "out").exists()
