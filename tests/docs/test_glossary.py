"""The glossary's words are in alphabetical order, and what it calls the code's is in the code."""

from __future__ import annotations

import re

from tests.docs.pages import ROOT

ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ")
][1:]


def test_words_are_sorted_and_explained() -> None:
    words = [row[0].lower() for row in ROWS]
    assert len(words) > 30
    assert words == sorted(words)
    assert all(len(row) == 3 and row[2] for row in ROWS)


def test_the_code_s_words_are_in_the_code() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "shunter").rglob("*.py"))
    named = [word for row in ROWS for word in re.findall(r"`([^`]+)`", row[1])]
    assert len(named) > 10
    assert [word for word in named if not re.search(rf"(?<!\w){re.escape(word)}\b", source)] == []
