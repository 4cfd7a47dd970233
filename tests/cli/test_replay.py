from __future__ import annotations

import json
from pathlib import Path

import pytest

from shunter.cli.main import main
from tests.serve.records import write_record, write_scenario


def shunter(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_it_prints_the_answer_first_and_writes_figures_and_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record, box = tmp_path / "record", write_scenario(tmp_path)
    write_record(record, count=60, slower=1.25)
    options = ("--policy", "fifo-swap", "--json", tmp_path / "f.json", "--out", tmp_path / "p.html")
    assert shunter("replay", record, "--scenario", box, *options) == 0
    answer, quantiles, other, *rest = capsys.readouterr().out.splitlines()
    assert "s simulated, " in answer
    assert "(60 requests in " in answer
    assert quantiles.startswith("simulated / real: p50 ")
    assert other.startswith("fifo-swap would have been ")
    assert rest == [f"{tmp_path}/f.json: all figures", f"{tmp_path}/p.html: the page"]
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["error"]["value"] == pytest.approx(-0.2, abs=0.02)
    assert "Simulation against what happened" in (tmp_path / "p.html").read_text()


def test_a_record_is_drawn_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_record(tmp_path / "record", count=60)
    assert shunter("timeline", tmp_path / "record", "--out", tmp_path / "t.html") == 0
    assert "cost-greedy, gateway, run 20261127T120000" in capsys.readouterr().out
    assert shunter("workload", "show", tmp_path / "record") == 0
    assert "gateway, 60 requests" in capsys.readouterr().out


def test_what_is_no_record_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    box = write_scenario(tmp_path)
    assert shunter("replay", tmp_path, "--scenario", box) == 2
    assert "RECORD must be a folder with requests.jsonl" in capsys.readouterr().err
    write_record(tmp_path / "record", count=30)
    assert shunter("workload", "convert", tmp_path / "record", tmp_path / "t.parquet") == 0
    assert shunter("replay", tmp_path / "t.parquet", "--scenario", box) == 2
    assert "RECORD must say when requests ended" in capsys.readouterr().err
    assert shunter("timeline", tmp_path) == 2
    assert "EVENTS must be an event log or a folder that holds some" in capsys.readouterr().err
