from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from sqlalchemy.engine import make_url

from benchmarks.robust_names import HOSTILE, read_markdown
from shunter.cli.main import main
from shunter.errors import BrokenFileError, ShunterWarning
from shunter.scratch import scratch
from shunter.sinks import visible
from shunter.tracking import reach, runs
from shunter.tracking.database import database_of, uri_of
from shunter.tracking.journal import UNSENT, Journal, kept
from shunter.tracking.lineage import Input
from shunter.tracking.push import push_runs
from shunter.tracking.runs import Tracker, check_store, tracking
from shunter.tracking.store import StoreError, open_store, store_uri
from shunter.tracking.versions import describe


@pytest.fixture
def folder(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with an empty store, and a process that has found out nothing yet."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.setattr(runs, "_LINKS", {})
    monkeypatch.setattr(runs, "AGAIN_S", 0.0)
    place = tmp_path / "work"
    place.mkdir()
    shutil.copyfile(empty_store, place / "mlflow.db")
    monkeypatch.chdir(place)
    (place / "results").mkdir()
    (place / "results" / "part.txt").write_text("part")
    (place / "report.txt").write_text("report")
    return place


def work(tracker: Tracker) -> None:
    """All kinds of records."""
    tracker.params({"scenario": {"name": "s", "load = ": 0.5}})
    for step in range(3):
        tracker.metrics({"ratio": 1.0 - step, "none": float("nan")}, step=step)
    tracker.tags({"digest": "abc"})
    tracker.artifact("report.txt")
    tracker.artifact("results")
    tracker.table(pd.DataFrame({"load": [0.5, 0.7]}), "card.json")


def one_run(error: type[BaseException] | None = None) -> Tracker:
    """A run of its own, whose work ends well or with an error."""
    with tracking("test", "one") as tracker:
        work(tracker)
        if error is not None:
            raise error
    return tracker


def logged(status: str = "FINISHED", *, uri: str | None = None) -> Any:
    """The one run of the store, which must hold what ``work`` logs, once."""
    client = open_store(uri or store_uri())
    experiment = client.get_experiment_by_name("shunter")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == status
    assert run.data.params == {"scenario.name": "s", "scenario.load _ ": "0.5"}
    history = client.get_metric_history(run.info.run_id, "ratio")
    assert [(point.step, point.value) for point in history] == [(0, 1.0), (1, 0.0), (2, -1.0)]
    assert set(run.data.metrics) == {"ratio"}
    assert (run.data.tags["digest"], run.data.tags["shunter.kind"]) == ("abc", "test")
    names = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert names == {"report.txt", "results", "card.json"}
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": "card.json", "type": "table"}]
    return run


def test_a_run_goes_to_the_store_and_nothing_else_is_left(folder: Path) -> None:
    begun_ms = time.time() * 1000
    with tracking("test", "one") as tracker:
        opened_ms = time.time() * 1000
        work(tracker)
    run = logged()
    assert tracker.sent
    assert tracker.words == f"MLflow: {store_uri()} run {run.info.run_id}"
    # Of the work, and not of what is logged of it.
    assert begun_ms - 1 <= run.info.start_time <= opened_ms + 1
    assert (run.info.run_name, run.data.tags["shunter.key"]) == ("one", tracker.key)
    place = folder / "mlartifacts" / run.info.run_id / "artifacts"
    assert (place / "results" / "part.txt").read_text() == "part"
    assert not (folder / UNSENT).exists()
    table = open_store(store_uri()).load_table(run.info.experiment_id, "card.json", [run.info.run_id])
    assert list(table.load) == pytest.approx([0.5, 0.7])


@pytest.mark.parametrize("name", ["50%20 off", "100%", "what?", "a#b", "plain"])
def test_a_database_may_lie_in_any_folder(tmp_path: Path, name: str) -> None:
    database = tmp_path / name / "mlflow.db"
    assert database_of(uri_of(database)) == database
    assert make_url(uri_of(database)).database == str(database)


def test_what_is_no_text_is_sent_all_the_same(folder: Path) -> None:
    odd = "name \udcff\x00"  # of a file, say
    with tracking("test", odd * 100) as tracker:
        tracker.params({odd: odd, "../x": 1})
        tracker.tags({"file": odd})
        tracker.inputs([Input(odd, "abc", "fit", odd)])
        tracker.metrics({"/odd//": 1.0})
    assert tracker.sent
    run = open_store(store_uri()).get_run(tracker.run_id)
    assert run.data.tags["file"] == r"name \udcff\x00"
    assert len(run.info.run_name) == 250
    assert (len(run.data.params), len(run.data.metrics)) == (2, 1)


def test_descriptions_of_runs_and_versions_show_names_as_they_are(folder: Path) -> None:
    names = [" ".join(visible(name).split()) for name in HOSTILE if name.strip()]
    with tracking("test", "one") as tracker:
        tracker.note(["begun", *names])
    client = open_store(store_uri())
    client.create_registered_model("m")
    version = client.create_model_version("m", source=str(folder), run_id=tracker.run_id).version
    describe(client, "m", version, "\n".join(names))
    note = client.get_run(tracker.run_id).data.tags[runs.NOTE]
    breaks = ["hardbreak"] * len(names)
    assert read_markdown(note) == (
        ["paragraph_open", "inline", *breaks, "paragraph_close"],
        ["\n".join(["begun", *names])],
    )
    description = client.get_model_version("m", version).description
    assert read_markdown(description) == (["paragraph_open", "inline", "paragraph_close"], [" ".join(names)])


def test_an_experiment_has_a_view_whose_columns_say_what_came_of_runs(folder: Path) -> None:
    client = open_store(store_uri())
    client.create_experiment("theirs", tags={"mlflow.note.content": "ours"})
    for name in ("shunter", "theirs"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_EXPERIMENT_NAME", name)
            one_run()
        tags = client.get_experiment_by_name(name).tags
        kind, _, packed = tags["mlflow.sharedViewState.shunter"].partition(";")
        view = json.loads(zlib.decompress(base64.b64decode(packed)))
        assert kind == "deflate"
        assert {"params.`loads`", "metrics.`change_vs_best_heuristic`"} <= set(view["selectedColumns"])
        assert (tags["mlflow.note.content"] == "ours") == (name == "theirs")


def test_what_logs_nothing_leaves_nothing(folder: Path) -> None:
    with pytest.raises(ZeroDivisionError), tracking("test", "one"):
        raise ZeroDivisionError
    assert open_store(store_uri()).get_experiment_by_name("shunter") is None
    assert not (folder / UNSENT).exists()


@pytest.mark.parametrize(("error", "status"), [(ZeroDivisionError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_ends_as_its_work_did(folder: Path, error: type[BaseException], status: str) -> None:
    with pytest.raises(error):
        one_run(error)
    logged(status)


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def refusing() -> str:
    """An address that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("refusing", "no answer: Connection refused"),
        ("silent", "no answer within 0.2 s"),
        ("file:///{folder}/mlruns", "maintenance mode"),
        ("sqlite:////{folder}/report.txt", "not a database"),
        ("sqlite:////proc/none/mlflow.db", "No such file or directory"),
        ("htp://somewhere", "htp"),
        ("http://", "it names no host"),
        ("http://me:secret@127.0.0.1:9", "(no answer: Connection refused). Got 'http://***@127.0.0.1:9'"),
        ("postgresql://me:sec@ret@127.0.0.1:9/runs", "Got 'postgresql://***@127.0.0.1:9/runs'"),
        ("http://[", "it is no URI"),
    ],
)
def test_a_store_that_cannot_be_used_costs_one_line_and_no_run(
    folder: Path,
    uri: str,
    why: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    uri = request.getfixturevalue(uri) if uri in ("refusing", "silent") else uri.format(folder=folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(reach, "DEADLINE_S", 0.2)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        check_store()
        tracker = one_run()
        os.replace("results/part.txt", "report.txt")  # what is kept is what was logged
        one_run()
    (line,) = told
    text = str(line.message)
    assert (line.category, why in text) == (ShunterWarning, True), text
    assert "\n" not in text
    assert "sec" not in text
    assert text.endswith(f"runs are kept in {UNSENT}, and `shunter track push` sends them")
    assert capfd.readouterr() == ("", "")
    assert (tracker.sent, tracker.run_id) == (False, "")
    with pytest.raises(StoreError, match="must name a store that can be used"):
        push_runs()
    assert len(kept(folder / UNSENT)) == 2
    shutil.rmtree(kept(folder / UNSENT)[1])
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (pushed,) = push_runs()
    assert (pushed.name, pushed.why) == ("test one", "")
    logged()
    assert push_runs() == []
    assert not (folder / UNSENT).exists()


def fails_at(monkeypatch: pytest.MonkeyPatch, number: int) -> Callable[[], int]:
    """MLflow's client fails from its call of that number on, before or after it does what was asked."""
    count = 0

    def failing(method: Any) -> Any:
        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal count
            count += 1
            if count >= number:
                if count == number and number % 2:
                    method(*arguments, **more)  # it was done, and the answer was lost
                raise ConnectionError("the server is gone")
            return method(*arguments, **more)

        return call

    client = mlflow.MlflowClient
    for name in ("create_experiment", "create_run", "log_batch", "set_tag", "log_artifact", "log_artifacts"):
        monkeypatch.setattr(client, name, failing(getattr(client, name)))
    monkeypatch.setattr(client, "set_terminated", failing(client.set_terminated))
    return lambda: count


def cut_off(number: int) -> tuple[int, list[warnings.WarningMessage]]:
    """A run whose store goes away at a call; says how many there were, and what was told."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        calls = fails_at(patch, number)
        assert not one_run().sent
    return calls(), [line for line in told if line.category is ShunterWarning]


@pytest.mark.parametrize("number", range(1, 13))
def test_a_server_that_goes_away_anywhere_costs_nothing_and_nothing_is_sent_twice(
    folder: Path, number: int
) -> None:
    calls, told = cut_off(number)
    assert calls >= number
    assert [str(line.message).count("the server is gone") for line in told] == [1]
    (pushed,) = push_runs()
    assert pushed.why == ""
    logged()
    assert not (folder / UNSENT).exists()


def test_a_store_that_came_back_is_asked_again_before_a_policy_is_not_registered(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it had failed: nobody would compare it with the champion later."""
    monkeypatch.setattr(runs, "AGAIN_S", 60.0)
    with tracking("test", "one") as tracker:
        link = runs._link(".")
        for _ in range(4):
            link.fail(StoreError("MLflow", "answer", "nothing"))
        tracker.tags({"a": "b"})
        link._failed_s -= runs.AGAIN_S
        tracker.tags({"c": "d"})
        assert not tracker.sent
        assert tracker.client() is not None
        assert tracker.sent


def test_the_pages_of_a_store_are_where_its_runs_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tracking("test", "one") as tracker:
        tracker.tags({"a": "b"})
    assert tracker.pages == f"mlflow ui --backend-store-uri sqlite:///{folder / 'mlflow.db'}"
    tracker.uri = "http://me:secret@host:5000"
    assert tracker.pages == "http://***@host:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.warns(ShunterWarning), tracking("test", "two") as tracker:
        tracker.tags({"a": "b"})
    assert tracker.pages == "not sent yet, kept in mlflow-unsent (shunter track push)"


def test_all_calls_are_among_those_that_fail(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fails_at(monkeypatch, 100)
    with tracking("test", "one") as tracker:
        work(tracker)
    assert calls() == 12


def test_the_runs_of_killed_processes_are_sent_and_those_that_go_on_are_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch, refusing: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", refusing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_store()
        child = os.fork()
        if child == 0:
            with tracking("test", "killed") as tracker:
                work(tracker)
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        (killed,) = kept(folder / UNSENT)
        with tracking("test", "goes on") as tracker:
            work(tracker)
            with (killed / "records.jsonl").open("a") as records:
                records.write('{"kind": "metr')  # it was killed while it wrote
            monkeypatch.delenv("MLFLOW_TRACKING_URI")
            done = {one.name: one.why for one in push_runs()}
    assert done.pop("test killed") == ""
    assert list(done.values()) == ["a process that runs still writes to it"]
    logged("KILLED")
    assert [one.name for one in push_runs()] == ["test goes on"]


def test_a_killed_run_ends_with_the_next_one_or_is_gone_on_with(folder: Path) -> None:
    key = "0123456789abcdef" * 2
    for name, its_key in (("killed", None), ("resumed", key)):
        child = os.fork()
        if child == 0:
            with tracking("test", name, key=its_key) as tracker:
                work(tracker)
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
    assert len(kept(folder / UNSENT)) == 2
    begun = folder / UNSENT / f".20260101-000000-test-01234567.{child}.tmp"  # killed before its first line
    begun.mkdir()
    with tracking("test", "resumed", key=key) as tracker:
        work(tracker)
        assert len(kept(folder / UNSENT)) == 2, "it goes on with what there is"
    assert not (folder / UNSENT).exists()
    client = open_store(store_uri())
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert {run.info.run_name: run.info.status for run in runs} == {"killed": "KILLED", "resumed": "FINISHED"}
    assert push_runs() == []


def test_what_is_part_of_a_run_is_so_in_mlflow_too(folder: Path) -> None:
    def both() -> None:
        with tracking("test", "whole") as parent, tracking("test", "part", parent=parent) as tracker:
            tracker.metrics({"a": 1.0})

    both()
    with pytest.MonkeyPatch.context() as patch:
        fails_at(patch, 1)
        with pytest.warns(ShunterWarning):
            both()
    assert [one.name for one in push_runs()] == ["test whole", "test part"]
    client = open_store(store_uri())
    found = client.search_runs([client.get_experiment_by_name("shunter").experiment_id])
    wholes = {run.info.run_id for run in found if run.info.run_name == "whole"}
    parents = {run.data.tags["mlflow.parentRunId"] for run in found if run.info.run_name == "part"}
    assert parents == wholes
    assert len(wholes) == 2


def test_a_run_with_a_known_key_is_gone_on_with(folder: Path) -> None:
    for _ in range(2):
        with tracking("test", "one", key="k") as tracker:
            tracker.metrics({"a": 1.0})
    client = open_store(store_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("shunter").experiment_id])
    assert run.info.status == "FINISHED"
    assert len(client.get_metric_history(run.info.run_id, "a")) == 2


def test_an_experiment_that_was_deleted_keeps_runs_until_it_is_restored(folder: Path) -> None:
    client = open_store(store_uri())
    experiment = client.create_experiment("shunter")
    client.delete_experiment(experiment)
    with pytest.warns(ShunterWarning, match=f"restore --experiment-id {experiment}") as told:
        one_run()
    assert len(told) == 1
    (pushed,) = push_runs()
    assert "name an experiment that is not deleted" in pushed.why
    client.restore_experiment(experiment)
    (pushed,) = push_runs()
    assert pushed.why == ""
    logged()


def test_runs_of_a_deleted_experiment_go_where_the_environment_says_by_then(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = open_store(store_uri())
    client.delete_experiment(client.create_experiment("shunter"))
    with pytest.warns(ShunterWarning, match="MLFLOW_EXPERIMENT_NAME"):
        one_run()
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "other")
    (pushed,) = push_runs()
    other = client.get_experiment_by_name("other").experiment_id
    assert [run.info.run_id for run in client.search_runs([other])] == [pushed.run_id]


def test_another_store_at_the_same_address_gets_all_of_it(folder: Path, empty_store: Path) -> None:
    cut_off(7)
    open_store(store_uri())._tracking_client.store.engine.dispose()
    shutil.copyfile(empty_store, folder / "mlflow.db")
    (pushed,) = push_runs()
    assert pushed.why == ""
    logged()


@pytest.mark.parametrize("way", ["moved", "copied"])
def test_a_folder_that_was_moved_or_copied_has_its_artefacts_beside_it(
    folder: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracking("test", "before") as tracker:
        tracker.artifact("report.txt")
    other = folder.with_name("other place")
    (shutil.move if way == "moved" else shutil.copytree)(folder, other)
    monkeypatch.chdir(other)
    moved = pytest.warns(ShunterWarning, match="came from elsewhere: its artefacts are now those in")
    with moved as told, tracking("test", "after") as later:
        later.artifact("report.txt")
    assert len(told) == 1
    place = other / "mlartifacts"
    assert {path.name for path in place.iterdir()} == {tracker.run_id, later.run_id}
    client = open_store(store_uri())
    for run in (tracker.run_id, later.run_id):
        assert client.get_run(run).info.artifact_uri == f"{place.as_uri()}/{run}/artifacts"
        assert Path(client.download_artifacts(run, "report.txt")).read_text() == "report"
    if way == "moved":
        assert not folder.exists()
    else:
        assert [path.name for path in (folder / "mlartifacts").iterdir()] == [tracker.run_id]


def test_artefacts_that_were_put_elsewhere_on_purpose_stay_there(folder: Path) -> None:
    elsewhere = folder.with_name("big disk") / "mlartifacts"
    elsewhere.mkdir(parents=True)
    client = open_store(store_uri())
    client.create_experiment("shunter", artifact_location=elsewhere.as_uri())
    with tracking("test", "one") as tracker:
        tracker.artifact("report.txt")
    assert (elsewhere / tracker.run_id / "artifacts" / "report.txt").exists()
    assert not (folder / "mlartifacts").exists()


def test_processes_that_make_the_store_at_once_all_find_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(runs, "_LINKS", {})
    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            try:
                for part in range(2):
                    with tracking("test", f"{number}.{part}") as tracker:
                        tracker.metrics({"number": number})
                os._exit(0 if tracker.sent else 1)
            except BaseException:
                traceback.print_exc()
                os._exit(2)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    client = open_store(store_uri())
    found = client.search_runs([client.get_experiment_by_name("shunter").experiment_id])
    assert {run.info.run_name for run in found} == {f"{n}.{part}" for n in range(4) for part in range(2)}
    assert {run.info.status for run in found} == {"FINISHED"}
    assert not (tmp_path / UNSENT).exists()
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", ".mlflow.db.lock"}


def test_a_folder_that_cannot_be_written_costs_no_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / UNSENT).write_text("in the way")
    monkeypatch.setenv("TMPDIR", str(folder / "results"))
    monkeypatch.setattr("tempfile.tempdir", None)
    with tracking("test", "one") as tracker:
        work(tracker)
    logged()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Journal, "append", full)
    with pytest.warns(ShunterWarning, match="No space left on device"), tracking("test", "two") as tracker:
        work(tracker)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{\n", "no journal of a run"),
        ('{"version": 2, "header": {}}\n', "line 1: version: Input should be 1"),
        ('{"version": 1, "header": {"key": "k"}}\n', "line 1: header.kind: Field required"),
        ('{"version": 1, "header": {"key": 3}}\n', "line 1: header.key: Input should be a valid string"),
        ('{"version": 1, "header": HEADER}\n[]\n', "line 2"),
        ('{"version": 1, "header": HEADER}\n{"kind": "metrics", "metrics": [[1]]}\n', "line 2: metrics"),
        ('{"version": 1, "header": HEADER}\n{"kind": "end", "status": "x", "at_ms": []}\n', "line 2: end"),
        ("[" * 100_000 + "\n", "line 1: it is nested too deeply"),
        ("", "no journal of a run"),
        ('{"version": 1, "header": HEADER}\n{"kind": "file", "file": "../../report.txt"}\n', "no file of it"),
        ('{"version": 1, "header": HEADER}\n{"kind": "other"}\n', "other"),
    ],
)
def test_what_is_no_journal_is_left_and_said(
    folder: Path, content: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    header = {"key": "k", "kind": "test", "name": "n", "experiment": "e", "start_ms": 1, "tags": {}}
    place = folder / UNSENT / "odd"
    place.mkdir(parents=True)
    (place / "records.jsonl").write_text(content.replace("HEADER", json.dumps({**header, "parent": None})))
    with pytest.raises(SystemExit) as caught:
        main(["track", "push"])
    assert caught.value.code == 1
    out = capsys.readouterr().out
    assert f"0 sent to {store_uri()}, 1 left" in out
    assert why in " ".join(out.split())
    assert place.exists()


def test_pushing_says_what_it_sent(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def push(*arguments: str) -> tuple[Any, str]:
        with pytest.raises(SystemExit) as caught:
            main(["track", "push", *arguments])
        out = capsys.readouterr()
        return caught.value.code, out.out + out.err

    assert push() == (0, "Nothing is unsent.\n")
    assert push("nowhere")[0] == 2
    cut_off(5)
    code, out = push()
    assert code == 0
    assert out.splitlines()[0] == f"1 sent to {store_uri()}, 0 left"
    assert out.splitlines()[1] == f"sent: test one, run {logged().info.run_id}"


def test_a_journal_is_held_by_one(folder: Path) -> None:
    header = {
        "key": "k",
        "kind": "t",
        "name": "n",
        "experiment": "e",
        "start_ms": 1,
        "tags": {},
        "parent": None,
    }
    journal = Journal.begin(folder / UNSENT, header)
    again = Journal.begin(folder / UNSENT, header)
    assert again.folder != journal.folder
    assert Journal.open(journal.folder) is None
    journal.close()
    again.close()
    opened = Journal.open(journal.folder)
    assert opened is not None
    assert opened.header == header
    opened.close()
    with pytest.raises(BrokenFileError, match="No such file"):
        Journal.open(folder)


def test_a_clock_that_is_set_back_makes_no_run_that_ends_before_it_began(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    day_ms = 86_400_000
    with tracking("eval", "here") as here:
        here.params({"a": 1})
        before_ns = time.time_ns()
        monkeypatch.setattr(time, "time_ns", lambda: before_ns - day_ms * 1_000_000)
        monkeypatch.setattr(time, "time", lambda: (before_ns - day_ms * 1_000_000) / 1e9)
        here.metrics({"b": 2.0})
    with tracking("eval", "begun elsewhere", begun_ms=runs.now_ms() + day_ms) as elsewhere:
        elsewhere.params({"a": 1})
    client = open_store(store_uri(folder))
    for tracker, longest_ms in ((here, day_ms // 2), (elsewhere, 0)):
        found = client.get_run(tracker.run_id).info
        assert 0 <= found.end_time - found.start_time <= longest_ms
    (metric,) = client.get_metric_history(here.run_id, "b")
    assert metric.timestamp >= client.get_run(here.run_id).info.start_time


def test_what_is_kept_where_a_folder_is_read_only_outlasts_the_command(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(uri: str) -> Any:
        raise StoreError("MLFLOW_TRACKING_URI", "name a store that can be used", uri)

    monkeypatch.setattr(runs, "open_store", none)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (folder / UNSENT).write_text("nothing can be made in it")
    with pytest.warns(ShunterWarning, match="work goes on"), scratch(), tracking("eval", "x") as tracker:
        tracker.params({"a": 1})
    (place,) = tmp_path.glob(f"{UNSENT}-*")
    assert tracker.words.endswith(f"kept in {place / UNSENT} (shunter track push {place})")
    monkeypatch.undo()
    assert [one.why for one in push_runs(place)] == [""]
    assert not (place / UNSENT).exists()
