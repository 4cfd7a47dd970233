from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from shunter.agents.registry import make_policy
from shunter.cli.main import main
from shunter.models.performance import PerformanceModel
from shunter.train.settings import EvolutionSettings, load_config
from tests import worlds
from tests.cli.test_answers import PROGRESS


@pytest.fixture
def given(fake_checkpoints: dict[str, Path], fake_performance: PerformanceModel, tmp_path: Path) -> list[str]:
    """Options that name a scenario and a performance model."""
    scenario = worlds.fake_scenario(fake_checkpoints).model_dump(mode="json", exclude_none=True)
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(scenario))
    fake_performance.save(tmp_path / "perf")
    options = {"scenario": "s.yaml", "performance": "perf", "storage": "tune.journal"}
    return [part for name, file in options.items() for part in (f"--{name}", str(tmp_path / file))]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["tune", *arguments])
    return int(ended.value.code or 0)


def test_every_policy_gets_the_same_trials_and_the_best_can_be_evaluated(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["--policy", "fifo-collated", "--policy", "exhaustive", "--trials", "3", "--seeds", "50-53"]
    assert run(*given, *chosen, "--json", str(tmp_path / "tuned.json")) == 0
    tuned = json.loads((tmp_path / "tuned.json").read_text())
    assert {name: len(result["trials"]) for name, result in tuned.items()} == {
        "fifo-collated": 3,
        "exhaustive": 3,
    }
    best = sorted(tuned.values(), key=lambda result: result["score"])
    lines = [line for line in capsys.readouterr().out.splitlines() if not PROGRESS.match(line)]
    assert lines[0].startswith("Geometric mean of mean responses over worlds and seeds: ")
    printed = lines[1:]
    assert printed == [result["policy"] for result in best]
    assert [make_policy(text).name for text in printed] == printed


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("cost-gredy", "--policy: unknown name 'cost-gredy'; did you mean cost-greedy"),
        ("sjf:load_weight=2", "--policy must be a name without parameters: these are searched"),
    ],
)
def test_policies_that_cannot_be_tuned(
    given: list[str], policy: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*given, "--policy", policy) == 2
    assert message in capsys.readouterr().err


def test_a_trainings_settings_are_searched_and_written_for_the_next_training(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"generations": 99, "episodes": 2, "validate_every": 2, "threads": 1}
    config = {"scenarios": ["s.yaml"], "performance": str(tmp_path / "perf"), "settings": settings}
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(config))
    where = ["--storage", str(tmp_path / "tune.journal"), "--out", str(tmp_path / "tuned.yaml")]
    search = ["--train", str(tmp_path / "t.yaml"), "--generations", "4", *where]
    assert run(*search, "--steps", "256") == 2
    assert "--steps must be left out for evolution, which has none" in capsys.readouterr().err
    assert run(*search, "--trials", "2", "--json", str(tmp_path / "tuned.json")) == 0
    out = capsys.readouterr().out
    assert "Lowest validation response over the best heuristic's" in out
    (result,) = json.loads((tmp_path / "tuned.json").read_text()).values()
    assert len(result["trials"]) == 2
    monkeypatch.chdir(tmp_path / "perf")  # the file is for any folder
    tuned = load_config(tmp_path / "tuned.yaml")
    assert asdict(tuned.settings) == {**asdict(EvolutionSettings()), **settings, **result["parameters"]}
    assert tuned.scenarios == [str(tmp_path / "s.yaml")]
    assert run(*search) == 2
    assert "--out must not exist yet" in capsys.readouterr().err


def test_either_scenarios_or_a_training(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == run(*given, "--train", "t.yaml") == 2
    assert capsys.readouterr().err.count("--scenario must be given, or --train instead") == 2


@pytest.mark.parametrize("option", ["--out", "--minutes", "--generations", "--steps"])
def test_what_only_a_training_has_is_not_ignored(
    given: list[str], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*given, option, "3") == 2
    assert f"{option} must be left out with --scenario: no training is searched" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--performance", "--policy", "--seeds"])
def test_what_a_training_file_says_is_not_given_beside_it(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--train", "t.yaml", option, "3") == 2
    assert f"{option} must be left out with --train: its file says" in capsys.readouterr().err
