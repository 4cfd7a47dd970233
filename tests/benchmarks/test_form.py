from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.form import Row, at_least, at_most, main, reported


@pytest.mark.parametrize(
    ("row", "bar", "ok"),
    [
        (at_most(Row("m", 0.1), 0.1), "<= 0.1", True),
        (at_most(Row("m", 0.2), 0.1), "<= 0.1", False),
        (at_least(Row("m", 5.0), 4), ">= 4", True),
        (at_least(Row("m", None), 4), ">= 4", False),
        (reported("m", 1.0), "", None),
    ],
)
def test_a_row_is_judged_by_its_bar(row: Row, bar: str, ok: bool | None) -> None:
    assert (row.bar, row.ok) == (bar, ok)


def test_the_file_says_what_was_run_on_what_and_a_missed_bar_stays_in(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.json"
    rows = [at_most(Row("overhead", 0.2, interval=(0.1, 0.3)), 0.1), reported("rows", 3.0, "rows")]

    code = main("example", lambda quick: rows, "Measures nothing.", ["--quick", "--json", str(path)])

    record = json.loads(path.read_text())
    assert code == 1
    assert record["command"] == f"python -m benchmarks.example --quick --json {path.name}"
    assert record["quick"] is True
    assert record["machine"]["logical_cores"] >= 1
    assert [row["ok"] for row in record["rows"]] == [False, None]
