"""Bad input, as a user meets it: one line that says what is wrong, exit code 2, nothing half-written."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

import shunter.cli.main
from shunter import __version__
from shunter.agents.learned.policy import POLICY_FORMAT
from shunter.cli.main import COMMANDS, GROUPS, main
from shunter.envs.observation.features import FEATURES_VERSION
from shunter.errors import ShunterWarning
from shunter.eval.execution.event_log import read_event_log
from shunter.eval.saved import FILES
from shunter.models.performance import PerformanceModel
from shunter.parquet import write_table
from shunter.tensors import write_tensors
from shunter.tracking.store import open_store, store_uri
from tests.networks import random_policy
from tests.worlds import fake_scenario


@pytest.fixture
def folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fake_checkpoints: dict[str, Path],
    fake_performance: PerformanceModel,
    empty_store: Path,
) -> Path:
    """A working folder with a good scenario and performance model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copyfile(empty_store, "mlflow.db")
    fake_performance.save("perf")
    write_scenario(fake_checkpoints)
    return tmp_path


def write_scenario(checkpoints: dict[str, Path], name: str = "s.yaml", **changes: Any) -> None:
    data = fake_scenario(checkpoints).model_dump(mode="json")
    Path(name).write_text(yaml.safe_dump({**data, **changes}))


def fails(capsys: pytest.CaptureFixture[str], *arguments: str, began: bool = False) -> str:
    """The line that a command ends with; it leaves nothing but its run in MLflow."""
    before = files()
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert caught.value.code == 2
    assert files() == before
    error = capsys.readouterr().err
    if began:
        error = error[error.rindex("\n", 0, -1) + 1 :]
    assert error.startswith("shunter: ")
    assert error.count("\n") == 1
    return error


def files() -> list[Path]:
    """All files but MLflow's."""
    return sorted(path for path in Path().rglob("*") if "mlflow" not in path.name)


