from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from shunter.agents.learned.base_policy import BasePolicy
from shunter.agents.learned.file import training_of
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.learned.score_card import score_card_of
from shunter.agents.learned.weights import untrained_weights
from shunter.cli.main import main
from shunter.envs.world.world import World
from shunter.models.performance import PerformanceModel
from shunter.tensors import write_tensors
from shunter.tracking.lineage import policy_digest
from shunter.train.search.checkpoint import SearchCheckpoint, read_search, write_search
from shunter.train.search.evolution import threads_of
from shunter.train.settings import EvolutionSettings, plain
from shunter.train.training import training_digest
from shunter.train.verdict import verdict_of
from tests.cli.test_main import fails, write_scenario

SETTINGS = {"generations": 6, "pairs": 2, "episodes": 1, "validate_every": 2, "threads": 1}
PPO = {
    "steps": 384,
    "environments": 2,
    "rollout_steps": 64,
    "batch_size": 64,
    "width": 8,
    "validate_every": 1,
}

KILLED = """
import os, signal, sys
from shunter.agents.learned.weights import untrained_weights
from shunter.cli.main import main
from shunter.envs.world.world import World
from shunter.train import runs

def kill(board, out, share, point):
    if out.stem == "p-1" and share > 0.8:
        os.kill(os.getpid(), signal.SIGKILL)

runs._Board.show = kill
main(sys.argv[1:])
"""


