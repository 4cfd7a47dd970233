"""Figures on pages are those of committed results: ``12.5 % [11.9, 13.1] <!-- FILE: METRIC -->``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from shunter.agents.registry import HEURISTICS
from shunter.envs.scenario.library import scenario_names
from shunter.profiling.dataset.reference import read_reference
from tests.docs.pages import PAGES, README, ROOT, name_of

_NUMBER = r"[+−-]?\d+(?:\.\d+)?"
_FIGURE = re.compile(
    rf"({_NUMBER})( %| min)?(?: \[({_NUMBER}), ({_NUMBER})\])?\s*<!-- ([\w-]+): ([^>]+?) -->",
)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


class Figure(NamedTuple):
    """A quoted figure: the number, its unit, its interval if it has one, and the row that it is from."""

    number: str
    unit: str
    low: str
    high: str
    file: str
    metric: str

    @property
    def quoted(self) -> list[str]:
        return [text for text in (self.number, self.low, self.high) if text]

    def differences(self, row: dict[str, Any]) -> list[str]:
        """What of it is not what the row says, to the digits quoted."""
        values = [row["value"], *((row["interval"] or []) if self.low else [])]
        if len(values) != len(self.quoted):
            return [f"{self.metric}: the result has no interval"]
        scale = 100.0 if self.unit == " %" else 1.0
        return [
            f"{self.metric}: {quoted}, but the result is {value * scale:.4f}"
            for quoted, value in zip(self.quoted, values, strict=True)
            if abs(number(quoted) - value * scale) > 0.5 * 10.0 ** -digits(quoted) + 1e-9
        ]


def number(text: str) -> float:
    return float(text.replace("−", "-"))


def digits(text: str) -> int:
    return len(text.partition(".")[2])


def figures(text: str) -> list[Figure]:
    return [Figure(*(part or "" for part in match.groups())) for match in _FIGURE.finditer(text)]


def rows(file: str) -> dict[str, dict[str, Any]]:
    path = ROOT / "results" / "benchmarks" / f"{file}.json"
    return {row["metric"]: row for row in json.loads(path.read_text(encoding="utf-8"))["rows"]}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_figures_are_those_of_the_results(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = figures(text)
    assert len(found) == len(_COMMENT.findall(text)), "a comment without a figure before it"
    wrong = [line for figure in found for line in figure.differences(rows(figure.file)[figure.metric])]
    assert not wrong, "\n".join(wrong)


def test_every_claim_of_the_readme_has_its_result_and_its_command() -> None:
    text = README.read_text(encoding="utf-8")
    table = text.partition("| claim |")[2].partition("\n\n")[0]
    claims = [line for line in table.splitlines()[2:] if line.strip()]
    assert len(claims) >= 5
    for claim in claims:
        found = figures(claim)
        assert found, claim
        for figure in found:
            assert f"`python -m benchmarks.{figure.file}`" in claim
            assert f"(results/benchmarks/{figure.file}.json)" in claim


def test_a_wrong_figure_is_seen() -> None:
    row = {"value": -0.017, "interval": [-0.0361, 0.0036]}
    right, wrong, none = figures(
        "−1.7 % [−3.6, +0.4] <!-- a: m --> −1.8 % [−3.6, +0.5] <!-- a: m --> 0.02 [0.01, 0.03] <!-- a: m -->"
    )
    assert right.differences(row) == []
    assert len(wrong.differences(row)) == 2
    assert none.differences({"value": 0.02, "interval": None}) == ["m: the result has no interval"]


def test_counts_are_those_of_what_there_is() -> None:
    pages = {name_of(page): page.read_text(encoding="utf-8") for page in PAGES}
    assert f"{len(scenario_names())} named scenarios" in pages["docs/environment.md"]
    assert f"{len(scenario_names())} scenarios, 3 loads" in pages["README.md"]
    assert f"{len(read_reference())} published measurements" in pages["docs/profiling.md"]
    words = {12: "Twelve", 13: "Thirteen", 14: "Fourteen", 15: "Fifteen", 16: "Sixteen"}
    assert f"{words[len(HEURISTICS)]} heuristics" in pages["docs/training.md"]
    for name in set(
        re.findall(r"`([a-z-]+)`", pages["docs/training.md"].partition(" heuristics, each")[2][:300])
    ):
        assert name in HEURISTICS
