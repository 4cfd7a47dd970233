from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import mlflow
import pytest

import shunter.cli.demo
from shunter.agents.learned.shipped import shipped_policy
from shunter.agents.registry import make_policy
from shunter.cli.demo import _Demo
from shunter.cli.demo_recipes import RECIPES
from shunter.cli.first_look import SCENARIO, first_look
from shunter.cli.main import main
from shunter.cli.options import open_console
from shunter.envs.scenario.scenario import load_scenario
from shunter.envs.world.world import World, make_world
from shunter.errors import InputError
from shunter.eval.evaluation import Evaluation
from shunter.eval.execution.batched import evaluate_batched
from shunter.eval.provenance import provenance
from shunter.train.runs import Trained, TrainingRun
from shunter.train.verdict import judge
from tests.fake_evaluation import evaluate_fake
from tests.networks import random_policy

SEEDS = range(3)


def test_first_look_sets_the_shipped_policy_beside_what_people_run() -> None:
    heading, shipped, tuned, lru, fifo = first_look(SEEDS)
    assert heading.startswith(f"simulated on published performance: {SCENARIO} ")
    assert load_scenario(SCENARIO).split == "test"
    assert f"over {len(SEEDS)} request sequences" in heading
    for line, name in ((shipped, "shipped"), (tuned, "tuned cost-greedy"), (lru, "lru"), (fifo, "fifo")):
        assert line.strip().startswith(name)
    world = make_world(SCENARIO, Path("published"))
    for line, policy in ((shipped, shipped_policy()), (fifo, make_policy("fifo-swap"))):
        mean_s = evaluate_batched(world, policy, SEEDS).response_mean_s.mean()
        assert f" {mean_s:.1f} s" in line
    assert "shipped against it -" in fifo
    assert "against it" not in shipped


def test_the_shipped_policy_is_the_one_that_is_judged() -> None:
    root = Path(__file__).parents[2]
    copies = (root / "results" / "policies", root / "shunter" / "data" / "policies")
    mine, shipped = ((folder / "generalist.safetensors").read_bytes() for folder in copies)
    assert mine == shipped


def test_it_shows_something_before_it_measures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: _Demo) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shunter.cli.demo, "first_look", lambda seeds: [f"looked at {len(seeds)}"])
    monkeypatch.setattr(_Demo, "_checkpoints", stop)
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--out", str(tmp_path / "demo")])
    assert ended.value.code == 130
    out = capsys.readouterr().out
    assert "looked at 20" in out
    assert f"Interrupted: what is finished is kept in {tmp_path / 'demo'}; the same command goes on." in out


def test_a_machine_that_is_not_quiet_is_refused_before_it_is_profiled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shunter.cli.demo, "first_look", lambda seeds: [])
    monkeypatch.setattr(_Demo, "_checkpoints", lambda self: {})

    def refuse(what: str | None, **_: object) -> list[str]:
        raise InputError("--quiet-machine", "find a quiet machine", what)

    monkeypatch.setattr(shunter.cli.demo, "check_quiet", refuse)
    for what, said in (("refuse", "find a quiet machine"), ("perhaps", "unknown name 'perhaps'")):
        with pytest.raises(SystemExit) as ended:
            main(["demo", "--out", str(tmp_path / "demo"), "--quiet-machine", what])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "demo" / "profile.parquet").exists()


@pytest.mark.parametrize("verbose", [False, True])
def test_it_ends_with_a_verdict_of_ten_lines(
    verbose: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], fake_world: World
) -> None:
    evaluation = evaluate_fake(fake_world)
    demo = _Demo(open_console(), "transformers", RECIPES["transformers"], tmp_path, verbose)
    demo.policy = random_policy(1, 30.0)
    demo.policy.metadata.update(judge(demo.policy, [fake_world], SEEDS))
    demo._finish(evaluation, evaluation, {"report": tmp_path / "report.html"})
    rule, first, *others = capsys.readouterr().out.splitlines()
    assert "done: " in rule
    assert first.startswith("Simulated: ")
    assert others[0].startswith("training ")
    assert any(line.startswith("Real: ") for line in others)
    assert sum(str(tmp_path / "report.html") in line for line in others) == 1
    assert (len(others) + 1 <= 10) or verbose
    assert (tmp_path / "summary.json").exists()


@pytest.mark.parametrize("during", ["train", "eval", "eval --real"])
def test_it_ends_where_it_is_cut_short_with_what_is_finished_kept(
    during: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fake_world: World,
) -> None:
    """Training and evaluation return what they have after Ctrl-C: nothing may follow on that."""
    steps: list[str] = []
    policy = random_policy(1, 30.0)
    begin = _Demo._step

    def step(self: _Demo, name: str, text: str) -> None:
        steps.append(name)
        begin(self, name, text)

    def trained(runs: Sequence[TrainingRun], **_: object) -> list[Trained]:
        return [Trained(runs[0].out, policy, 1.0, "of a moment", interrupted=during == "train")]

    def evaluated(world: World, *_: object, engines: object = None, **__: object) -> Evaluation:
        done = evaluate_fake(fake_world)
        done.interrupted = during == ("eval" if engines is None else "eval --real")
        return done

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(shunter.cli.demo, "first_look", lambda seeds: [])
    monkeypatch.setattr(shunter.cli.demo, "check_quiet", lambda *_, **__: [])
    for name in ("_checkpoints", "_profile", "_fit", "_scenario"):
        monkeypatch.setattr(_Demo, name, lambda *_: None)
    monkeypatch.setattr(_Demo, "_step", step)
    monkeypatch.setattr(shunter.cli.demo, "load_scenario", lambda path: path)
    monkeypatch.setattr(shunter.cli.demo, "make_world", lambda *_: fake_world)
    monkeypatch.setattr(shunter.cli.demo, "train_runs", trained)
    monkeypatch.setattr(shunter.cli.demo, "evaluate", evaluated)
    monkeypatch.setattr(shunter.cli.demo, "provenance", lambda *_: provenance())
    monkeypatch.setattr(shunter.cli.demo, "capabilities_of", lambda *_: [])
    monkeypatch.setattr(shunter.cli.demo, "open_engines", lambda world: nullcontext(()))
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--out", str(tmp_path / "demo")])
    assert ended.value.code == 130
    assert steps[-1] == during
    out = capsys.readouterr().out
    assert "of a moment" in out
    assert "the same command goes on" in out
    assert not (tmp_path / "demo" / "summary.json").exists()
    store = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'demo' / 'mlflow.db'}")
    runs = [] if during == "train" else store.search_runs(["1"], "tags.`mlflow.parentRunId` IS NULL")
    said = [run.info.status for run in reversed(runs)]
    assert said == {"train": [], "eval": ["KILLED"], "eval --real": ["FINISHED", "KILLED"]}[during]
