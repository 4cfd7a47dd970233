from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from shunter.tracking.lineage import Input
from shunter.tracking.runs import Tracker, now_ms, tracking
from shunter.tracking.store import open_store
from shunter.tracking.tunings import log_tuning
from shunter.train.tune.search import Tuned


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store for all tests of this file."""
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture(autouse=True)
def experiment(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> str:
    """An experiment for each test, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", request.node.name)
    return str(request.node.name)


def runs(store: str, experiment: str) -> dict[str, Any]:
    """All runs of an experiment by their names."""
    client = open_store(store)
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return {run.info.run_name: run for run in found}


def test_a_run_that_is_gone_on_with_keeps_its_parameters(store: str, experiment: str) -> None:
    for value, steps in (("first", (0, 1)), ("second", (1, 2))):
        with tracking("train", "one", key="a" * 32) as tracker:
            tracker.params({"commit": value, value: 1})
            for step in steps:
                tracker.metrics({"ratio": 1.0}, step=step)
    (run,) = runs(store, experiment).values()
    assert run.data.params == {"commit": "first", "first": "1", "second": "1"}
    assert run.info.status == "FINISHED"
    assert tracker.sent


def test_inputs_are_datasets_and_parts_are_runs_that_last_as_long(store: str, experiment: str) -> None:
    begun_ms = now_ms() - 60_000
    given = [
        Input("profile.parquet", "abc", "fit", "profile.parquet", {"rows": 3}),
        Input("s", "d", "eval"),
    ]
    with tracking("eval", "whole", begun_ms=begun_ms) as tracker:
        tracker.inputs(given)
        with tracker.child("part") as part:
            part.inputs(given[:1])
            part.metrics({"response_mean_s": 1.0})
        tracker.text("all of it", "whole.txt")
    found = runs(store, experiment)
    whole, part_run = found["whole"], found["part"]
    assert part_run.data.tags["mlflow.parentRunId"] == whole.info.run_id
    assert part_run.data.tags["shunter.kind"] == "eval"
    assert whole.info.start_time == part_run.info.start_time == begun_ms
    assert [
        (one.dataset.name, one.dataset.digest, one.tags[0].value) for one in whole.inputs.dataset_inputs
    ] == [(one.name, one.digest, one.context) for one in given]
    assert [one.dataset.digest for one in part_run.inputs.dataset_inputs] == ["abc"]
    assert [one.path for one in open_store(store).list_artifacts(whole.info.run_id)] == ["whole.txt"]


def test_a_part_that_fails_is_not_the_whole(store: str, experiment: str) -> None:
    def cut_off(tracker: Tracker) -> None:
        with tracker.child("part") as part:
            part.params({"policy": "p"})
            raise KeyboardInterrupt

    with tracking("eval", "whole") as tracker:
        with pytest.raises(KeyboardInterrupt):
            cut_off(tracker)
        tracker.params({"policies": "p"})
    assert {name: run.info.status for name, run in runs(store, experiment).items()} == {
        "whole": "FINISHED",
        "part": "KILLED",
    }


def test_a_search_is_a_run_with_one_for_each_thing_searched(store: str, experiment: str) -> None:
    trials = pd.DataFrame(
        {"number": [0, 1, 2], "policy": ["a", "a:x=1", "a:x=2"], "score": [2.0, float("nan"), 1.0]}
    )
    searches = {
        "a": Tuned("a:x=2", 1.0, 2.0, trials, {"x": 2}),
        "b": Tuned("b", 3.0, 3.0, trials.iloc[:1].assign(score=3.0), {}),
    }
    with tracking("tune", "search") as tracker:
        log_tuning(tracker, searches, [], {"trials": 3})
    found, client = runs(store, experiment), open_store(store)
    assert set(found) == {"search", "a: 3 trials", "b: 1 trials"}
    assert found["search"].data.params["best"] == "a:x=2"
    assert found["search"].data.metrics["change_vs_defaults"] == -0.5
    run = found["a: 3 trials"]
    assert run.data.params["parameters.x"] == "2"
    scores = client.get_metric_history(run.info.run_id, "score")
    assert [(point.step, point.value) for point in scores] == [(0, 2.0), (2, 1.0)]
    lowest = client.get_metric_history(run.info.run_id, "lowest_score")
    assert [point.value for point in lowest] == [2.0, 2.0, 1.0]


def test_what_the_machine_does_is_logged_while_work_goes_on_if_asked(
    store: str, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.01")
    client, until_s = open_store(store), time.monotonic() + 120
    with tracking("eval", "work") as tracker:
        while not (seen := client.get_run(tracker.run_id).data.metrics) and time.monotonic() < until_s:
            pass
    assert any(name.startswith("system/") for name in seen)
    assert runs(store, experiment)["work"].info.status == "FINISHED"
