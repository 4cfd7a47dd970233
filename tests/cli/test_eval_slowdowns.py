"""``shunter eval --slowdowns``: policies on a simulated machine as slow as a recorded one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shunter.envs.scenario.scenario import load_scenario
from shunter.eval.execution.sentinel import PARTS
from tests.cli.test_main import fails, folder, works

__all__ = ["folder"]

EVAL = ("eval", "--scenario", "s.yaml", "--performance", "perf", "--policy", "fifo-swap", "--seeds", "2")


def recorded(path: Path, *factors: float, **changes: Any) -> Path:
    """Results of an evaluation whose sentinel saw these on every device, a second apart."""
    devices = [device.name for device in load_scenario(Path("s.yaml")).devices]
    seen = [
        {"at_s": 5.0 + n, "device": device, "slowdowns": dict.fromkeys(PARTS, factor), **changes}
        for n, factor in enumerate(factors)
        for device in devices
    ]
    path.mkdir()
    (path / "results.json").write_text(json.dumps({"machine": {"sentinel": seen}}), encoding="utf-8")
    return path


def mean_s(path: str) -> float:
    found = json.loads(Path(path).read_text(encoding="utf-8"))
    return float(found["policies"]["fifo-swap"]["simulated"]["response_mean_s"])


def test_simulation_is_as_slow_as_the_recorded_machine(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded(folder / "busy", 2.0, 2.0)
    works(capsys, *EVAL, "--out", "plain")
    out = works(capsys, *EVAL, "--out", "slow", "--slowdowns", "busy", "--follow")
    said = "Simulated on a machine 2.00 × as slow as when profiled, 2.00 to 2.00 ×: as busy/results.json"
    assert said in " ".join(out.split())
    assert said in " ".join((folder / "slow" / "report.html").read_text(encoding="utf-8").split())
    # A queue makes more of it than twice; nothing is waited for where arrivals are far apart.
    assert mean_s("slow/results.json") > 1.9 * mean_s("plain/results.json")
    assert json.loads((folder / "plain" / "results.json").read_text())["slowdowns"] is None


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"device": "elsewhere"}, "--slowdowns must be of an evaluation on the devices"),
        ({"slowdowns": {"load": 1.0}}, "--slowdowns must tell slowdowns of load, prefill, decode"),
        ({"slowdowns": dict.fromkeys(PARTS, -1.0)}, "be greater than or equal to 0.01"),
        ({"at_s": None}, "at_s"),
    ],
)
def test_what_tells_no_slowdowns_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], rule: str
) -> None:
    recorded(folder / "busy", 2.0, **changes)
    assert rule in fails(capsys, *EVAL, "--out", "slow", "--slowdowns", "busy")
    assert not (folder / "slow").exists()


def test_what_does_not_go_together(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded(folder / "busy", 2.0)
    assert "--follow must come with --real or --slowdowns" in fails(capsys, *EVAL, "--follow")
    assert "--slowdowns must be left out with --real" in fails(capsys, *EVAL, "--real", "--slowdowns", "busy")
    works(capsys, *EVAL, "--out", "plain")
    assert "machine" in fails(capsys, *EVAL, "--out", "slow", "--slowdowns", "plain")  # nothing was real
