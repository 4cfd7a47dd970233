from __future__ import annotations

import json
from pathlib import Path

import pytest

from shunter.agents.learned.base_policy import BasePolicy
from shunter.agents.learned.file import training_record
from shunter.agents.learned.inputs import KINDS, input_names
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.learned.weights import untrained_weights
from shunter.cli.main import main
from shunter.envs.observation.features import FEATURES, FEATURES_VERSION
from shunter.envs.workload.seed_ranges import SEED_RANGES
from shunter.envs.world.world import World
from shunter.tensors import read_tensors, write_tensors
from shunter.train.verdict import judge
from tests.networks import random_policy

EXPLAIN = ["policy", "explain", "one.safetensors", "--scenario", "trivial-two-models"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_world: World) -> Path:
    """A working folder with a policy that has a record and one that has none."""
    monkeypatch.chdir(tmp_path)
    policy = random_policy(1, 30.0)
    policy.save("bare.safetensors")
    policy.metadata.update(training_record([fake_world], steps=1000, seed=7, settings={"width": 8}))
    policy.metadata.update(judge(policy, [fake_world], range(3)))
    policy.save("p.safetensors")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    out = capsys.readouterr()
    assert caught.value.code == code, out.err
    return out.err if code else out.out


def test_show_prints_training_and_score_card(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "policy", "show", "p.safetensors", "--verbose")
    assert f"random-net: features version {FEATURES_VERSION}" in out
    assert "Trained for 1000 decisions, seed 7" in out
    assert "models: large, medium, small" in out
    assert "device memory: 0.05 GB to 0.065 GB" in out
    assert "settings: width = 8" in out
    assert "fifo-swap" in out
    assert "training made it worse: -" in out
    assert "; untrained " in out
    assert "; tuned cost-greedy " in out
    assert "; best heuristic fifo-swap " in out
    assert "3 workload seeds (0 to 2)" in out
    bare = run(capsys, "policy", "show", "bare.safetensors")
    assert "does not say what it was trained on" in bare
    assert "no score card" in bare
    assert "does not say what training added" in bare


