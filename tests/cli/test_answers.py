"""What commands print is an answer of at most ten lines; the rest is asked for, and never cropped."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.registry import HEURISTICS
from shunter.cli.options import ANSWER_LINES, open_console, say_answer
from shunter.train.verdict import kept_words
from tests.cli.test_main import fails, folder, works

__all__ = ["folder"]

PROGRESS = re.compile(r"\d+/\d+  ")
"""How a line begins that says now and then how far the work is."""

MANY = [name for name, cls in HEURISTICS.items() if not cls.oracle]


def said(findings: list[str], places: list[str], *, verbose: bool = False) -> list[str]:
    console = Console(file=io.StringIO(), width=40)
    say_answer(console, findings, places, verbose=verbose)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    return [line for line in works(capsys, *arguments).splitlines() if not PROGRESS.match(line)]


@pytest.mark.parametrize("count", [1, 8, 9, 30])
def test_findings_give_way_and_places_stay(count: int) -> None:
    findings, places = [f"finding {i} {'x' * 60}" for i in range(count)], ["report: p", "MLflow: m"]
    assert said(findings, places, verbose=True) == [*findings, *places]
    lines = said(findings, places)
    assert len(lines) == min(ANSWER_LINES, count + 2)
    assert lines[-2:] == places
    shown = [line for line in lines if line in findings]
    assert shown == findings[: len(shown)]
    if count > 8:
        assert lines[7] == f"and {count - 7} lines more: --verbose prints them"


def test_a_table_in_a_pipe_is_as_wide_as_it_must_be(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(*(f"a column of the number {i}" for i in range(20)))
    open_console().print(table)
    header = capsys.readouterr().out.splitlines()[1]
    assert all(f"a column of the number {i} " in header for i in range(20))


def test_eval_answers_first_and_shows_tables_when_asked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policies = [word for name in MANY for word in ("--policy", name)]
    asked = ("eval", "--scenario", "s.yaml", "--seeds", "2", *policies)
    short = answer(capsys, *asked, "--out", "a")
    assert short[0].startswith("Simulated: ")
    assert len(short) <= ANSWER_LINES
    assert "report: a/report.html" in short
    long = answer(capsys, *asked, "--out", "b", "--verbose")
    header = next(line for line in long if "fifo-swap" in line and "┃" in line)
    assert all(name in header for name in MANY)
    assert not any("…" in line for line in long)


def test_eval_at_several_loads_answers_for_each(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loads = ("--load", "0.3", "--load", "0.6", "--seeds", "1", "--out", "runs/loads")
    lines = answer(capsys, "eval", "--scenario", "s.yaml", *loads)
    assert lines[0].startswith("Lowest mean response: ")
    assert [line.split(" requests/s. ")[1].split(":")[0] for line in lines[1:3]] == ["Simulated"] * 2
    assert lines[3].startswith("note: load 0.3 is here ")
    assert lines[4] == "loads beside each other: runs/loads/report.html"
    assert [line.partition(" ")[0] for line in lines[5:]] == ["MLflow:"]
    assert works(capsys, "compare", "runs/loads/load-0.3", "runs/loads/load-0.6").startswith("Run 2: ")


def test_train_answers_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--scenario", "s.yaml", "--generations", "1", "--seeds", "3", "--out", "p.safetensors")
    begins, *lines = answer(capsys, "train", *arguments)
    kept = kept_words(LearnedPolicy.load(folder / "p.safetensors"))
    if kept:  # one generation may find nothing better
        assert lines.pop(2) == kept
    assert begins.startswith("3 trainings on fake: ")
    assert lines[0].startswith("training ")
    assert lines[1].startswith("mean response (p99 wait for a first token): trained ")
    assert lines[2].startswith("p.safetensors: the best of 3 seeds (")
    assert len(lines) <= ANSWER_LINES
    assert lines[-1].startswith("note: load ")
    # All are finished: what was learned is said again, with each training's own where it is asked for.
    again = answer(capsys, "train", *arguments, "--resume", "--verbose")
    assert again[:3] == lines[:3]
    assert sum("finished before; in validation" in line for line in again) == 3


def test_a_place_for_results_is_looked_at_before_the_work(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = "--json must be a file in an existing folder. Got 'nowhere/r.json' instead."
    for words in (("eval", "--scenario", "s.yaml"), ("tune", "--scenario", "s.yaml", "--trials", "1")):
        assert rule in fails(capsys, *words, "--json", "nowhere/r.json")
