from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import psutil
import pytest
import yaml
from mlflow.tracking._tracking_service import utils

from shunter.agents.heuristics.cost_greedy import CostGreedy
from shunter.agents.learned.base_policy import TUNED_COST_GREEDY
from shunter.agents.learned.policy import POLICY_FORMAT, LearnedPolicy
from shunter.agents.mlflow_model import LEAST
from shunter.agents.model_uri import load_registered, version_uri
from shunter.agents.registry import make_policy
from shunter.cli.main import main
from shunter.envs.world.world import World
from shunter.errors import InputError, ShunterWarning, VersionError
from shunter.models.performance import PerformanceModel
from shunter.sinks import registry_name_of
from shunter.tensors import write_tensors
from shunter.tracking import policies as registry
from shunter.tracking import runs
from shunter.tracking.policies import Registration, register_policy
from shunter.tracking.push import push_runs
from shunter.tracking.runs import tracking
from shunter.tracking.store import store_uri
from shunter.train.algorithms import train_policy
from shunter.train.selection import heuristics
from shunter.train.settings import EvolutionSettings
from shunter.train.verdict import untrained_policy
from shunter.uncertainty import paired_mean_change
from tests.agents.test_policies import observations
from tests.cli.test_main import write_scenario
from tests.networks import random_policy

SEEDS = range(3_000_000, 3_000_008)

SEARCH = {"generations": 30, "pairs": 8, "learning_rate": 0.1, "averaging": 0.8, "validate_every": 6}
"""So short a search is well below all heuristics in the fake world."""

CUT_OFF = """
import os, pathlib, pickle, signal, sys
import mlflow
from tests.tracking.test_policies import register

def kill(*_, **__): os.kill(os.getpid(), signal.SIGKILL)

folder, name, step = pathlib.Path(sys.argv[1]), *sys.argv[2:]
setattr(mlflow.MlflowClient, step, kill)
register(folder, "good", pickle.loads((folder / "world").read_bytes()), name)
"""


