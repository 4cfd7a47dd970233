"""``shunter eval --real`` as a user meets it: engines that fail, and bad input that is refused beforehand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from shunter.cli.options import ANSWER_LINES
from shunter.eval.evaluation import Evaluation
from shunter.eval.execution.event_log import read_event_log
from shunter.eval.metrics.changes import TYPICAL_SPREAD, runs_needed
from shunter.eval.provenance import provenance
from shunter.eval.saved import save_evaluation
from tests.cli.test_answers import PROGRESS
from tests.cli.test_main import bare_python, fails, folder, works, write_scenario

__all__ = ["bare_python", "folder"]

WORKLOAD = {"requests": 12, "rate_per_s": 20, "prompt_scale": 0.01, "decode_scale": 0.02}


@pytest.fixture
def real(folder: Path, fake_checkpoints: dict[str, Path]) -> Path:
    """A scenario for the fake engine in worker processes."""
    models = [{"name": n, "checkpoint": str(p), "levels": [9]} for n, p in fake_checkpoints.items()]
    devices = [{"name": "d", "device": "cpu:1-threads-300MB"}]
    write_scenario(fake_checkpoints, "real.yaml", models=models, workload=WORKLOAD, devices=devices)
    return folder


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    return fails(capsys, "eval", "--scenario", "real.yaml", "--real", "--seeds", "1", *arguments)


@pytest.mark.engine
def test_chaos_is_survived_and_the_report_says_so(real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--seeds", "1", "--chaos", "kill=0.5", "--policy", "fifo-swap", "--json", "r.json")
    out = works(capsys, "eval", "--scenario", "real.yaml", "--real", "--out", "c", *arguments)
    lines = [line for line in out.splitlines() if not PROGRESS.match(line)]
    assert [line.split(":")[0] for line in lines[:2]] == ["Simulated", "Real"]
    assert len(lines) <= ANSWER_LINES
    result = json.loads(Path("r.json").read_text())
    failures = result["failures"]
    assert failures
    assert f"Engines failed {len(failures)} times ({len(failures)} × killed)" in out
    assert "Deciding and keeping the books took" in out
    row = result["policies"]["fifo-swap"]["real"]
    assert row["failures"] == len(failures)
    assert row["overhead_share"] > 0
    assert row["unfinished"] == sum(len(failure["failed"]) for failure in failures)
    page = Path("c/report.html").read_text(encoding="utf-8")
    assert ">Failures</h2>" in page
    assert failures[0]["reason"].split(";")[0] in page
    events = read_event_log("c/events.parquet")
    assert events.fault.notna().sum() == len(failures)


@pytest.mark.engine
def test_an_engine_that_is_not_installed(
    real: Path, capsys: pytest.CaptureFixture[str], bare_python: Path
) -> None:
    missing = str(bare_python.with_name("no-python"))
    assert missing in refused(capsys, "--python", missing)
    assert "--python must name an engine that the scenario uses (fake)" in refused(
        capsys, "--python", "vllm=/usr/bin/python3"
    )


@pytest.mark.engine
def test_a_device_too_small_for_the_engine_itself(
    real: Path, capsys: pytest.CaptureFixture[str], fake_checkpoints: dict[str, Path]
) -> None:
    """The fake engine takes 90 MB for any model, which the performance model does not know."""
    data = yaml.safe_load(Path("real.yaml").read_text())
    data["devices"] = [{"name": "d", "device": "cpu:1-threads-60MB"}]
    Path("real.yaml").write_text(yaml.safe_dump(data))
    assert "devices.d must hold at least one model at one level" in refused(capsys)


def test_requests_that_arrive_for_longer_than_allowed(real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, "--duration", "0.1s")
    assert "--duration must be longer than the requests take to arrive: the last of seed 0 comes at" in error
    assert "--duration must be a time, like 90s, 10m or 1h" in refused(capsys, "--duration", "soon")


def test_a_run_is_cut_off_after_the_duration(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workload = {"requests": 30, "rate_per_s": 1000, "prompt_scale": 0.05, "decode_scale": 0.1}
    data = {**yaml.safe_load(Path("s.yaml").read_text()), "workload": workload}
    Path("s.yaml").write_text(yaml.safe_dump(data))
    arguments = ("--seeds", "2", "--policy", "fifo-swap", "--duration", "2s", "--json", "r.json")
    works(capsys, "eval", "--scenario", "s.yaml", *arguments)
    assert json.loads(Path("r.json").read_text())["policies"]["fifo-swap"]["simulated"]["unfinished"] > 0


def test_options_of_chaos_that_cannot_be(real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--chaos: unknown name 'explode'" in refused(capsys, "--chaos", "explode=0.1")
    assert "--hang-after must be a time" in refused(capsys, "--hang-after", "-1s")
    error = fails(capsys, "eval", "--scenario", "real.yaml", "--chaos", "kill=0.1")
    assert "--chaos must be given with --real" in error


def test_a_report_folder_that_exists(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("eval", "--scenario", "s.yaml", "--seeds", "1", "--policy", "fifo-swap")
    works(capsys, *arguments, "--out", "a")
    error = fails(capsys, *arguments, "--out", "a")
    assert "--out must be a folder that is new or empty (or give --overwrite). Got 'a' instead." in error
    assert "--out must be another file than --scenario." in fails(capsys, *arguments, "--out", "s.yaml")
    (folder / "b").write_text("")
    assert "--out must be a folder. Got 'b' instead." in fails(capsys, *arguments, "--out", "b")
    assert "--out must be in a folder, which s.yaml is not" in fails(capsys, *arguments, "--out", "s.yaml/a")
    works(capsys, *arguments, "--out", "a", "--overwrite")
    for name in ("eval", "eval-2"):
        assert f"runs/{name}/report.html" in works(capsys, *arguments)


def test_an_engine_for_one_model_must_be_known(
    folder: Path, capsys: pytest.CaptureFixture[str], fake_checkpoints: dict[str, Any]
) -> None:
    models = [{"name": "small", "checkpoint": str(fake_checkpoints["small"]), "engine": "lama-cpp"}]
    write_scenario(fake_checkpoints, "other.yaml", models=models)
    error = fails(capsys, "eval", "--scenario", "other.yaml", "--real")
    assert "models.engine: unknown name 'lama-cpp'; did you mean llama-cpp" in error


def test_options_of_real_runs_that_need_another(real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("eval", "--scenario", "real.yaml", "--seeds", "1")
    assert "--plan must come with --real" in fails(capsys, *given, "--plan")
    assert "--quiet-machine must come with --real" in fails(capsys, *given, "--quiet-machine", "warn")
    assert "--resolution must come with --plan" in refused(capsys, "--resolution", "0.1")
    assert "--quiet-machine: unknown name 'no'" in refused(capsys, "--quiet-machine", "no")


def test_a_plan_says_how_many_runs_a_resolution_takes(
    real: Path, capsys: pytest.CaptureFixture[str], evaluation: Evaluation
) -> None:
    asked = (
        "eval",
        "--scenario",
        "real.yaml",
        "--real",
        "--policy",
        "fifo-swap",
        "--policy",
        "lru-keepalive",
    )
    first, how, *_ = works(capsys, *asked, "--plan").splitlines()
    needed = runs_needed(TYPICAL_SPREAD)
    assert first.startswith(f"To tell 10% apart here: about {needed} runs a policy, ")
    assert "spread 10%, assumed: no report of this machine and engine is here" in first
    assert how.startswith(f"As --seeds {needed}, or fewer seeds with --repeats.")

    save_evaluation(evaluation, Path("runs/earlier"), title="earlier", provenance=provenance())
    Path("runs/broken").mkdir()
    Path("runs/broken/results.json").write_text("{")
    out = works(capsys, *asked, "--plan", "--resolution", "0.05")
    spread = evaluation.to_dict()["real_runs"]["spread"]
    assert f"about {runs_needed(spread, 0.05)} runs a policy" in out
    assert "of an earlier report here" in out
    assert "Note: not read: runs/broken/results.json" in out
    assert not Path("runs/eval").exists()
