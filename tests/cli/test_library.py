"""What a command does, a function of the library does for a Python user, with the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.registry import make_policy
from shunter.eval.evaluate_and_save import evaluate_and_save
from shunter.profiling import profile as library
from shunter.profiling.dataset.table import read_dataset
from shunter.profiling.sweep.plan import SweepSettings
from shunter.train.settings import EvolutionSettings, TrainConfig
from shunter.train.train_and_save import train_and_save
from shunter.train.verdict import verdict_of
from tests.cli.test_main import folder, works
from tests.cli.test_profile_reports import Virtual

__all__ = ["folder"]


def results(path: Path) -> dict[str, Any]:
    """Without what a clock says."""
    found: dict[str, Any] = json.loads(path.read_text())
    found["provenance"].pop("created_utc")
    found.pop("sha256")
    for policy in found["policies"].values():
        policy["simulated"].pop("decision_mean_s")
    return found


def names(path: Path) -> set[str]:
    return {str(file.relative_to(path)) for file in path.rglob("*")}


def test_eval(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policies = ("--policy", "fifo-swap", "--policy", "cost-greedy")
    files = ("--out", "command", "--json", "command.json")
    works(capsys, "eval", "--scenario", "s.yaml", "--seeds", "3-4", *policies, *files)
    out, copy = Path("library"), Path("library.json")
    done = evaluate_and_save(
        "s.yaml", [make_policy("fifo-swap"), "cost-greedy"], [3, 4], out=out, json_path=copy
    )
    assert names(out) == names(Path("command"))
    assert results(out / "results.json") == results(Path("command/results.json"))
    both = [pd.read_parquet(place / "requests.parquet") for place in (out, Path("command"))]
    pd.testing.assert_frame_equal(*both)
    for name in ("command", "library"):
        assert Path(f"{name}.json").read_bytes() == Path(name, "results.json").read_bytes()
    assert [list(one.evaluation.simulated) for one in done.saved] == [["fifo-swap", "cost-greedy"]]
    assert not done.interrupted


def test_loads_alike_in_six_digits_are_apart(folder: Path) -> None:
    loads = [0.3, 0.3000001]
    done = evaluate_and_save("s.yaml", ["fifo-swap"], [0], out=Path("out"), loads=[*loads, 0.3])
    rates = [one.evaluation.world.rate_per_s for one in done.saved]
    assert rates[1] / rates[0] == pytest.approx(loads[1] / loads[0], abs=1e-12)
    for load, one, rate in zip(loads, done.saved, rates, strict=True):
        assert one.files["results"] == Path(f"out/load-{load}/results.json")
        assert results(one.files["results"])["rate_per_s"] == rate


def test_train(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--generations", "2", "--seed", "5", "--out", "command.safetensors")
    works(capsys, "train", "--scenario", "s.yaml", *options)
    settings = EvolutionSettings(generations=2, seed=5)
    config = TrainConfig.model_validate({"scenarios": ["s.yaml"], "settings": settings})
    outcome = train_and_save(config, Path("library.safetensors"))
    command, own = (LearnedPolicy.load(f"{name}.safetensors") for name in ("command", "library"))
    assert outcome.complete
    assert outcome.policy is not None
    assert verdict_of(command) == verdict_of(own) == verdict_of(outcome.policy)
    for key, array in command.weights.items():
        assert array.tolist() == own.weights[key].tolist()
    assert Path("library.events.parquet").exists()


def test_profile(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fake_checkpoints: dict[str, Path],
) -> None:
    monkeypatch.setattr(library, "start_engine", lambda *_, **__: Virtual(fake_checkpoints))
    model = str(fake_checkpoints["small"])
    grid = ("--prompt", "8", "--decode", "4", "--batch", "1,2", "--cuts", "8", "--repeats", "2")
    where = ("--engine", "fake", "--device", "cpu:1-threads", "--out", "command.parquet")
    works(capsys, "profile", "--model", model, *grid, "--precision", "none", *where)
    plans: list[Any] = []
    done = library.profile_models(
        [model],
        engine="fake",
        device="cpu:1-threads",
        out="library.parquet",
        settings=SweepSettings(("all",), (8,), (4,), (1, 2), (8,), repeats=2),
        on_plan=plans.append,
    )
    columns = ["cell_id", "repeat", "operation", "duration_s"]
    both = [
        read_dataset(Path(f"{name}.parquet"))[columns].sort_values(columns, ignore_index=True)
        for name in ("command", "library")
    ]
    pd.testing.assert_frame_equal(*both)
    assert done.rows == len(both[0]) > 0
    assert len(plans) == 1
