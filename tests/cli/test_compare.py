from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shunter.cli.options import ANSWER_LINES
from shunter.eval.evaluation import Evaluation
from shunter.eval.saved import save_evaluation
from shunter.tracking.evaluations import log_evaluation
from shunter.tracking.runs import tracking
from tests.cli.test_main import fails, works


@pytest.fixture
def two_runs(simulated_only: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Two evaluations, in folders and in MLflow: folder to run id."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    ids = {}
    for name in ("first", "second"):
        files = save_evaluation(simulated_only, Path(name), title=name)
        with tracking("eval", name) as tracker:
            log_evaluation(tracker, files, simulated_only.world)
        ids[name] = tracker.run_id
    return ids


def test_folders_and_mlflow_runs_compare_alike(
    two_runs: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--out", "c.html", "--json", "c.json")
    out = works(capsys, "compare", "first", two_runs["second"], *options)
    lines = out.splitlines()
    assert "exactly as in run 1: fifo-swap, cost-greedy, lru-keepalive" in lines[0]
    assert lines[1].startswith("Mean response of run 2 against run 1, simulated: fifo-swap +0.0% [")
    assert lines[-1] == "report: c.html"
    assert len(lines) <= ANSWER_LINES
    assert "Paired differences" in works(capsys, "compare", "first", "second", "--verbose")
    assert "│ fifo-swap" not in out
    assert "│ fifo-swap" in works(capsys, "compare", "first", "second", "--metric", "response_p95_s")
    result = json.loads(Path("c.json").read_text())
    assert [run["source"] for run in result["runs"]] == ["first", two_runs["second"]]
    assert {change["change"] for change in result["changes"]} == {0.0}
    assert Path("c.html").exists()
    assert "exactly as in run 1" in Path("c.md").read_text()


def test_policies_are_runs_within_one_whose_metrics_have_the_same_names(two_runs: dict[str, str]) -> None:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{Path('mlflow.db').resolve()}")
    (experiment,) = client.search_experiments(filter_string="name = 'shunter'")
    every = client.search_runs([experiment.experiment_id])
    first, second = (
        {run.data.params["policy"]: run for run in every if run.data.tags.get("mlflow.parentRunId") == one}
        for one in two_runs.values()
    )
    assert set(first) == {"fifo-swap", "cost-greedy", "lru-keepalive"}
    whole = client.get_run(two_runs["first"])
    for name, run in first.items():
        assert run.data.metrics == second[name].data.metrics
        assert run.data.metrics["response_mean_s"] > 0
        assert set(run.data.metrics) == set(first["cost-greedy"].data.metrics)
        assert not [key for key in run.data.metrics if name in key]
        assert (run.data.params["mode"], run.data.params["scenario"]) == ("simulated", "fake")
        assert run.info.run_name == f"{name} simulated, fake at {float(run.data.params['load']):.3g}"
        assert run.info.start_time == whole.info.start_time
    given = {(one.dataset.name, one.tags[0].value) for one in whole.inputs.dataset_inputs}
    assert given == {("fake", "evaluation"), ("performance model", "prediction")}
    for digest in ("shunter.scenario_digest", "shunter.performance_digest"):
        assert whole.data.tags[digest] in {one.dataset.digest for one in whole.inputs.dataset_inputs}
        assert {run.data.tags[digest] for run in first.values()} == {whole.data.tags[digest]}
    assert whole.data.tags["mlflow.note.content"].startswith("Simulated: ")
    names = {artifact.path for artifact in client.list_artifacts(two_runs["first"])}
    assert names == {p.name for p in Path("first").iterdir()}


def test_bad_input(two_runs: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    unknown = "0" * 32
    said: dict[tuple[str, ...], Any] = {
        ("first",): "at least twice",
        ("first", "first"): "another each time",
        ("first", "nowhere"): "a folder that shunter eval wrote, or an MLflow run id",
        ("first", "."): "hold results.json",
        ("first", unknown): "be a run of the MLflow store",
        ("first", unknown, "--store", "sqlite:///none.db"): "there is none at none.db",
        ("first", "second", "--metric", "response_means_s"): "did you mean response_mean_s",
        ("first", "second", "--out", "nowhere/c.html"): "in an existing folder",
    }
    for arguments, text in said.items():
        assert text in fails(capsys, "compare", *arguments)
