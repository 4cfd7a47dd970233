from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from shunter.agents.registry import make_policy
from shunter.cli.main import main
from shunter.cli.options import ANSWER_LINES
from shunter.envs.world.world import World
from shunter.eval.evaluation import Evaluation
from shunter.eval.execution.runs import simulate
from shunter.eval.fidelity.replay import replay_predicted
from shunter.eval.saved import save_evaluation
from shunter.models.performance import PerformanceModel
from tests.eval.test_recalibration import OtherMachine
from tests.fake_executor import execute

Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def folder(
    fake_world: World, fake_performance: PerformanceModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What ``shunter eval --real`` writes, of two seeds on another machine."""
    path = tmp_path_factory.mktemp("calibrate")
    policy = make_policy("fifo-swap")
    evaluation = Evaluation(fake_world, ["fifo-swap"], [0, 1])
    evaluation.simulated["fifo-swap"] = [simulate(fake_world, policy, seed) for seed in (0, 1)]
    evaluation.real["fifo-swap"] = [execute(fake_world, policy, seed, OtherMachine) for seed in (0, 1)]
    evaluation.replays["fifo-swap"] = [
        replay_predicted(fake_world, fake_world.draw(run.seed), run.log.frame())
        for run in evaluation.real["fifo-swap"]
    ]
    save_evaluation(
        evaluation,
        path / "run",
        title="a test",
        performance=fake_performance,
        sources={"fifo-swap": "fifo-swap"},
    )
    return path


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def of(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main([*arguments])
        captured = capsys.readouterr()
        return int(str(ended.value.code)), captured.out + captured.err

    return of


def test_the_gap_before_and_after_is_shown_and_the_model_written(run: Run, folder: Path) -> None:
    code, output = run("calibrate", "run", "--json", "gap.json", "--verbose")
    assert code == 0
    figures = json.loads((folder / "gap.json").read_text())
    gap = figures["gaps"]["fifo-swap"]
    assert abs(gap["after"]) < abs(gap["before"])
    assert f"{gap['before']:+.1%}" in output
    assert "calibrated on the other half of the seeds" in output
    assert output.splitlines()[-1] == "run/calibrated/performance.json: calibrated on 2 runs"
    assert len(PerformanceModel.load(folder / "run" / "calibrated").state_.recalibrated_on) == 2

    code, output = run("calibrate", "run", "--out", "short")
    assert code == 0
    lines = output.splitlines()
    assert lines[0].startswith("Mean response: simulation was ")
    assert lines[-1] == "short/performance.json: calibrated on 2 runs"
    assert len(lines) <= ANSWER_LINES

    code, output = run("calibrate", "run", "--performance", "run/calibrated", "--out", "again")
    assert code == 2
    assert "hold a run that the performance model was not calibrated on before" in output
    assert not (folder / "again").exists()


def test_the_report_as_markdown_holds_the_fidelity(folder: Path) -> None:
    page = (folder / "run" / "report.md").read_text()
    assert page.startswith("# a test")
    assert "no policy ran twice on the same requests" in page


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "RUN must be a folder that shunter eval --real wrote"),
        ("{", "results.json: cannot be read: no JSON"),
        ("{}", "results.json: cannot be read: it lacks results_version"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(
    run: Run, tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    code, output = run("calibrate", str(tmp_path))
    assert code == 2
    assert message in output
    assert len(output.splitlines()) == 1


def test_repeats_need_a_real_engine(run: Run, folder: Path) -> None:
    scenario = json.loads((folder / "run" / "results.json").read_text())["scenario"]
    (folder / "s.yaml").write_text(json.dumps(scenario))
    code, output = run(
        "eval", "--scenario", "s.yaml", "--performance", "run/performance.json", "--repeats", "2"
    )
    assert code == 2
    assert "--repeats must come with --real" in output