def register(folder: Path, policy: str, world: World, name: str) -> Registration:
    with tracking("test", name, folder=folder) as tracker:
        path = folder / f"{policy}.safetensors"
        return register_policy(path, name=name, worlds=[world], tracker=tracker, seeds=SEEDS)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, fake_world: World) -> Iterator[Path]:
    """A folder with three policies, the default store, and an empty database for a server.

    ``good`` is better than all heuristics, ``fair`` than cost-greedy, ``bad`` than none. In this process
    cost-greedy is the only one to beat.
    """
    folder = tmp_path_factory.mktemp("store")
    train_policy([fake_world], EvolutionSettings(**SEARCH, threads=1)).policy.save(
        folder / "good.safetensors"
    )
    untrained_policy([fake_world]).save(folder / "fair.safetensors")
    random_policy(1, 30.0).save(folder / "bad.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "heuristics", lambda worlds: {"cost-greedy": CostGreedy()})
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(utils, "_tracking_uri", None)  # whatever other tests left it at
        patch.chdir(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow's own, while it lays out its tables
            mlflow.MlflowClient(tracking_uri=store_uri()).search_experiments()
        shutil.copyfile("mlflow.db", "empty.db")
        yield folder


def champion(name: str) -> Any:
    return mlflow.MlflowClient().get_model_version_by_alias(name, "champion")


def test_the_champion_is_replaced_by_a_better_policy_only(store: Path, fake_world: World) -> None:
    name = registry_name_of("fake world: small")
    first = register(store, "fair", fake_world, name)
    assert (first.version, first.champion) == ("1", True)
    assert "MLFLOW_TRACKING_URI" not in os.environ  # where runs of other folders go is as it was
    assert first.why.startswith("Better than cost-greedy, the best heuristic: -")
    assert first.why.endswith("; 8 paired seeds in 1 world. There was no champion.")
    second = register(store, "good", fake_world, name)
    assert (second.version, second.champion) == ("2", True)
    assert second.low <= second.change <= second.high < 0
    third = register(store, "bad", fake_world, name)
    assert (third.version, third.champion) == ("3", False)
    assert third.change > 0
    mlflow.MlflowClient().set_model_version_tag(name, "2", "shunter.decision", "undecided")
    again = register(store, "good", fake_world, name)  # as after a kill between alias and verdict
    assert (again.version, again.champion) == ("2", True)
    assert again.high == pytest.approx(second.high, abs=1e-6)
    kept = champion(name)
    assert int(kept.version) == 2
    assert kept.tags["shunter.decision"] == "champion"
    assert float(kept.tags["shunter.high"]) == pytest.approx(second.high, abs=1e-6)
    assert kept.tags["shunter.seeds"] == "3000000-3000007"
    assert kept.description.startswith(second.why)
    assert "Trained on fake at load " in kept.description
    assert kept.tags["shunter.algorithm"] == "evolution"
    assert "version 1" in second.why
    rejected = mlflow.MlflowClient().get_model_version(name, "3")
    assert rejected.tags["shunter.decision"] == "no champion"
    assert "Not better than the champion before it, version 2: +" in rejected.description

    policy = make_policy(f"models:/{name}@champion")
    assert policy.name == f"{name}:champion"
    assert version_uri(f"models:/{name}@champion") == f"models:/{name}/2"
    batch = {k: np.stack([o[k] for o in observations(fake_world)]) for k in observations(fake_world, 0)[0]}
    good = LearnedPolicy.load(store / "good.safetensors")
    np.testing.assert_array_equal(policy.act_batch(batch), good.act_batch(batch))
    bad = load_registered(f"models:/{name}/3")
    served = mlflow.pyfunc.load_model(f"models:/{name}/3")
    out = served.predict(batch)
    np.testing.assert_array_equal(out["choice"], bad.act_batch(batch))
    mask = batch["action_mask"].astype(bool)
    scores = bad.scores(batch["candidates"], batch["context"], mask)
    assert np.isneginf(scores).any()
    np.testing.assert_array_equal(out["scores"], np.where(np.isneginf(scores), LEAST, scores))
    with pytest.raises(mlflow.exceptions.MlflowException, match="shape"):
        served.predict({**batch, "context": batch["context"][:, 1:]})
    files = {path.suffix for path in (store / "mlartifacts").rglob("*") if path.is_file()}
    assert files == {"", ".safetensors", ".txt", ".whl", ".yaml"}


def test_nothing_is_champion_that_is_not_better_than_the_best_heuristic(
    store: Path, fake_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "shunter-strict"
    bad = register(store, "bad", fake_world, name)
    assert (bad.version, bad.champion) == ("1", False)
    assert bad.why.startswith("Not better than cost-greedy, the best heuristic: +")
    assert register(store, "fair", fake_world, name).champion
    # All heuristics at once are more than the start can beat, and not more than the search.
    monkeypatch.setattr(registry, "heuristics", heuristics)
    first = register(store, "fair", fake_world, "shunter-strict-first")
    assert not first.champion
    assert first.why.startswith("Not better than lru-keepalive, the best heuristic: +")
    with pytest.raises(mlflow.exceptions.MlflowException, match="champion"):
        champion("shunter-strict-first")
    second = register(store, "good", fake_world, "shunter-strict-first")
    assert (second.version, second.champion) == ("2", True)
    assert "Better than lru-keepalive, the best heuristic: -" in second.why
    # Better than the champion before it is not enough.
    monkeypatch.setattr(
        registry, "heuristics", lambda worlds: {"good": LearnedPolicy.load(store / "good.safetensors")}
    )
    third = register(store, "good", fake_world, name)
    assert not third.champion
    assert "Undecided against good, the best heuristic: +0.00%" in third.why
    assert "Better than the champion before it, version 2: -" in third.why
    assert int(champion(name).version) == 2


def test_a_champion_for_other_features_gives_way_and_a_broken_one_does_not(
    store: Path, fake_world: World
) -> None:
    name = "shunter-old"
    register(store, "good", fake_world, name)
    source = mlflow.MlflowClient().get_model_version_download_uri(name, "1")
    (file,) = Path(source.removeprefix("file://")).rglob("*.safetensors")
    old = {
        **random_policy(scale=0.0).metadata,
        "format": "shunter-policy",
        "format_version": str(POLICY_FORMAT),
    }
    write_tensors(file, random_policy(scale=0.0).weights, {**old, "features_version": "0"})
    with pytest.raises(VersionError, match=r"^models:/shunter-old@champion: features_version must be"):
        make_policy("models:/shunter-old@champion")
    new = register(store, "fair", fake_world, name)
    assert new.champion
    assert np.isnan(new.change)
    assert "version 1, which this shunter cannot run" in new.why
    assert "shunter.change" not in champion(name).tags  # there is none, and no figure that is none

    (file,) = Path(
        mlflow.MlflowClient().get_model_version_download_uri(name, "2").removeprefix("file://")
    ).rglob("*.safetensors")
    kept = file.read_bytes()
    file.write_bytes(b"")
    undecided = register(store, "good", fake_world, name)
    assert (undecided.version, undecided.champion) == ("3", False)
    assert (
        "champion stays, which cannot be compared with: models:/shunter-old/2: cannot be r" in undecided.why
    )
    assert int(champion(name).version) == 2
    file.write_bytes(kept)
    decided = register(store, "good", fake_world, name)
    assert (decided.version, decided.champion) == ("3", True)


class Touches:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_nothing_that_lies_beside_a_policy_in_the_registry_is_run(store: Path, fake_world: World) -> None:
    register(store, "good", fake_world, "shunter-evil")
    uri = mlflow.MlflowClient().get_model_version_download_uri("shunter-evil", "1")
    (file,) = Path(uri.removeprefix("file://")).rglob("*.safetensors")
    ran, folder = store / "ran", file.parent
    for name in ("python_model.pkl", "model.pkl", "policy.pkl"):
        (folder / name).write_bytes(pickle.dumps(Touches(ran)))
    (folder / "code").mkdir(exist_ok=True)
    for name in ("sitecustomize.py", "shunter.py", "code/policy.py"):
        (folder / name).write_text(f"open({str(ran)!r}, 'w')")
    for path in folder.rglob("*.py"):
        path.write_text(f"open({str(ran)!r}, 'w')")
    assert make_policy("models:/shunter-evil@champion").name == "shunter-evil:champion"
    assert not ran.exists()
    pickle.loads((folder / "model.pkl").read_bytes())
    assert ran.exists(), "it would have been seen"


class Meanwhile:
    """Another process registers a policy after the champion was compared with, or as the alias moves."""

    def __init__(self, patch: pytest.MonkeyPatch, step: str, other: Callable[[], Registration]) -> None:
        self.done: Registration | None = None
        real = getattr(mlflow.MlflowClient, step)

        def call(*arguments: Any, **more: Any) -> Any:
            if self.done is None:
                setattr(mlflow.MlflowClient, step, real)
                self.done = other()
            return real(*arguments, **more)

        patch.setattr(mlflow.MlflowClient, step, call)


@pytest.mark.parametrize(
    "step", ["create_model_version", "set_model_version_tag", "set_registered_model_alias"]
)
@pytest.mark.parametrize(("mine", "theirs"), [("fair", "good"), ("good", "fair")])
def test_of_two_registered_at_once_the_better_is_champion(
    store: Path, fake_world: World, step: str, mine: str, theirs: str
) -> None:
    name = f"shunter-race-{step}-{mine}"
    with pytest.MonkeyPatch.context() as patch:
        other = Meanwhile(patch, step, lambda: register(store, theirs, fake_world, name))
        done = register(store, mine, fake_world, name)
    assert other.done is not None
    assert done.champion == (mine == "good")
    assert str(champion(name).version) == (done if mine == "good" else other.done).version
    if mine == "fair":
        assert f"version {other.done.version}" in done.why
        assert champion(name).tags["shunter.decision"] == "champion"


def test_a_policy_whose_store_is_away_is_registered_later(
    store: Path, fake_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "shunter-away"
    monkeypatch.setattr(runs, "AGAIN_S", 0.0)

    def away(*_: Any, **__: Any) -> None:
        raise ConnectionError("the server is gone")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "create_model_version", away)
        with pytest.warns(ShunterWarning, match="the server is gone"):
            late = register(store, "good", fake_world, name)
    assert (late.version, late.champion) == ("", False)
    assert "not registered yet, no champion: Better than cost-greedy" in late.words
    assert [one.why for one in push_runs(store)] == [""]
    (version,) = mlflow.MlflowClient().search_model_versions(f"name = '{name}'")
    assert version.tags["shunter.decision"] == "undecided"
    done = register(store, "good", fake_world, name)
    assert (done.version, done.champion) == ("1", True)


@pytest.mark.parametrize(
    ("step", "left"),
    [
        ("create_model_version", []),  # the artifact is there, and the registry knows nothing of it
        ("set_registered_model_alias", ["undecided"]),
    ],
)
def test_a_registration_that_is_killed_leaves_the_old_champion_and_can_be_taken_up(
    store: Path, fake_world: World, step: str, left: list[str]
) -> None:
    name = f"shunter-cut-{len(left)}"
    register(store, "fair", fake_world, name)
    (store / "world").write_bytes(pickle.dumps(fake_world))
    root = Path(__file__).parents[2]
    cut = subprocess.run(
        [sys.executable, "-c", CUT_OFF, str(store), name, step],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        check=False,
    )
    assert cut.returncode == -signal.SIGKILL, cut.stderr.decode()
    assert int(champion(name).version) == 1
    assert make_policy(f"models:/{name}@champion").name == f"{name}:champion"
    versions = mlflow.MlflowClient().search_model_versions(f"name = '{name}'")
    assert [v.tags["shunter.decision"] for v in versions if int(v.version) > 1] == left
    again = register(store, "good", fake_world, name)
    assert (again.version, again.champion) == ("2", True)
    assert int(champion(name).version) == 2
    assert len(mlflow.MlflowClient().search_model_versions(f"name = '{name}'")) == 2


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("models:/shunter-none@champion", r"known: .*\)\. Got 'models:/shunter-none@champion'"),
        ("models:/a/b", "have the form models:/NAME@champion"),
        ("models:/a' OR name LIKE '%@champion", "none of them a quote"),
    ],
)
def test_unknown_uris_are_refused(store: Path, uri: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_policy(uri)


def test_without_a_store_none_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(InputError, match="there is none at"):
        make_policy("models:/shunter-demo@champion")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "a/b"}, "name"),
        ({"name": ".."}, "name"),
        ({"worlds": []}, "worlds"),
        ({"seeds": [3]}, "seeds"),
    ],
)
def test_what_cannot_be_registered_is_refused(
    store: Path, fake_world: World, changes: dict[str, Any], field: str
) -> None:
    arguments: dict[str, Any] = {"name": "shunter-x", "worlds": [fake_world], "seeds": SEEDS, "tracker": None}
    with pytest.raises(InputError, match=f"^{field} must"):
        register_policy(store / "good.safetensors", **{**arguments, **changes})


