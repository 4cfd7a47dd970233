"""Every command that writes an output holds its place, so that two commands at once cannot mix theirs."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from shunter.cli.main import COMMANDS, _function, main
from shunter.cli.options import free_folder
from shunter.envs.scenario.library import find_scenario
from shunter.envs.workload.gateway_record import TRACE_NAME
from shunter.errors import InputError
from shunter.outputs import giving_back, in_use, sole_writer
from shunter.train import train_and_save
from shunter.train.settings import TrainConfig

BENCH = Path(__file__).parents[1] / "corpus" / "measurements"

# By command and parameter: what to call it with, {} for the output, and what is locked if not {} itself.
WRITES: dict[tuple[str, str], str] = {
    ("checkpoint", "out"): "{}.gguf --like Qwen3-8B",
    ("profile preemption", "out"): "--out {} --model fake",
    ("profile offload", "out"): "data.parquet --out {}",
    ("dataset merge", "out"): "a.parquet b.parquet --out {}.parquet",
    ("dataset convert", "out"): "a.parquet {}.csv",
    ("dataset import", "out"): f"{BENCH}/llama-bench.json --out {{}}.parquet",
    ("fit", "out"): "data.parquet --out {}.json",
    ("predict", "out"): "asked.csv --performance published --out {}.csv",
    ("predict", "template"): "--performance published --template {}.csv",
    ("workload convert", "out"): "trace.csv {}.csv",
    ("workload fit", "out"): "trace.csv --out {}",
    ("scenarios list", "json_path"): "--json {}",
    ("scenarios show", "json_path"): "laptop --json {}",
    ("scenarios check", "json_path"): "laptop --json {}",
    ("scenarios check", "write"): "{}.yaml --write",
    ("train", "out"): "--scenario laptop --out {}.safetensors",
    ("tune", "out"): "--train {}.yaml --out {}",
    ("tune", "storage"): "--scenario laptop --storage {} --seeds 1 --trials 1 --policy fifo-swap",
    ("tune", "json_path"): "--scenario laptop --json {}",
    ("policy average", "out"): "a.safetensors b.safetensors --out {}",
    ("policy explain", "out"): "a.safetensors --scenario laptop --out {}",
    ("policy explain", "as_json"): "a.safetensors --scenario laptop --json {}",
    ("policy export", "onnx"): "a.safetensors --onnx {}",
    ("eval", "out"): "--scenario laptop --out {}",
    ("eval", "json_path"): "--scenario laptop --json {}",
    ("compare", "out"): "a b --out {}",
    ("compare", "json_path"): "a b --json {}",
    ("serve", "record"): "--scenario laptop --record {}",
    ("replay", "out"): "record --scenario laptop --out {}",
    ("replay", "json_path"): "record --scenario laptop --json {}",
    ("improve", "out"): "record --scenario laptop --out {}.safetensors",
    ("calibrate", "out"): "run --out {}.json",
    ("calibrate", "json_path"): "run --json {}",
    ("timeline", "out"): "events.parquet --out {}",
    ("timeline", "perfetto"): "events.parquet --perfetto {}",
    ("export llama-swap", "out"): "--scenario laptop --out {}",
    ("export vllm", "out"): "--scenario laptop --out {}",
    ("demo", "out"): "--out {}",
    ("doctor", "json_path"): "--json {}",
}
APART = {
    ("profile", "out"): "its journal holds it: tests/profiling/test_journal.py",
    ("serve", "state"): "gateways share it: each has files of its own",
    ("eval", "real"): "none: it asks for a run",
}
READS = {
    *("data", "path", "paths", "a", "b", "files", "file", "trace", "scenario", "performance", "config"),
    *("start", "train", "events", "run", "record", "dataset", "configurations", "update", "models_dir"),
    *("store", "folder", "model", "other", "against", "ran", "policy", "slowdowns"),
}


def paths_of(command: str) -> set[str]:
    """Parameters of a command that are paths, and the flags that have it write what it read."""
    hints = typing.get_type_hints(_function(command))
    return {name for name in inspect.signature(_function(command)).parameters if "Path" in str(hints[name])}


@pytest.mark.parametrize("command", COMMANDS)
def test_all_that_a_command_writes_is_known_here(command: str) -> None:
    asked = {(command, name) for name in paths_of(command) - READS}
    if command == "serve":
        asked.add((command, "record"))
    assert asked <= {*WRITES, *APART}


@pytest.mark.parametrize(("command", "name"), WRITES)
def test_what_another_command_writes_is_refused(
    command: str,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    words = WRITES[command, name].split()
    out = tmp_path / "taken"
    arguments = [word.replace("{}", str(out)) for word in words]
    path = next(Path(word) for word in arguments if word.startswith(str(out)))
    if (command, name) == ("tune", "out"):
        arguments[1], path = "config.yaml", out
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({"scenarios": ["laptop"]}))
    if (command, name) == ("serve", "record"):
        path = out / TRACE_NAME
    if (command, name) == ("scenarios check", "write"):
        path.write_text(find_scenario("laptop").read_text())
    before = {each.name for each in tmp_path.iterdir()}
    with sole_writer("--out", path), pytest.raises(SystemExit) as ended:
        main([*command.split(), *arguments])
    err = capsys.readouterr().err
    assert ended.value.code == 2, err
    assert "not be written by another command at the same time" in err
    assert str(path) in err
    assert {each.name for each in tmp_path.iterdir()} - before <= {"mlflow.db", ".mlflow.db.lock"}


def test_two_outputs_of_one_command_are_two_files(tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["compare", "a", "b", "--out", f"{tmp_path}/x", "--json", f"{tmp_path}/../{tmp_path.name}/x"])
    assert ended.value.code == 2
    assert "must be another file than" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "files", "other"),
    [
        ("predict a.csv --performance published --out a.csv", ("a.csv",), "--configurations"),
        ("workload convert p.json link.csv", ("p.json",), "--trace"),
        ("compare a b --json b/results.json", ("a/results.json", "b/results.json"), "--runs"),
        ("timeline e.parquet --perfetto e.parquet", ("e.parquet",), "--events"),
        ("policy average a b --out b --overwrite", ("a", "b"), "--files"),
        ("replay a --scenario s.yaml --json a/requests.jsonl", ("a/requests.jsonl", "s.yaml"), "--record"),
    ],
)
def test_what_a_command_reads_is_never_written_over(
    line: str, files: tuple[str, ...], other: str, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in files:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(name)
    Path("link.csv").symlink_to("p.json")
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"must be another file than {other}" in said
    assert all(Path(name).read_text() == name for name in files)


def test_a_place_is_free_again_where_a_later_option_is_refused(tmp_path: Path, capsys: Any) -> None:
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            main(["scenarios", "list", "--json", f"{tmp_path}/x", "--none"])
        assert ended.value.code == 2
        assert "--none" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_at_several_loads_the_folder_of_each_is_an_output_too(tmp_path: Path, capsys: Any) -> None:
    of_one = tmp_path / "out" / "load-0.3"
    asked = ["eval", "--scenario", "laptop", "--policy", "fifo-swap", "--seeds", "1"]
    loads = ["--load", "0.3", "--load", "0.6"]
    with sole_writer("--out", of_one, folder=True), pytest.raises(SystemExit) as ended:
        main([*asked, *loads, "--out", str(of_one.parent)])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"not be written by another command at the same time. Got '{of_one}'" in said
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_looked_into_when_it_is_held_and_by_no_other_then(tmp_path: Path) -> None:
    with giving_back():
        folder = free_folder(tmp_path / "out", overwrite=False)
        assert in_use(folder)
        with sole_writer("--out", folder, folder=True):
            pass  # what the command holds it may write
        assert in_use(folder)
    assert not in_use(folder)


def test_a_policy_that_came_just_before_its_place_was_held_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def held_after_another(field: str, path: Path) -> Iterator[None]:
        path.write_text("theirs")
        yield

    monkeypatch.setattr(train_and_save, "sole_writer", held_after_another)
    config = TrainConfig(scenarios=["laptop"], performance="published")
    with pytest.raises(InputError, match="--out must not exist yet"):
        train_and_save.train_and_save(config, tmp_path / "p.safetensors")
    assert (tmp_path / "p.safetensors").read_text() == "theirs"