def test_show_answers_first_and_in_at_most_ten_lines(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = run(capsys, "policy", "show", "p.safetensors").splitlines()
    assert lines[0].startswith("training made it worse: -")
    assert len(lines) <= 10
    cell = json.loads(run(capsys, "policy", "show", "p.safetensors", "--json"))["score_card"]["cells"][0]
    assert cell["low"] > 0
    (card,) = (line for line in lines if line.startswith("Against the best baseline"))
    assert f"is {cell['change']:+.1%} in the geometric mean" in card
    assert "lower by more than chance in 0 of 1, higher in 1, undecided in 0 (3 request sequences" in card
    assert any(
        line.startswith("Trained for 1000 decisions, seed 7, on 1 scenario, 3 models") for line in lines
    )


def test_show_as_json_holds_everything(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = json.loads(run(capsys, "policy", "show", "p.safetensors", "--json"))
    assert shown["training"]["steps"] == 1000
    assert shown["score_card"]["cells"][0]["baseline"] == "fifo-swap"
    own = shown["score_card"]["cells"][0]["response_s"]
    assert shown["verdict"]["trained"]["response_s"] == pytest.approx(own)
    assert shown["verdict"]["low"] > 0
    assert shown["score_card"]["change"] == pytest.approx(shown["score_card"]["cells"][0]["change"])
    assert shown["features"][0] == "is_run"
    bare = json.loads(run(capsys, "policy", "show", "bare.safetensors", "--json"))
    assert bare["training"] is None
    assert bare["score_card"] is None
    assert bare["verdict"] is None


def test_export_writes_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    export = ["policy", "export", "p.safetensors", "--onnx"]
    assert run(capsys, *export, "p.onnx").startswith("p.onnx: ")
    onnx.checker.check_model(onnx.load("p.onnx"))
    assert "--onnx must not exist yet" in run(capsys, *export, "p.onnx", code=2)
    run(capsys, *export, "p.onnx", "--overwrite")
    assert "--onnx must be a file in an existing folder" in run(capsys, *export, "nowhere/p.onnx", code=2)
    Path("broken.safetensors").write_bytes(b"nothing")
    broken = run(capsys, "policy", "export", "broken.safetensors", "--onnx", "q.onnx", code=2)
    assert "broken.safetensors: cannot be read" in broken
    assert not Path("q.onnx").exists()


def test_a_damaged_record_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = LearnedPolicy.load("p.safetensors")
    policy.metadata["training"] = '{"steps": "many"}'
    policy.save("odd.safetensors")
    error = run(capsys, "policy", "show", "odd.safetensors", code=2)
    assert error.startswith("shunter: random-net: training: ")
    assert error.count("\n") == 1
    assert "--policy must be a known name or an existing policy file" in run(
        capsys, "policy", "show", "gone.safetensors", code=2
    )


@pytest.mark.parametrize("key", ["elapsed_s", "score_card", "seeds"])
def test_a_record_that_cannot_be_is_one_line(
    key: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = LearnedPolicy.load("p.safetensors")
    card = json.loads(policy.metadata["score_card"])
    if key == "seeds":
        policy.metadata["score_card"] = json.dumps({**card, "seeds": []})
    elif key == "score_card":
        policy.metadata[key] = json.dumps({**card, "cells": [{**card["cells"][0], "change": -1.0}]})
    else:
        policy.metadata[key] = "long"
    policy.save("odd.safetensors")
    words = ["average", "odd.safetensors", "--out", "m.safetensors"] if key == "elapsed_s" else ["show"]
    error = run(capsys, "policy", *words, "odd.safetensors", code=2)
    assert error.startswith("shunter: random-net: ")
    assert error.count("\n") == 1


def test_features_listed_as_ppo_once_wrote_them_are_shown(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays, header, _ = read_tensors(folder / "p.safetensors")
    write_tensors(folder / "old.safetensors", arrays, {**header, "features": ",".join(FEATURES)})
    shown = json.loads(run(capsys, "policy", "show", "old.safetensors", "--json"))
    assert shown["features"] == list(FEATURES)


def test_register_wants_a_name_for_several_scenarios(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = run(capsys, "policy", "register", "p.safetensors", "--scenario", "gone.yaml", code=2)
    assert "--scenario must be an existing YAML file" in error
    assert not Path("mlflow.db").exists()


def test_policies_are_averaged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    average = ["policy", "average", "p.safetensors", "p.safetensors", "--out"]
    assert "the mean of 2 policies, a network of width" in run(capsys, *average, "mean.safetensors")
    assert "Trained for 2000 decisions" in run(capsys, "policy", "show", "mean.safetensors")
    assert "--out must not exist yet" in run(capsys, *average, "mean.safetensors", code=2)
    assert "--out must be a file in an existing folder" in run(
        capsys, *average, "nowhere/m.safetensors", code=2
    )
    alone = run(capsys, "policy", "average", "p.safetensors", "--out", "m.safetensors", code=2)
    assert "FILES must be at least two policy files. Got 1" in alone
    bare = run(capsys, "policy", "average", "p.safetensors", "bare.safetensors", "--out", "b.safetensors")
    assert "b.safetensors: the mean" in bare
    assert "does not say what it was trained on" in run(capsys, "policy", "show", "b.safetensors")


@pytest.fixture
def one_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a policy that has one weight."""
    monkeypatch.chdir(tmp_path)
    weights = untrained_weights(BasePolicy())
    weights["linear"][KINDS.index("load"), input_names().index("swap_time")] = -3.0
    LearnedPolicy("one-weight", weights, {}).save("one.safetensors")
    return tmp_path


def test_explain_writes_a_page_and_figures(one_weight: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, *EXPLAIN, "--seeds", "2", "--load", "0.6", "--out", "page.html", "--json", "why.json")
    assert "one-weight answers in" in out
    assert "page: page.html" in out
    assert "Why one-weight does as it does in trivial-two-models at load 0.6" in Path("page.html").read_text()
    figures = json.loads(Path("why.json").read_text())
    assert figures["seeds"] == list(SEED_RANGES["explanation"][:2])
    assert [one["input"] for one in figures["weights"]] == ["swap_time"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*EXPLAIN, "--seeds", "1"], "--seeds must be 2 to 40. Got 1"),
        ([*EXPLAIN, "--seeds", "41"], "--seeds must be 2 to 40. Got 41"),
        ([*EXPLAIN, "--out", "nowhere/page.html"], "--out must be a file in an existing folder"),
        ([*EXPLAIN[:3], "--scenario", "trivial-two"], "trivial-two-models"),
        (["policy", "explain", "cost-greedy", *EXPLAIN[3:]], "an existing policy file"),
        (["policy", "explain", "broken.safetensors", *EXPLAIN[3:]], "broken.safetensors: cannot be read"),
    ],
)
def test_explain_refuses_what_it_cannot_explain(
    arguments: list[str], message: str, one_weight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken.safetensors").write_bytes(b"nothing")
    assert message in run(capsys, *arguments, code=2)
    assert not Path("explanation.html").exists()