def test_the_interval_is_paired_over_seeds_in_all_worlds() -> None:
    rng = np.random.default_rng(0)
    theirs = rng.uniform(1, 9, (2, 12))
    lower = paired_mean_change(0.9 * theirs, theirs)
    assert (lower.value, lower.low, lower.high) == pytest.approx((-0.1, -0.1, -0.1))
    mixed = paired_mean_change(theirs * [[0.8], [1.25]], theirs)
    assert mixed.value == pytest.approx(0)
    noisy = paired_mean_change(0.9 * theirs * rng.normal(1, 0.05, theirs.shape), theirs)
    assert noisy.low < noisy.value < noisy.high < 0
    gap = theirs.copy()
    gap[0, 3] = np.nan
    assert paired_mean_change(0.9 * gap, theirs).value == pytest.approx(-0.1)
    assert np.isnan(paired_mean_change(gap * np.nan, theirs).value)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Iterator[str]:
    """A tracking server of its own; all of its processes are ended afterwards."""
    tmp_path = tmp_path_factory.mktemp("server")
    shutil.copyfile(store / "empty.db", tmp_path / "server.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}"]
    command += ["--artifacts-destination", str(tmp_path / "server")]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, **quiet}, start_new_session=True
        )
    family = psutil.Process(process.pid)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        members = family.children(recursive=True) if process.poll() is None else []
        process.terminate()
        _, alive = psutil.wait_procs([family, *members], timeout=20)
        for member in alive:
            member.kill()
        process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    until_s = time.monotonic() + 120
    while time.monotonic() < until_s:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise TimeoutError(url)


