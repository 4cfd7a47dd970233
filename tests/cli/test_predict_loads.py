"""``shunter predict`` with loads that say where their bytes come from."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from shunter.cli.main import main

ROWS = """engine,device,model,operation,load_source,disk_bytes_per_s
llama-cpp,RTX A6000,Llama-3-8B Q4_K_M,load,pinned,
llama-cpp,RTX A6000,Llama-3-8B Q4_K_M,decode,,
"""


def test_loads_by_source_are_written_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked, out = tmp_path / "asked.csv", tmp_path / "out.csv"
    asked.write_text(ROWS, encoding="utf-8")
    command = ["predict", str(asked), "--performance", "published", "--out", str(out), "--load-sources"]
    assert _code(command) == 0
    done, said = pd.read_csv(out), capsys.readouterr().out
    assert done["why_out_of_range"][0].startswith("published, not measured here")
    for source in ("disk", "page-cache", "pinned", "sleep-1", "sleep-2", "unknown"):
        assert f"Llama-3-8B Q4_K_M on RTX A6000 from {source}: " in said
    assert "was not used" not in said


def test_an_unknown_source_is_one_line_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, out = tmp_path / "asked.csv", tmp_path / "out.csv"
    asked.write_text(ROWS.replace("pinned", "floppy"), encoding="utf-8")
    assert _code(["predict", str(asked), "--performance", "published", "--out", str(out)]) == 2
    error = capsys.readouterr().err.strip()
    assert "load_source: unknown name 'floppy'" in error
    assert "\n" not in error
    assert not out.exists()


def _code(command: list[str]) -> int | str | None:
    try:
        main(command)
    except SystemExit as ended:
        return ended.code
    return 0
