from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from shunter.cli.main import main
from shunter.envs.scenario.limits import Limits
from shunter.envs.scenario.workload import Workload
from shunter.envs.workload.lengths import length_pairs
from shunter.envs.workload.traces import read_trace, write_trace
from shunter.envs.world.world import make_world
from tests.serve.records import add_line, write_record, write_scenario


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "arrival_s": np.cumsum(rng.exponential(0.2, 2000)),
            "prompt_tokens": rng.integers(1, 100, 2000),
            "decode_tokens": rng.integers(1, 50, 2000),
            "model": "gpt",
            "session": "",
        }
    )
    write_trace(frame, "trace.csv", format="burstgpt")
    return Path("trace.csv")


def run(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["workload", *(str(argument) for argument in arguments)])
    assert ended.value.code == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


def test_show_says_what_a_trace_holds(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "show", trace)
    assert "trace.csv: burstgpt, 2000 requests" in out
    assert "models: gpt (2000)" in out
    assert "Index of dispersion" in out


def test_convert_changes_the_form_and_not_the_requests(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "2000 requests" in run(capsys, "convert", trace, "t.parquet")
    pd.testing.assert_frame_equal(read_trace("t.parquet").frame, read_trace(trace).frame)
    assert "OUT must not exist yet" in run(capsys, "convert", trace, "t.parquet", code=2)


def test_fit_writes_a_section_that_a_scenario_takes(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "fit", trace, "--out", "w.yaml")
    assert "twin, second half" in out
    section = yaml.safe_load(Path("w.yaml").read_text())["workload"]
    workload = Workload.model_validate(section)
    assert workload.rate_per_s == pytest.approx(5.0, rel=0.1)
    assert length_pairs(workload, Limits(context_tokens=512)).shape == (2000, 2)
    assert "--out must not exist yet" in run(capsys, "fit", trace, "--out", "w.yaml", code=2)


def test_a_gateway_s_record_becomes_one_trace_without_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record, out = tmp_path / "record", tmp_path / "trace.parquet"
    write_record(record, count=220)
    add_line(record, status="cancelled", decode_tokens=0)
    assert f"{out}: 220 requests" in run(capsys, "convert", record, out)
    assert list(pd.read_parquet(out)) == ["arrival_s", "prompt_tokens", "decode_tokens", "model", "session"]
    pd.testing.assert_frame_equal(read_trace(out).frame, read_trace(record).frame)
    assert "twin, second half" in run(capsys, "fit", out)
    scenario = yaml.safe_load(write_scenario(tmp_path).read_text())
    scenario["workload"] = {"replay": {"file": "trace.parquet"}, "requests": 220}
    (tmp_path / "replay.yaml").write_text(yaml.safe_dump(scenario))
    drawn = make_world(tmp_path / "replay.yaml").draw(0)
    assert len(drawn.model) == 220
    names = [model["name"] for model in scenario["models"]]
    assert [names[m] for m in drawn.model] == read_trace(out).frame["model"].tolist()


def test_a_broken_trace_is_an_error_and_mending_says_so(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = trace.read_text().splitlines()
    text[3] = text[3].replace("gpt,", "gpt,0")
    text.insert(5, text[1])
    Path("bad.csv").write_text("\n".join(text))
    assert "row 5 must not be earlier" in run(capsys, "show", "bad.csv", code=2)
    assert "put in order" in run(capsys, "show", "bad.csv", "--mend")
