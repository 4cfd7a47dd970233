"""Command lines on pages are ones that the programs take: commands, options, values; nothing is run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from shunter.cli.main import COMMANDS, GROUPS, app
from shunter.errors import UnknownNameError
from tests.docs.pages import PAGES, ROOT, blocks, code_spans, name_of

GROUP: Any = typer.main.get_command(app)


def command_lines(text: str) -> list[str]:
    """Of ``shunter`` in fenced blocks: those of shells, and what follows a prompt elsewhere."""
    lines = []
    for block in blocks(text):
        joined = re.sub(r"\\\n\s*", " ", block.text)
        shell = block.language == "sh"
        lines += [line.removeprefix("$ ") for line in joined.splitlines() if shell or line.startswith("$ ")]
    return [line.removeprefix(".venv/bin/") for line in lines if re.match(r"(\.venv/bin/)?shunter ", line)]


def check_line(line: str) -> None:
    """Raises what the program would say of a whole command line."""
    words = shlex.split(line, comments=True)[1:]
    name, arguments = split_command(words)
    # Making the context parses and converts everything, and calls nothing.
    GROUP.get_command(None, name).make_context(name, arguments)


def check_span(span: str) -> None:
    """Raises what is wrong with the commands and options of an inline span, which may leave things out."""
    words = shlex.split(span.partition("|")[0])[1:]
    if words[0] in GROUPS and len(words) == 1:
        return
    if words[0].startswith("--"):
        assert words[0] in {"--help", "--version"}, span
        return
    name, arguments = split_command(words)
    known = {option for parameter in GROUP.get_command(None, name).params for option in parameter.opts}
    unknown = [
        word
        for word in arguments
        if word.startswith("--") and word.partition("=")[0] not in known | {"--help"}
    ]
    assert not unknown, f"{span}: {unknown}"


def split_command(words: list[str]) -> tuple[str, list[str]]:
    """The longest name of a command that words begin with, and the others."""
    two = " ".join(words[:2])
    name, rest = (two, words[2:]) if two in COMMANDS else (words[0], words[1:])
    if name not in COMMANDS:
        raise UnknownNameError("command", name, COMMANDS)
    return name, rest


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_line_parses(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for line in command_lines(text):
        check_line(line)
    for span in code_spans(text):
        if re.match(r"shunter [a-z-]", span):
            check_span(span)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_make_target_and_extra_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    said = [span for span in code_spans(text) if span.startswith("make ")]
    said += [line for block in blocks(text) for line in block.text.splitlines()]
    assert {found for line in said for found in re.findall(r"^(?:\$ )?make ([\w-]+)", line)} <= targets
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = project.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = set(re.findall(r"^([\w-]+) =", section, re.MULTILINE))
    asked = re.findall(r"pip install [^`\n]*?(?:shunter|\.)\[([\w,-]+)\]", text)
    assert {name for names in asked for name in names.split(",")} <= extras


def test_every_command_is_on_a_page() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    spans = [span for span in code_spans(text) if re.match(r"shunter [a-z]", span)]
    said = {
        split_command(s.split()[1:])[0] for s in spans if s.split()[1] not in GROUPS or len(s.split()) > 2
    }
    # In tables a group is named once, its other commands alone: `shunter dataset show`, `validate`.
    rows = [code_spans(line) for line in text.splitlines() if line.startswith("| `shunter ")]
    said |= {f"{row[0].split()[1]} {other}" for row in rows for other in row[1:] if other.isalpha()}
    assert set(COMMANDS) <= said


@pytest.mark.parametrize(
    "line",
    [
        "shunter trian --scenario a",
        "shunter train --scenarios a",
        "shunter eval",
        "shunter train --minutes many",
    ],
)
def test_a_wrong_command_line_is_seen(line: str) -> None:
    with pytest.raises(Exception, match=r"trian|scenario|valid number"):
        check_line(line)


def test_a_wrong_option_in_a_sentence_is_seen() -> None:
    with pytest.raises(AssertionError, match="--loud"):
        check_span("shunter eval --loud 0.5")
