from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.vidur import BATCH, RATE_PER_S, our_world, vidur_rows, write_requests
from benchmarks.vidur_inside import tables, vidur_trace
from shunter.envs.workload.traces import read_trace


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    write_requests(50, tmp_path / "trace.csv")
    return tmp_path / "trace.csv"


@pytest.mark.parametrize(
    ("python", "said"),
    [(None, "not installed"), ("/no/such/python", "No such file"), (sys.executable, "vidur")],
)
def test_without_vidur_a_row_says_so(python: str | None, said: str, trace: Path) -> None:
    (row,) = vidur_rows(trace, 1.0, python)
    assert row.ok is False
    assert row.value is None
    assert said in row.note


def test_both_get_the_same_requests(trace: Path, tmp_path: Path) -> None:
    frame = read_trace(trace).frame
    assert frame.arrival_s.iloc[-1] == pytest.approx(50 / RATE_PER_S)
    drawn = our_world(trace, 50).draw(0)
    pairs = zip(drawn.prompt_tokens.tolist(), drawn.decode_tokens.tolist(), strict=True)
    assert sorted(pairs) == sorted(zip(frame.prompt_tokens, frame.decode_tokens, strict=True))
    vidur_trace(trace, tmp_path / "theirs.csv")
    lines = (tmp_path / "theirs.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 51
    assert lines[0].count(",") == lines[1].count(",") == 3


def test_every_batch_that_can_be_formed_has_a_duration() -> None:
    made = tables(None)
    assert {b for b, _ in made["attn_decode"]} == set(range(1, BATCH + 1))
    assert all(value > 0 for table in made.values() for value in table.values())
