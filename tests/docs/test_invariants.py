"""The tests that invariants, recipes and threat model name are there, and touch points are counted."""

from __future__ import annotations

import ast
import re

import pytest

from tests.docs.pages import ROOT

INVARIANTS = (ROOT / "docs" / "invariants.md").read_text(encoding="utf-8")
SECURITY = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
RECIPES = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def names_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("text", [INVARIANTS, RECIPES, SECURITY], ids=["invariants", "recipes", "security"])
def test_every_named_test_exists(text: str) -> None:
    named = _TEST.findall(text)
    assert named
    assert [f"{path}::{name}" for path, name in named if name not in names_in(path)] == []


def test_invariants_are_numbered_and_each_is_held() -> None:
    items = re.split(r"^(\d+)\. ", INVARIANTS, flags=re.MULTILINE)[1:]
    numbers, texts = [int(n) for n in items[::2]], items[1::2]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [number for number, text in zip(numbers, texts, strict=True) if not _TEST.search(text)] == []


def test_every_line_of_the_threat_model_is_held_by_a_test() -> None:
    rows = [line for line in SECURITY.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 10
    assert [row for row in rows if not _TEST.search(row)] == []


def test_recipes_count_their_touch_points() -> None:
    recipes = re.split(r"^## ", RECIPES, flags=re.MULTILINE)[1:]
    assert len(recipes) >= 9
    for recipe in recipes:
        heading, _, body = recipe.partition("\n")
        said = re.search(r"\((\d+) (?:files?|rows?)\)$", heading)
        assert said, heading
        points = re.findall(r"^\d+\. `([^`]+)`", body, re.MULTILINE)
        assert len(points) == int(said[1]), heading
        assert "Held by" in body, heading