def works(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    out = capsys.readouterr()
    assert caught.value.code == 0, out.err
    return out.out


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert __version__ in works(capsys, "--version")
    for name in COMMANDS:
        assert "Examples:" in works(capsys, name, "--help")


def test_warnings_of_ours_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    works(capsys, "--version")
    assert (
        warnings.formatwarning(ShunterWarning("said"), ShunterWarning, "a.py", 3) == "shunter: note: said\n"
    )
    assert "a.py:3: UserWarning: said" in warnings.formatwarning(UserWarning("said"), UserWarning, "a.py", 3)


def test_unknown_names(folder: Path, capsys: pytest.CaptureFixture[str], fake_checkpoints: Any) -> None:
    assert "did you mean profile" in fails(capsys, "profil")
    assert "did you mean Qwen3-8B" in fails(capsys, "checkpoint", "m", "--like", "Qwen3-8")
    checkpoint = str(fake_checkpoints["small"])
    assert "did you mean transformers" in fails(
        capsys, "profile", "--model", checkpoint, "--engine", "transfomers"
    )
    assert "did you mean cost-greedy" in fails(
        capsys, "eval", "--scenario", "s.yaml", "--policy", "cost-gredy"
    )
    assert "did you mean transformers" in fails(
        capsys, "eval", "--scenario", "s.yaml", "--engine", "transformer"
    )
    assert "did you mean transformers" in fails(capsys, "demo", "--engine", "transformer")


def test_bad_scenarios(folder: Path, capsys: pytest.CaptureFixture[str], fake_checkpoints: Any) -> None:
    write_scenario(fake_checkpoints, "rate.yaml", workload={"rate_per_s": -2})
    error = fails(capsys, "eval", "--scenario", "rate.yaml")
    assert "rate.yaml: workload.rate_per_s must be greater than 0. Got -2 instead." in error
    closed = {"requests": 10, "closed_loop": {"users": 2, "think_s": 1}}
    write_scenario(fake_checkpoints, "closed.yaml", workload=closed)
    error = fails(capsys, "eval", "--scenario", "closed.yaml", "--load", "0.5", "--policy", "fifo-swap")
    assert "load must not be given in a closed loop" in error
    write_scenario(fake_checkpoints, "tiny.yaml", devices=[{"name": "d", "device": "cpu:1-threads-1MB"}])
    error = fails(capsys, "train", "--scenario", "tiny.yaml")
    assert "devices.d must hold at least one model at one level" in error
    write_scenario(fake_checkpoints, "where.yaml", models=[{"name": "small"}])
    error = fails(capsys, "eval", "--scenario", "where.yaml", "--real")
    assert "models.small.checkpoint must be given to run on real engines" in error


def test_datasets_that_cannot_be_read(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path_factory: Any, fake_checkpoints: Any
) -> None:
    from tests.worlds import fit_fake

    elsewhere = tmp_path_factory.mktemp("dataset")
    fit_fake(fake_checkpoints, elsewhere)
    whole = (elsewhere / "fake.parquet").read_bytes()
    Path("cut.parquet").write_bytes(whole[:-200])
    assert "cut.parquet" in fails(capsys, "fit", "cut.parquet", "--out", "perf2")
    table = pq.read_table(elsewhere / "fake.parquet")
    metadata = {k: b"999" if b"schema" in k else v for k, v in table.schema.metadata.items()}
    write_table(table.replace_schema_metadata(metadata), "old.parquet")
    assert "must be version 5" in fails(capsys, "fit", "old.parquet", "--out", "perf2")


def test_a_policy_for_other_observations(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = {"format": "shunter-policy", "format_version": str(POLICY_FORMAT), "features_version": "0"}
    write_tensors("p.safetensors", random_policy().weights, header)
    error = fails(capsys, "eval", "--scenario", "s.yaml", "--policy", "p.safetensors")
    assert f"features_version must be version {FEATURES_VERSION}" in error


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    venv = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    return venv / "bin" / "python"


@pytest.mark.engine
def test_an_interpreter_without_the_engine(
    folder: Path, capsys: pytest.CaptureFixture[str], bare_python: Path, fake_checkpoints: Any
) -> None:
    arguments = ("profile", "--model", str(fake_checkpoints["small"]), "--python", str(bare_python))
    error = fails(capsys, *arguments, began=True)
    assert "torch" in error
    assert str(bare_python) in error


def test_eval_prints_a_table_and_writes_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    arguments = ("--seeds", "6", "--json", "r.json", "--out", "runs/a", "--verbose")
    out = works(capsys, "eval", "--scenario", "s.yaml", *arguments)
    result = json.loads(Path("r.json").read_text())
    for name, policy in result["policies"].items():
        assert name in out
        assert f"{policy['simulated']['response_mean_s']:.3f} s" in out
    assert {p.name for p in Path("runs/a").iterdir()} == set(FILES.values())
    assert Path("mlflow.db").exists()


def test_eval_at_several_loads_draws_load_curves(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    loads = ("--load", "0.3", "--load", "0.6", "--json", "r.json", "--out", "runs/loads")
    out = works(capsys, "eval", "--scenario", "s.yaml", "--seeds", "1", "--policy", "fifo-swap", *loads)
    assert "loads beside each other: runs/loads/report.html" in out
    slow, fast = json.loads(Path("r.json").read_text())["runs"]
    assert fast["rate_per_s"] == pytest.approx(2 * slow["rate_per_s"])
    names = {"load-0.3", "load-0.6", "report.html", "report.md", "results.json"}
    assert {p.name for p in Path("runs/loads").iterdir()} == names
    page = Path("runs/loads/report.md").read_text()
    assert "Not drawn" not in page
    assert "\n\nLowest mean response: fifo-swap (" in page
    assert (
        f"At {fast['rate_per_s']:.4g} requests/s. Simulated: fifo-swap has the lowest mean response" in page
    )
    assert works(capsys, "compare", "runs/loads/load-0.3", "runs/loads/load-0.6")
    client = open_store(store_uri())
    runs = client.search_runs([client.get_experiment_by_name("shunter").experiment_id])
    (whole,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    assert whole.data.params["loads"] == "0.3, 0.6"
    assert whole.data.params["best"] == "fifo-swap, fifo-swap"
    assert whole.data.params["policy"] == "fifo-swap, fifo-swap (best at each load)"
    assert whole.data.tags["mlflow.note.content"].startswith("Lowest mean response: fifo-swap (")
    assert f"MLflow: {store_uri()} run {whole.info.run_id}" in out
    of_loads = {
        run.data.params["loads"]: run
        for run in runs
        if run.data.tags.get("mlflow.parentRunId") == whole.info.run_id
    }
    assert set(of_loads) == {"0.3", "0.6"}
    for load, run in of_loads.items():
        (part,) = (one for one in runs if one.data.tags.get("mlflow.parentRunId") == run.info.run_id)
        assert (part.data.params["load"], part.data.params["policy"]) == (load, "fifo-swap")
        assert run.data.params["best"] == "fifo-swap"
        assert run.data.metrics["best/response_mean_s"] == part.data.metrics["response_mean_s"]
        assert run.data.metrics["response_mean_s"] == part.data.metrics["response_mean_s"]
        assert (run.data.params["policy"], run.data.params["mode"]) == ("fifo-swap", "simulated")


@pytest.mark.engine
def test_eval_real_puts_simulated_real_and_error_beside_each_other(
    folder: Path, capsys: pytest.CaptureFixture[str], fake_checkpoints: Any
) -> None:
    """The fake engine in worker processes on the wall clock: LinearDurations are not what was fitted."""
    import json

    models = [{"name": n, "checkpoint": str(p), "levels": [9]} for n, p in fake_checkpoints.items()]
    workload = {"requests": 12, "rate_per_s": 20, "prompt_scale": 0.01, "decode_scale": 0.02}
    devices = [{"name": "d", "device": "cpu:1-threads-300MB"}]
    write_scenario(fake_checkpoints, "real.yaml", models=models, workload=workload, devices=devices)
    arguments = ("--policy", "cost-greedy", "--policy", "fifo-swap", "--seeds", "1", "--json", "r.json")
    out = works(capsys, "eval", "--scenario", "real.yaml", "--real", "--verbose", *arguments)
    assert "Requests: simulated against real" in out
    row = json.loads(Path("r.json").read_text())["policies"]["cost-greedy"]
    simulated, real = row["simulated"]["response_mean_s"], row["real"]["response_mean_s"]
    assert row["simulation_error"]["response_mean_s"] == pytest.approx(simulated / real - 1)
    assert row["real"]["unfinished"] == 0
    parts = row["error_split"]
    assert parts["durations"] + parts["decisions"] == pytest.approx(simulated / real - 1)
    assert "what deciding differently adds" in " ".join(out.split())


def test_tracking_goes_where_the_environment_says(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    Path("mlflow.db").unlink()
    uri = f"sqlite:///{folder / 'elsewhere.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    works(capsys, "eval", "--scenario", "s.yaml", "--seeds", "2", "--policy", "fifo-swap")
    assert not Path("mlflow.db").exists()
    client = mlflow.MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("shunter").experiment_id])
    (policy,) = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    (whole,) = [run for run in runs if run is not policy]
    assert policy.data.metrics["response_mean_s"] > 0
    assert policy.data.params["policy"] == "fifo-swap"
    assert whole.data.params["scenario.name"] == "fake"


def test_train_then_eval_its_policy_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = works(capsys, "train", "--scenario", "s.yaml", "--generations", "1", "--out", "p.safetensors")
    assert "the best heuristic there" in out
    assert set(read_event_log("p.events.parquet").policy) == {"evolution"}
    assert "--out must not exist yet" in fails(
        capsys, "train", "--scenario", "s.yaml", "--out", "p.safetensors"
    )
    policies = ("--policy", "p.safetensors", "--policy", "fifo-swap")
    out = works(capsys, "eval", "--scenario", "s.yaml", *policies, "--seeds", "2")
    assert "evolution" in out
    (own,) = inputs_of("evolution", "policy_digest")
    (none,) = inputs_of("fifo-swap", "scenario_digest")
    assert own[0] in own[1]
    assert len(own[1]) == len(none[1]) + 1  # what it was compared with is no input of the other one


def inputs_of(policy: str, tag: str) -> list[tuple[str, list[str]]]:
    """A tag of the run of one policy within an evaluation, and the digests of all that it was made of."""
    client = open_store(store_uri())
    runs = client.search_runs(["1"], f"tags.`shunter.policy` = '{policy}'")
    return [
        (run.data.tags[f"shunter.{tag}"], [one.dataset.digest for one in run.inputs.dataset_inputs])
        for run in runs
    ]


def test_what_ctrl_c_ends_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Typer itself ends in silence."""

    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shunter.cli.main, "_function", lambda name: stop)
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "shunter: interrupted\n"


def test_every_group_says_what_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    for group in GROUPS:
        said = works(capsys, group, "--help")
        for name in COMMANDS:
            assert not name.startswith(f"{group} ") or f"  {name.split()[1]} " in said
        error = fails(capsys, group, "nothing")
        assert f"command: unknown name '{group} nothing'" in error


@pytest.mark.parametrize(
    ("words", "option"), [("eval --scenario s.yaml --load inf", "load"), ("timeline e --from inf", "--from")]
)
def test_no_option_is_infinite(
    words: str,
    option: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"{option} must be a finite number. Got " in fails(capsys, *words.split())