@pytest.fixture
def run(
    server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fake_checkpoints: dict[str, Path],
    fake_performance: PerformanceModel,
) -> Callable[..., str]:
    """Runs a command in a working folder whose MLflow is the server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    fake_performance.save("perf")
    write_scenario(fake_checkpoints)

    def command(*arguments: str) -> str:
        with pytest.raises(SystemExit) as caught:
            main(list(arguments))
        assert caught.value.code == 0
        return capsys.readouterr().out

    return command


def test_a_policy_trained_against_a_real_server_comes_back_from_it(
    server: str, run: Callable[..., str]
) -> None:
    config = {"scenarios": ["s.yaml"], "performance": "perf", "settings": {**SEARCH, "threads": 1}}
    Path("t.yaml").write_text(yaml.safe_dump(config))
    for seed, role in (("0", "champion: Better than"), ("1", "")):
        out = run("train", "--config", "t.yaml", "--out", f"{seed}.safetensors", "--seed", seed)
        assert f"MLflow model shunter-fake, version {int(seed) + 1}, {role}" in out
        assert "training added " in out
    client = mlflow.MlflowClient(server)
    best = champion("shunter-fake")
    better = float(client.get_model_version("shunter-fake", "2").tags["shunter.high"]) < 0
    assert int(best.version) == (2 if better else 1)
    curve = client.get_metric_history(best.run_id, "validation/response_ratio")
    steps = [point.step for point in curve]
    assert len(steps) == 6
    assert steps[0] == 0
    assert steps == sorted(steps)
    assert client.get_run(best.run_id).data.metrics["verdict/change"] < 0
    experiment = client.get_run(best.run_id).info.experiment_id
    assert list(client.load_table(experiment, "score_card.json", [best.run_id]).scenario) == ["fake"]
    policy = make_policy("models:/shunter-fake@champion")
    assert isinstance(policy, LearnedPolicy)
    written = LearnedPolicy.load(f"{int(best.version) - 1}.safetensors")
    for key, weights in written.weights.items():
        np.testing.assert_array_equal(policy.weights[key], weights)
    served = mlflow.pyfunc.load_model("models:/shunter-fake@champion")
    assert served.metadata.signature is not None
    assert not Path("mlflow.db").exists()


def test_on_a_real_server_from_the_command_line(
    store: Path, run: Callable[..., str], fake_world: World
) -> None:
    for name in ("good", "bad"):
        shutil.copyfile(store / f"{name}.safetensors", f"{name}.safetensors")
    shunter = ["--scenario", "s.yaml", "--performance", "perf"]
    named = ["--name", "shunter-demo"]
    unnamed = run("policy", "register", "good.safetensors", *shunter)
    assert "shunter-fake version " in unnamed
    out = run("policy", "register", "bad.safetensors", *shunter, *named)
    assert "shunter-demo version 1: not the champion" in out
    assert "Not better than cost-greedy, the best heuristic" in out
    out = run("policy", "register", "good.safetensors", *shunter, *named)
    assert "shunter-demo version 2: champion" in out
    assert "20 paired seeds" in out
    policies = ["--policy", TUNED_COST_GREEDY.name, "--policy", "models:/shunter-demo@champion"]
    run("eval", *shunter, *policies, "--seeds", "2", "--json", "result.json")
    both = json.loads(Path("result.json").read_text())["policies"]
    assert list(both) == [TUNED_COST_GREEDY.name, "shunter-demo:champion"]
    means = [policy["simulated"]["response_mean_s"] for policy in both.values()]
    assert means[1] < means[0]
    assert not Path("mlflow.db").exists()
    heavier = replace(fake_world, rate_per_s=fake_world.rate_per_s * 2)
    with tracking("test", "two worlds") as tracker:
        done = register_policy(
            "bad.safetensors",
            name="shunter-demo",
            worlds=[fake_world, heavier],
            tracker=tracker,
            seeds=range(3_000_000, 3_000_004),
        )
    assert not done.champion
    assert "4 paired seeds in 2 worlds" in done.why
