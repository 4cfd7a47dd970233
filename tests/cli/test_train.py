from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml

pytest.importorskip("sb3_contrib", reason="needs the extra train")

from shunter.agents.learned import LearnedPolicy
from shunter.agents.policy_file import training_of
from shunter.agents.score_card import score_card_of
from shunter.cli.main import main
from shunter.models.performance import PerformanceModel
from tests.cli.test_main import write_scenario

SETTINGS = {"steps": 384, "environments": 2, "rollout_steps": 64, "batch_size": 64, "width": 8}

KILLED = """
import os, signal, sys
from shunter.cli import train_run
from shunter.cli.main import main

def kill(board, out, steps, point):
    if out.stem == "p-1" and point.steps >= 256:
        os.kill(os.getpid(), signal.SIGKILL)

train_run._Board.show = kill
main(sys.argv[1:])
"""


@pytest.fixture
def folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fake_checkpoints: dict[str, Path],
    fake_performance: PerformanceModel,
) -> Path:
    """A working folder with a training file, its scenario and performance model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    fake_performance.save("perf")
    write_scenario(fake_checkpoints)
    settings = {**SETTINGS, "validate_every": 1}
    config = {"scenarios": ["s.yaml"], "performance": "perf", "loads": [0.7], "settings": settings}
    Path("t.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as caught:
        main(["train", "--config", "t.yaml", *arguments])
    out = capsys.readouterr()
    assert caught.value.code == code, out.err
    return out.err if code == 2 else out.out


def weights(path: str) -> dict[str, Any]:
    return {key: value.tolist() for key, value in LearnedPolicy.load(path).weights.items()}


def mlflow_runs() -> list[Any]:
    mlflow.set_tracking_uri(f"sqlite:///{Path('mlflow.db').resolve()}")
    runs: list[Any] = mlflow.search_runs(experiment_names=["shunter"], output_format="list")
    return runs


def test_seeds_killed_in_the_middle_go_on_as_if_nothing_had_happened(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run(capsys, "--out", "whole/p.safetensors", "--seeds", "2")
    assert "whole/p.safetensors: the best of 2 seeds" in whole
    assert {path.name for path in Path("whole").iterdir()} == {
        *("p.safetensors", "p-0.safetensors", "p-1.safetensors"),
        *("p-0.events.parquet", "p-1.events.parquet"),
    }
    logged = len(mlflow_runs())
    arguments = ["train", "--config", "t.yaml", "--out", "cut/p.safetensors", "--seeds", "2"]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert Path("cut/p-0.safetensors").exists()
    assert Path("cut/p-1.checkpoint.pt").exists()
    again = ["--out", "cut/p.safetensors", "--seeds", "2"]
    assert "--out must not exist yet" in run(capsys, *again, code=2)
    run(capsys, *again, "--resume")
    for seed in (0, 1):
        assert weights(f"cut/p-{seed}.safetensors") == weights(f"whole/p-{seed}.safetensors")
    assert weights("cut/p.safetensors") == weights("whole/p.safetensors")
    assert not list(Path("cut").glob("*.pt"))
    after = len(mlflow_runs())
    run(capsys, *again, "--resume")  # all is finished: nothing is trained
    assert len(mlflow_runs()) == after == logged + 4  # two that were killed, and two that went on
    Path("t.yaml").write_text(Path("t.yaml").read_text().replace("width: 8", "width: 16"))
    assert "--out must be of a training with these settings to --resume" in run(
        capsys, *again, "--resume", code=2
    )


def test_what_mlflow_gets(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "--out", "p.safetensors")
    (one,) = mlflow_runs()
    assert one.info.status == "FINISHED"
    assert one.data.tags["shunter.kind"] == "train"
    assert one.data.params["train.width"] == "8"
    client = mlflow.MlflowClient()
    curve = client.get_metric_history(one.info.run_id, "validation/response_ratio")
    assert [point.step for point in curve] == [0, 128, 256, 384]
    table = mlflow.load_table("score_card.json", run_ids=[one.info.run_id])
    assert list(table.scenario) == ["fake"]
    assert table.baseline_response_s[0] > 0
    names = {file.path for file in client.list_artifacts(one.info.run_id)}
    assert {"p.safetensors", "p.events.parquet", "score_card.json"} <= names
    model = mlflow.pyfunc.load_model("models:/shunter-fake@champion")
    assert model.metadata.run_id == one.info.run_id
    assert set(model.metadata.signature.inputs.input_names()) == {"candidates", "context", "action_mask"}


def test_specialists_and_what_they_teach(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = {**yaml.safe_load(Path("s.yaml").read_text()), "name": "other"}
    Path("other.yaml").write_text(yaml.safe_dump(other))
    config = yaml.safe_load(Path("t.yaml").read_text())
    distill = {"width": 8, "rounds": 2, "environments": 2, "steps": 20, "passes": 2}
    config = {**config, "scenarios": ["s.yaml", "other.yaml"], "loads": [0.5, 0.7], "distill": distill}
    Path("t.yaml").write_text(yaml.safe_dump(config))
    assert "--seeds must be 1 with specialists" in run(capsys, "--seeds", "2", code=2)
    Path("t.yaml").write_text(yaml.safe_dump({**config, "scenarios": ["s.yaml", "s.yaml"]}))
    assert "scenarios must differ in their names" in run(capsys, code=2)
    Path("t.yaml").write_text(yaml.safe_dump({**config, "validation": ["s.yaml"]}))
    assert "validation must be empty with specialists" in run(capsys, code=2)
    Path("t.yaml").write_text(yaml.safe_dump(config))
    run(capsys, "--out", "g.safetensors")
    assert {path.name for path in Path("g").glob("*.safetensors")} == {
        "fake.safetensors",
        "other.safetensors",
    }
    policy = LearnedPolicy.load("g.safetensors")
    training = training_of(policy)
    assert training is not None
    assert training.scenarios == ["fake", "other"]
    assert training.steps == 2 * SETTINGS["steps"]
    assert training.settings["teachers"] == 2
    card = score_card_of(policy)
    assert card is not None
    assert [(cell.scenario, round(cell.load, 1)) for cell in card.cells] == [
        (name, load) for name in ("fake", "other") for load in (0.5, 0.7)
    ]
    names = {one.info.run_name for one in mlflow_runs()}
    assert len(names) == 3
    before = {path: path.stat().st_mtime_ns for path in Path("g").glob("*.safetensors")}
    assert "--out must not exist yet" in run(capsys, "--out", "g.safetensors", code=2)
    Path("g.safetensors").unlink()
    run(capsys, "--out", "g.safetensors", "--resume")  # only the last step is left
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert weights("g.safetensors") == {key: array.tolist() for key, array in policy.weights.items()}


def test_a_scenario_beyond_the_training_is_warned_of(
    folder: Path, capsys: pytest.CaptureFixture[str], fake_checkpoints: dict[str, Path]
) -> None:
    run(capsys, "--out", "p.safetensors")
    workload = {"requests": 60, "load": 0.35, "prompt_scale": 0.05, "decode_scale": 0.1}
    write_scenario(fake_checkpoints, "light.yaml", workload=workload)
    said = {}
    for name in ("s.yaml", "light.yaml"):
        with pytest.raises(SystemExit):
            main(["eval", "--scenario", name, "--policy", "p.safetensors", "--seeds", "2"])
        said[name] = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    line = "maskable-ppo is beyond its training: load: 0.35, trained from 0.7 (50% below)"
    assert said == {"s.yaml": [], "light.yaml": [f"warning: {line}"]}


def test_ctrl_c_keeps_the_best_so_far_and_starts_no_other_seed(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from shunter.cli import train_run

    def interrupt(board: Any, out: Path, steps: int, point: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train_run._Board, "show", interrupt)
        out = run(capsys, "--out", "p.safetensors", "--seeds", "2", code=130)
    assert "Interrupted: the best policy so far was kept; --resume goes on." in out
    assert not Path("p-1.safetensors").exists()
    run(capsys, "--out", "p.safetensors", "--seeds", "2", "--resume")
    run(capsys, "--out", "whole.safetensors", "--seeds", "2")
    assert weights("p-0.safetensors") == weights("whole-0.safetensors")