@pytest.fixture
def folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fake_checkpoints: dict[str, Path],
    fake_performance: PerformanceModel,
    empty_store: Path,
) -> Path:
    """A working folder with a training file, its scenario and performance model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copyfile(empty_store, "mlflow.db")
    fake_performance.save("perf")
    write_scenario(fake_checkpoints)
    write_config()
    return tmp_path


def write_config(**changes: Any) -> None:
    config = {"scenarios": ["s.yaml"], "performance": "perf", "loads": [0.7], "settings": SETTINGS}
    Path("t.yaml").write_text(yaml.safe_dump({**config, **changes}))


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as caught:
        main(["train", "--config", "t.yaml", *arguments])
    out = capsys.readouterr()
    assert caught.value.code == code, out.err
    return out.err if code == 2 else out.out


def weights(path: str) -> dict[str, Any]:
    return {key: value.tolist() for key, value in LearnedPolicy.load(path).weights.items()}


def mlflow_runs() -> list[Any]:
    client = mlflow.MlflowClient(f"sqlite:///{Path('mlflow.db').resolve()}")
    return list(client.search_runs([client.get_experiment_by_name("shunter").experiment_id]))


def test_seeds_killed_in_the_middle_go_on_as_if_nothing_had_happened(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run(capsys, "--out", "whole/p.safetensors", "--seeds", "2", "--verbose")
    assert whole.startswith("2 trainings on fake: evolution, 6 generations; first compiling ...")
    assert "whole/p.safetensors: the best of 2 seeds" in whole
    assert (
        whole.count("mean response (p99 wait for a first token): trained ") == 3
    )  # of each, and of the best
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
    assert read_search(Path("cut/p-1.checkpoint"), {}).state["generation"] == 4  # and five were done
    again = ["--out", "cut/p.safetensors", "--seeds", "2"]
    assert "--out must not exist yet" in run(capsys, *again, code=2)
    run(capsys, *again, "--resume")
    for seed in (0, 1):
        assert weights(f"cut/p-{seed}.safetensors") == weights(f"whole/p-{seed}.safetensors")
    assert weights("cut/p.safetensors") == weights("whole/p.safetensors")
    assert not list(Path("cut").glob("*.checkpoint*"))
    after = len(mlflow_runs())
    run(capsys, *again, "--resume")  # all is finished: nothing is trained
    # Those that were killed went on, and so did what they are in.
    assert len(mlflow_runs()) == after == logged + 3
    write_config(settings={**SETTINGS, "pairs": 3})
    assert "--out must be of a training with these settings to --resume" in run(
        capsys, *again, "--resume", code=2
    )


def test_what_mlflow_gets(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "--out", "p.safetensors")
    (one,) = mlflow_runs()
    assert one.info.status == "FINISHED"
    assert one.data.tags["shunter.kind"] == "train"
    assert one.data.params["train.algorithm"] == "evolution"
    assert one.data.params["train.pairs"] == "2"
    assert one.info.run_name == "train fake at 0.7: evolution, 6 generations, seed 0"
    assert (one.data.params["loads"], one.data.params["objectives"]) == ("0.7", "mean-response")
    assert one.data.params["scenario.name"] == "fake"
    assert {"shunter.versions", "shunter.machine_id"} <= set(one.data.tags)
    assert {(given.dataset.name, given.tags[0].value) for given in one.inputs.dataset_inputs} == {
        ("fake", "training"),
        ("performance model", "prediction"),
    }
    tags = one.data.tags
    assert {tags["shunter.scenario_digest"], tags["shunter.performance_digest"]} == {
        given.dataset.digest for given in one.inputs.dataset_inputs
    }
    assert tags["shunter.performance_digest"] == PerformanceModel.load("perf").digest
    client = mlflow.MlflowClient()
    for name in ("search/gradient_norm", "search/learning_rate", "search/pair_gap_std"):
        series = client.get_metric_history(one.info.run_id, name)
        assert len({point.step for point in series}) == 3  # no generation comes before the first validation
    curve = client.get_metric_history(one.info.run_id, "validation/response_ratio")
    steps = [point.step for point in curve]
    assert len(set(steps)) == 4
    assert steps[0] == 0
    assert steps == sorted(steps)
    verdict = verdict_of(LearnedPolicy.load("p.safetensors"))
    assert verdict is not None
    assert one.data.metrics["verdict/change"] == verdict.change == one.data.metrics["change_vs_untrained"]
    assert tags["shunter.policy_digest"] == policy_digest(LearnedPolicy.load("p.safetensors"))
    assert one.data.metrics["verdict/best/response_s"] == verdict.best.response_s
    table = client.load_table(one.info.experiment_id, "score_card.json", [one.info.run_id])
    assert list(table.scenario) == ["fake"]
    assert table.baseline_response_s[0] > 0
    names = {file.path for file in client.list_artifacts(one.info.run_id)}
    assert {"p.safetensors", "p.events.parquet", "score_card.json"} <= names
    model = mlflow.pyfunc.load_model("models:/shunter-fake/1")
    assert model.metadata.run_id == one.info.run_id
    assert set(model.metadata.signature.inputs.input_names()) == {"candidates", "context", "action_mask"}
    # The policy's file alone is not all of a training: what else belongs to it is made up for, once.
    events = pq.read_table("p.events.parquet")
    assert min(events["decision_s"].to_pylist()) > 0
    Path("p.events.parquet").unlink()
    client.delete_run(one.info.run_id)
    client.delete_registered_model("shunter-fake")
    assert "MLflow model shunter-fake, version 1" in run(capsys, "--out", "p.safetensors", "--resume")
    found = pq.read_table("p.events.parquet")
    assert found.schema == events.schema
    timed = "decision_s"  # how long deciding took, by the clock, and no more of the episodes
    assert found.drop_columns(timed).equals(events.drop_columns(timed))
    (again,) = mlflow_runs()
    assert again.info.status == "FINISHED"
    assert "MLflow" not in run(capsys, "--out", "p.safetensors", "--resume")
    assert len(mlflow_runs()) == 1


def test_specialists_and_what_they_teach(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sb3_contrib", reason="needs the extra train")
    other = {**yaml.safe_load(Path("s.yaml").read_text()), "name": "other"}
    Path("other.yaml").write_text(yaml.safe_dump(other))
    config = yaml.safe_load(Path("t.yaml").read_text())
    distill = {"width": 8, "rounds": 2, "decisions": 40, "episodes": 2, "passes": 2}
    config = {**config, "scenarios": ["s.yaml", "other.yaml"], "distill": distill}
    Path("t.yaml").write_text(yaml.safe_dump(config))
    assert "--seeds must be 1 with specialists" in run(capsys, "--seeds", "2", code=2)
    Path("t.yaml").write_text(yaml.safe_dump({**config, "scenarios": ["s.yaml", "s.yaml"]}))
    assert "scenarios must differ in their names" in run(capsys, code=2)
    Path("t.yaml").write_text(yaml.safe_dump({**config, "validation": ["s.yaml"]}))
    assert "validation must be empty with specialists" in run(capsys, code=2)
    Path("t.yaml").write_text(yaml.safe_dump(config))
    assert "geometric means over 2 worlds: trained " in run(capsys, "--out", "g.safetensors")
    assert {path.name for path in Path("g").glob("*.safetensors")} == {
        "fake.safetensors",
        "other.safetensors",
    }
    registered = mlflow.MlflowClient(f"sqlite:///{Path('mlflow.db').resolve()}").search_registered_models()
    assert registered
    assert not {"shunter-fake", "shunter-other"} & {model.name for model in registered}
    policy = LearnedPolicy.load("g.safetensors")
    training = training_of(policy)
    assert training is not None
    assert training.scenarios == ["fake", "other"]
    teachers = [training_of(LearnedPolicy.load(f"g/{name}.safetensors")) for name in ("fake", "other")]
    assert training.steps == sum(teacher.steps for teacher in teachers if teacher is not None)
    assert training.settings["teachers"] == 2
    card = score_card_of(policy)
    assert card is not None
    assert [(cell.scenario, round(cell.load, 1)) for cell in card.cells] == [("fake", 0.7), ("other", 0.7)]
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
        said[name] = [
            line for line in capsys.readouterr().out.splitlines() if "warning" in line and "load:" in line
        ]
    line = "evolution is beyond its training: load: 0.35, trained from 0.7 (50% below)"
    assert said == {"s.yaml": [], "light.yaml": [f"warning: {line}"]}


def test_ctrl_c_keeps_the_best_so_far_and_starts_no_other_seed(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from shunter.train import runs

    def interrupt(board: Any, out: Path, share: float, point: Any) -> None:
        if share > 0.4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs._Board, "show", interrupt)
        out = run(capsys, "--out", "p.safetensors", "--seeds", "2", code=130)
    assert out.splitlines()[1].startswith("training ")  # what it added so far
    assert "Interrupted: the best policy so far was kept; --resume goes on." in out
    assert not Path("p-1.safetensors").exists()
    cut = {one.info.run_id: one for one in mlflow_runs()}  # of the seeds together, and of the first one
    assert [one.info.status for one in cut.values()] == ["KILLED", "KILLED"]
    assert not mlflow.MlflowClient().search_registered_models()  # nor a champion
    run(capsys, "--out", "p.safetensors", "--seeds", "2", "--resume")
    whole = {one.info.run_id: one for one in mlflow_runs()}
    assert len(whole) == 3
    assert set(cut) < set(whole)
    assert {one.info.status for one in whole.values()} == {"FINISHED"}
    (parent,) = [one for one in whole.values() if "mlflow.parentRunId" not in one.data.tags]
    assert {one.data.tags.get("mlflow.parentRunId") for one in whole.values()} == {None, parent.info.run_id}
    assert not list(Path().glob("*.run"))
    run(capsys, "--out", "whole.safetensors", "--seeds", "2")
    assert weights("p-0.safetensors") == weights("whole-0.safetensors")


def test_ctrl_c_while_its_mlflow_run_begins_leaves_none_that_is_finished(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from shunter.train import runs

    log_training = runs.log_training

    def interrupt(*arguments: Any, **options: Any) -> None:
        log_training(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "log_training", interrupt)
    run(capsys, "--out", "p.safetensors", code=130)
    assert [one.info.status for one in mlflow_runs()] == ["KILLED"]


def test_sigterm_ends_a_training_as_ctrl_c_does(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from shunter.train import runs

    def terminate(board: Any, out: Path, share: float, point: Any) -> None:
        if share > 0.4:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(runs._Board, "show", terminate)
    out = run(capsys, "--out", "p.safetensors", code=143)
    assert "Interrupted: the best policy so far was kept; --resume goes on." in out
    assert "not registered in MLflow: it was cut short" in out
    assert LearnedPolicy.load("p.safetensors").metadata["interrupted"] == "yes"
    assert [one.info.status for one in mlflow_runs()] == ["KILLED"]
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is an extra")
def test_side_by_side_is_one_after_another(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_config(settings={**SETTINGS, "threads": 0})
    run(capsys, "--out", "one/p.safetensors", "--seeds", "2")
    run(capsys, "--out", "ray/p.safetensors", "--seeds", "2", "--ray", "local")
    for name in ("p-0", "p-1", "p"):
        assert weights(f"ray/{name}.safetensors") == weights(f"one/{name}.safetensors")


def test_a_worker_takes_its_share_of_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    for said, threads in (("", os.cpu_count()), ("1", 1)):
        monkeypatch.setenv("OMP_NUM_THREADS", said)  # as Ray sets it
        assert threads_of(EvolutionSettings()) == threads
    assert threads_of(EvolutionSettings(threads=3)) == 3


def test_a_training_that_becomes_no_better_ends_early(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(settings={**SETTINGS, "generations": 500, "learning_rate": 1e-12, "patience": 2})
    out = run(capsys, "--out", "p.safetensors")
    assert LearnedPolicy.load("p.safetensors").metadata["generations"] == "4"
    assert "training added 0.0 % [+0.0, +0.0]: nothing that the measurement shows" in out


def test_a_start_is_what_training_adds_to(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "--out", "p.safetensors")
    out = run(capsys, "--out", "q.safetensors", "--from", "p.safetensors", "--generations", "2")
    before, after = (verdict_of(LearnedPolicy.load(f"{name}.safetensors")) for name in "pq")
    assert before is not None
    assert after is not None
    assert (before.start.policy, after.start.policy) == ("untrained", "start")
    assert after.start.response_s == before.trained.response_s
    assert "; start " in out


def test_training_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys\n"
        "class NoTorch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('torch', 'stable_baselines3', 'sb3_contrib'): raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, NoTorch())\n"
        "from shunter.cli.main import main\n"
        "main(['train', '--config', 't.yaml', '--out', 'p.safetensors'])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "training " in done.stdout
    refused = code.replace("p.safetensors", "q.safetensors")
    write_config(settings=PPO, algorithm="maskable-ppo")
    done = subprocess.run(
        [sys.executable, "-c", refused], env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "maskable-ppo needs the extra: pip install 'shunter[train]'" in done.stderr


def test_by_maskable_ppo(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sb3_contrib", reason="needs the extra train")
    write_config(settings={**PPO, "warm_start": False}, algorithm="maskable-ppo")
    out = run(capsys, "--out", "p.safetensors")
    assert out.startswith("training on fake: maskable-ppo, 384 decisions;")
    assert "mean response (p99 wait for a first token): trained " in out
    training = training_of(LearnedPolicy.load("p.safetensors"))
    assert training is not None
    assert training.steps == 384


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "5"], "--steps must be left out for evolution, which has none. Got 5 instead."),
        (["--minutes", "0"], "--minutes must be greater than 0. Got 0.0"),
        (["--minutes", "-1"], "--minutes must be greater than 0. Got -1.0"),
        (["--minutes", "nan"], "--minutes must be a finite number. Got nan instead."),
        (["--minutes", "inf"], "--minutes must be a finite number. Got inf instead."),
        (["--generations", "0"], "--generations must be greater than 0. Got 0"),
        (["--seed", "-1"], "--seed must be at least 0. Got -1"),
        (["--minutes", "1", "--generations", "5"], "--minutes must be left out where --generations is given"),
        (["--algorithm", "evolutoin"], "--algorithm: unknown name 'evolutoin'; did you mean evolution?"),
        (["--algorithm", "maskable-ppo", "--minutes", "1"], "--minutes must be left out for maskable-ppo"),
    ],
)
def test_options_that_break_a_rule(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert message in fails(capsys, "train", "--scenario", "s.yaml", *options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"settings": {"steps": 5}},
            "settings.steps must be left out for evolution: it is a setting of maskable-ppo "
            "(algorithm: maskable-ppo). Got 5",
        ),
        (
            {"settings": {"pair": 5}},
            "settings: unknown name 'pair'; did you mean pairs or patience or shared?",
        ),
        ({"settings": {"pairs": "many"}}, "settings: pairs must be a valid integer"),
        ({"settings": {"minutes": float("nan")}}, "--minutes must be finite. Got nan"),
        ({"settings": [3]}, "settings: settings must be "),
        ({"settings": []}, "settings: settings must be "),
        ({"settings": False}, "settings: settings must be "),
        ({"settings": {1: 2}}, "settings must be named by text. Got 1"),
        ({"settings": {"pairs": 10**12}}, "--pairs must be at most 10000"),
        ({"settings": {"shared": True}}, "settings.shared must be a number, not yes or no. Got True"),
        ({"algorithm": "ppo"}, "t.yaml: algorithm must be 'evolution' or 'maskable-ppo'. Got 'ppo'"),
        ({"algorithm": "maskable-ppo", "settings": {"sigma": 0.1}}, "it is a setting of evolution"),
    ],
)
def test_files_that_break_a_rule(
    folder: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    write_config(**changes)
    assert message in fails(capsys, "train", "--config", "t.yaml")


def test_checkpoints_that_cannot_be_gone_on_from(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, resume = Path("p.checkpoint"), ["train", "--config", "t.yaml", "--out", "p.safetensors", "--resume"]
    path.write_bytes(b"PK\x03\x04" + bytes(100))  # as torch begins a file
    rule = "--algorithm must be that of the checkpoint p.checkpoint, maskable-ppo, to go on from it"
    assert rule in fails(capsys, *resume)
    arrays = {name: np.zeros(3) for name in ("center", "average", "first", "second", "best")}
    settings = plain(EvolutionSettings(**{**SETTINGS, "pairs": 9}))
    write_search(SearchCheckpoint(arrays, {"settings": settings}), path)
    assert "--pairs must be that of the checkpoint p.checkpoint, 9, to go on" in fails(capsys, *resume)
    settings = {**plain(EvolutionSettings(**SETTINGS)), "task": "another"}
    write_search(SearchCheckpoint(arrays, {"settings": settings}), path)
    rule = "--resume must be of the scenarios, loads and start (--from) of the checkpoint p.checkpoint"
    assert rule in fails(capsys, *resume)
    path.write_bytes(path.read_bytes()[:-20])
    assert "p.checkpoint: cannot be read: no safetensors file: " in fails(capsys, *resume)
    path.write_bytes(b"nothing")
    assert "p.checkpoint: cannot be read: no safetensors file: " in fails(capsys, *resume)
    write_tensors(path, arrays, {})
    assert "p.checkpoint: cannot be read: no checkpoint of a search" in fails(capsys, *resume)


def test_a_training_of_another_task_is_not_finished_and_not_gone_on_with(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = ["train", "--config", "t.yaml", "--out", "p.safetensors", "--resume"]
    run(capsys, "--out", "p.safetensors")
    run(capsys, "--out", "p.safetensors", "--resume")
    rule = "--out must be of a training on these scenarios and loads, from this start. Got 'p.safetensors'"
    assert rule in fails(capsys, *again, "--from", "p.safetensors")
    write_config(loads=[0.5])
    assert rule in fails(capsys, *again)


def test_a_task_is_its_worlds_loads_predictions_and_start(fake_world: World) -> None:
    other = LearnedPolicy("start", untrained_weights(BasePolicy(2.0)), {})
    slower = replace(
        fake_world, tables=fake_world.tables.changed(load_s=2 * fake_world.tables.level["load_s"])
    )
    tasks = [
        training_digest([fake_world]),
        training_digest([fake_world, fake_world]),
        training_digest([fake_world], [fake_world]),
        training_digest([fake_world.at_rate(1.0)]),
        training_digest([slower]),
        training_digest([fake_world], start=other),
    ]
    assert len(set(tasks)) == len(tasks)
    assert training_digest([fake_world]) == tasks[0]
