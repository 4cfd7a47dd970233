from __future__ import annotations

import json
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


def test_convert_names_what_the_target_cannot_hold_and_keeps_the_rest(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {
            "timestamp": 500 * n,
            "input_length": 9,
            "output_length": 5,
            "hash_ids": [n],
            "session_id": f"s{n % 2}",
        }
        for n in range(4)
    ]
    Path("m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    said = run(capsys, "convert", "m.jsonl", "out.csv", "--to", "vidur")
    assert "vidur cannot hold what mooncake says: hash_ids, session (2 in 4 requests)" in said
    assert "cannot hold" not in run(capsys, "convert", "m.jsonl", "same.jsonl")
    assert [json.loads(line) for line in Path("same.jsonl").read_text().splitlines()] == rows
    assert "be one that traces are written in" in run(
        capsys, "convert", "m.jsonl", "out.json", "--to", "vllm", code=2
    )
    assert not Path("out.json").exists()


def test_an_open_unit_of_time_is_asked_for(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "".join(f"{n / 1.9},5,5\n" for n in range(400))
    Path("t.csv").write_text("timestamp,input_tokens,output_tokens\n" + text)
    assert "--time-unit" in run(capsys, "show", "t.csv", code=2)
    assert "400 requests in 210 s, 1.9 a second" in run(capsys, "show", "t.csv", "--time-unit", "s")
    assert "'fortnight' is not one of" in run(capsys, "show", "t.csv", "--time-unit", "fortnight", code=2)


def test_fit_writes_a_section_that_a_scenario_takes(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "fit", trace, "--out", "w.yaml")
    assert "twin, second half" in out
    section = yaml.safe_load(Path("w.yaml").read_text())["workload"]
    workload = Workload.model_validate(section)
    assert workload.rate_per_s == pytest.approx(5.0, rel=0.1)
    assert length_pairs(workload, Limits(context_tokens=512)).shape == (2000, 2)
    assert "--out must not exist yet" in run(capsys, "fit", trace, "--out", "w.yaml", code=2)


def test_a_broken_trace_is_an_error_and_mending_says_so(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = trace.read_text().splitlines()
    text[3] = text[3].replace("gpt,", "gpt,0")
    text.insert(5, text[1])
    Path("bad.csv").write_text("\n".join(text))
    assert "row 5 must not be earlier" in run(capsys, "show", "bad.csv", code=2)
    assert "put in order" in run(capsys, "show", "bad.csv", "--mend")
