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


def test_parts_are_converted_shown_and_fitted(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = read_trace(trace).frame
    since_s = whole["arrival_s"] - whole["arrival_s"][0]
    within = whole[(since_s >= 100) & (since_s < 200)]
    out = run(capsys, "convert", trace, "part.csv", "--to", "vidur", "--from", 100, "--to", 200)
    assert f"part.csv: {len(within)} requests" in out
    part = read_trace("part.csv").frame
    assert part["prompt_tokens"].tolist() == within["prompt_tokens"].tolist()
    np.testing.assert_allclose(part["arrival_s"], since_s[within.index] - 100)
    assert f"{len(within)} requests" in run(capsys, "show", trace, "--from", 100, "--to", 200)

    run(capsys, "fit", trace, "--from", 100, "--requests", 250, "--out", "w.yaml")
    workload = Workload.model_validate(yaml.safe_load(Path("w.yaml").read_text())["workload"])
    first = since_s.searchsorted(100)
    pairs = whole.loc[first : first + 249, ["prompt_tokens", "decode_tokens"]]
    np.testing.assert_array_equal(length_pairs(workload, Limits(context_tokens=512)), pairs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("convert", "trace.csv", "o.csv", "--to", "vidur", "--to", "azure"),
            "--to must be given once as a format",
        ),
        (("convert", "trace.csv", "o.csv", "--to", "vidurr"), "did you mean vidur"),
        (
            ("convert", "trace.csv", "o.csv", "--to", "vidur", "--from", "1e9"),
            "must be at least one, of a trace",
        ),
        (("convert", "trace.csv", "o.csv", "--to", "vidur", "--to", "-3"), "must be a finite interval"),
        (("fit", "trace.csv", "--requests", "2001"), "requests must be 1 to 2000"),
        (("fit", "trace.csv", "--requests", "20"), "hold at least 200 requests"),
        (("show", "trace.csv", "--from", "nan"), "--from must be a finite number"),
    ],
)
def test_parts_that_there_are_none_of_are_one_line(
    trace: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    error = run(capsys, *arguments, code=2)
    assert message in error
    assert error.count("\n") == 1
    assert not Path("o.csv").exists()


def test_a_ramp_is_not_fitted_as_one_rate(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times_s = np.concatenate([np.arange(500.0), 500 + np.arange(500) / 92])
    frame = read_trace(trace).frame.iloc[:1000].assign(arrival_s=times_s)
    write_trace(frame, "ramp.parquet")
    out = run(capsys, "fit", "ramp.parquet", "--out", "w.yaml")
    assert "its rate is not steady, a stationary fit is wrong" in out
    assert "the slowest has 1 a second and the fastest 92" in out
    workload = Workload.model_validate(yaml.safe_load(Path("w.yaml").read_text())["workload"])
    assert workload.requests == 1000
    slow, fast = workload.arrivals.steps or []
    rates = [step.factor * (workload.rate_per_s or 0.0) for step in (slow, fast)]
    assert rates == pytest.approx([1.0, 92.0], rel=0.02)
    assert slow.span_s == pytest.approx(500, rel=0.01)
    assert "a steady rate is not refuted" in run(capsys, "fit", trace)


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
    asked, told = [names[m] for m in drawn.model], read_trace(out).frame["model"].tolist()
    assert any(asked == told[at:] + told[:at] for at in range(len(told))), (
        "begun somewhere, and anew at its end"
    )


def test_a_broken_trace_is_an_error_and_mending_says_so(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = trace.read_text().splitlines()
    text[3] = text[3].replace("gpt,", "gpt,0")
    text.insert(5, text[1])
    Path("bad.csv").write_text("\n".join(text))
    assert "row 5 must not be earlier" in run(capsys, "show", "bad.csv", code=2)
    assert "put in order" in run(capsys, "show", "bad.csv", "--mend")
