"""The next policy from what a gateway recorded."""

from __future__ import annotations

import warnings
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import mlflow
import pytest

from shunter.agents.base import Policy
from shunter.agents.learned.base_policy import TUNED_COST_GREEDY
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.registry import make_policy
from shunter.cli.main import main
from shunter.envs.workload.traces import read_trace, write_trace
from shunter.errors import InputError
from shunter.eval.traffic.record import read_record
from shunter.tracking import policies as registry
from shunter.train import improve as improving
from shunter.train.improve import FEWEST, Improved, improve, marker_of, split_record
from shunter.train.result import TrainResult
from shunter.train.settings import EvolutionSettings
from shunter.train.verdict import verdict_of
from tests.serve.records import NOON, WORLD, write_record, write_scenario

SHORT: dict[str, Any] = {"generations": 1, "pairs": 2, "episodes": 1, "validation_seeds": 2, "threads": 1}


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two days, of a policy that decides at random."""
    folder = tmp_path_factory.mktemp("record") / "record"
    write_record(folder, "random", count=330)
    write_record(folder, "random", count=170, start=NOON + timedelta(days=1), seed=1)
    return folder


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own, while it lays out its tables
        mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}").search_experiments()
    return tmp_path


def improved(record: Path, folder: Path, ran: Policy) -> Improved:
    settings = EvolutionSettings(**SHORT)
    out = folder / "new.safetensors"
    return improve(read_record(record), WORLD, ran, out, name="box", settings=settings, folder=folder)


def test_what_is_better_than_what_ran_and_than_heuristics_is_champion(
    record: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "heuristics", lambda worlds: {"random": make_policy("random")})
    done = improved(record, store, make_policy("random"))

    assert done.champion
    assert done.changes["random"].sign < 0
    assert done.windows == 8
    assert len(done.words) <= 10
    assert done.words[0].startswith("better than random, which ran: -")
    assert "trained on 330 requests, judged on 170: the last day of 2; " in done.words[2]
    assert make_policy("models:/box@champion").name == "box:champion"
    found = verdict_of(LearnedPolicy.load(store / "new.safetensors"))
    assert found is not None
    assert found.seeds == list(range(8))


def test_what_is_better_than_no_heuristic_is_registered_and_no_champion(
    record: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "heuristics", lambda worlds: {"tuned": TUNED_COST_GREEDY})
    done = improved(record, store, make_policy("random"))
    assert done.changes["random"].sign < 0
    assert not done.champion
    assert "MLflow model box, version 1, no champion: " in done.words[3]


def test_what_is_not_better_than_what_ran_is_not_registered(record: Path, store: Path) -> None:
    done = improved(record, store, TUNED_COST_GREEDY)
    assert not done.champion
    assert f"not registered: it is not shown to be better than {TUNED_COST_GREEDY.name}" in done.words[3]
    with pytest.raises(InputError, match="name a registered model"):
        make_policy("models:/box@champion")
    with pytest.raises(InputError, match="no oracle"):
        improved(record, store, make_policy("sjf-oracle"))


def test_days_are_held_back_whole_and_of_one_day_the_last_third(record: Path, tmp_path: Path) -> None:
    split = split_record(read_record(record))
    assert (len(split.train), len(split.held)) == (330, 170)
    assert split.train["arrival_s"].max() < split.held["arrival_s"].min()

    write_record(tmp_path / "day", count=600)
    split = split_record(read_record(tmp_path / "day"))
    assert (len(split.train), len(split.held), split.words) == (400, 200, "the last third")

    write_record(tmp_path / "short", count=50)
    with pytest.raises(InputError, match=f"hold at least {FEWEST} requests that were answered. Got 50"):
        split_record(read_record(tmp_path / "short"))


def test_a_trace_made_of_a_record_trains_too(
    record: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box, trace = write_scenario(store), store / "trace.parquet"
    write_trace(read_trace(record).frame, trace)
    command = ["improve", str(trace), "--scenario", str(box), "--generations", "1", "--out", "t.safetensors"]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 2
    assert "--against must be given" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main([*command, "--against", "random"])
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    assert "judged on " in printed.out
    assert "loads as predicted" in printed.out


def test_the_command_says_what_came_of_it(
    record: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box = write_scenario(store)
    with pytest.raises(SystemExit) as ended:
        main(["improve", str(record), "--scenario", str(box), "--generations", "1", "--out", "p.safetensors"])
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    lines = [line for line in printed.out.splitlines() if line]
    assert len(lines) <= 10
    assert ", which ran: " in lines[0]
    assert Path("p.safetensors").exists()


def test_what_was_cut_off_after_its_policy_is_done_anew_in_the_same_run(
    record: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object) -> None:
        raise SystemExit(137)

    out = store / "new.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(improving, "log_policy", killed)
        with pytest.raises(SystemExit):
            improved(record, store, make_policy("random"))
    key = marker_of(out).read_text()
    assert out.exists()
    improved(record, store, make_policy("random"))
    assert not marker_of(out).exists()
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{store / 'mlflow.db'}")
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert [run.info.status for run in runs] == ["FINISHED"]
    assert key in runs[0].data.tags.values()


def test_what_ctrl_c_cuts_short_is_not_registered_and_its_run_is_killed(
    record: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training returns what it has by then: it must not be judged as if it were finished."""
    train = improving.train_policy

    def cut_short(*given: Any, **named: Any) -> TrainResult:
        return replace(train(*given, **named), interrupted=True)

    monkeypatch.setattr(improving, "train_policy", cut_short)
    with pytest.raises(KeyboardInterrupt):
        improved(record, store, make_policy("random"))
    assert not (store / "new.safetensors").exists()
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{store / 'mlflow.db'}")
    (run,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert run.info.status == "KILLED"
    assert run.data.params["ran"] == "random"
    assert not client.search_registered_models()
