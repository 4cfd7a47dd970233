from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from shunter.agents.registry import make_policy
from shunter.cli.main import main
from shunter.cli.options import ANSWER_LINES
from shunter.envs.world.world import World
from shunter.eval.execution.event_log import write_event_logs
from shunter.models.performance import PerformanceModel
from tests.eval.test_modes_agree import execute
from tests.eval.test_recalibration import OtherMachine

Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def folder(
    fake_world: World, fake_performance: PerformanceModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A performance model, a scenario and event logs of two runs on another machine."""
    path = tmp_path_factory.mktemp("update")
    fake_performance.save(path / "perf")
    scenario = fake_world.scenario.model_dump(mode="json")
    (path / "s.yaml").write_text(yaml.safe_dump(scenario))
    runs = [execute(fake_world, make_policy("fifo-swap"), seed, OtherMachine) for seed in range(2)]
    write_event_logs([run.log for run in runs], path / "events.parquet")
    (path / "broken.parquet").write_bytes((path / "events.parquet").read_bytes()[:-50])
    return path


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def of(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(["fit", *arguments])
        captured = capsys.readouterr()
        return int(str(ended.value.code)), captured.out + captured.err

    return of


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("│ ").split("│")]


def row(output: str, *first: str) -> list[str]:
    return next(cells(line) for line in output.splitlines() if cells(line)[: len(first)] == list(first))


def test_update_says_how_far_times_moved_and_writes_them(run: Run, folder: Path) -> None:
    before = (folder / "perf/performance.json").read_bytes()
    arguments = ["--events", "events.parquet", "--scenario", "s.yaml"]

    code, output = run("--update", "perf", *arguments, "--out", "new", "--verbose")

    assert code == 0
    assert (folder / "perf/performance.json").read_bytes() == before
    was, now = row(output, "decode_step_s", "fake", "cpu:1-threads", "small")[4:6]
    assert float(was) == 1.0
    assert 1.2 < float(now) <= 1.31
    mean_before, mean_after, sum_before, sum_after = row(output, "all")[2:6]
    assert float(mean_after.split()[0]) < float(mean_before.split()[0])
    assert float(sum_before.split()[0]) < float(sum_after.split()[0]) <= 0.0
    assert "Every other seed was held out in turn" in output
    assert output.splitlines()[-1] == "new/performance.json: recalibrated on 2 runs"
    saved = PerformanceModel.load(folder / "new").state_
    assert len(saved.recalibrated_on) == 2

    code, output = run("--update", "perf", *arguments, "--out", "short")

    assert code == 0
    assert output.startswith("Mean error of held-out spans: ")
    assert len(output.splitlines()) <= ANSWER_LINES

    code, output = run("--update", "new", *arguments)

    assert code == 0
    assert output.startswith("note: 2 runs were counted in an earlier update")
    assert PerformanceModel.load(folder / "new").state_ == saved


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "DATA must name datasets"),
        ("--events events.parquet", "--events must come with --update"),
        ("--scenario s.yaml", "--scenario must come with --update"),
        ("--engine fake", "--engine must come with --update"),
        ("--update perf --scenario s.yaml", "--events must be given with --update"),
        ("--update perf --events events.parquet", "--scenario must be given with --update"),
        ("d.parquet --update perf --events events.parquet --scenario s.yaml", "DATA must be left out"),
        ("--update nowhere --events events.parquet --scenario s.yaml", "performance model must be"),
        ("--update perf --events none.parquet --scenario s.yaml", "event log must be an existing Parquet"),
        ("--update perf --events broken.parquet --scenario s.yaml", "broken.parquet: cannot be read"),
        ("--update perf --events perf/performance.json --scenario s.yaml", "cannot be read"),
        ("--update perf --events events.parquet --scenario none.yaml", "--scenario must be an existing"),
        ("--update perf --events events.parquet --scenario s.yaml --engine fak", "did you mean fake"),
        ("--update perf --events events.parquet --scenario s.yaml --engine vllm", "be profiled for"),
    ],
)
def test_what_cannot_be_done_changes_nothing(run: Run, folder: Path, arguments: str, message: str) -> None:
    before = (folder / "perf/performance.json").read_bytes()
    code, output = run(*arguments.split())
    assert code == 2
    assert message in output
    assert len(output.splitlines()) == 1
    assert (folder / "perf/performance.json").read_bytes() == before
