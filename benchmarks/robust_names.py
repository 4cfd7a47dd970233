"""Hostile names in all that shunter writes for other programs: each comes out as itself, and does nothing.

Each sink is a function that writes a name as shunter does and says what is wrong with what a reader of that
output makes of it; nothing, where it is right. A name may be refused instead.
"""

from __future__ import annotations

import csv
import html
import io
import re
import shlex
import tempfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from markdown_it import MarkdownIt
from rich.table import Table

from benchmarks.form import Row, at_most
from shunter.cli.options import WIDE, PlainConsole
from shunter.envs.workload.traces import read_trace, write_trace
from shunter.errors import BrokenFileError, InputError, ShunterError, UnknownNameError, one_line
from shunter.export.escaping import swap_words, to_yaml, word
from shunter.report.page import ReportTable, Section, write_markdown, write_sections
from shunter.sinks import csv_text, file_name, from_csv_text, plain_name, registry_name, store_key, visible
from shunter.tracking.versions import describe

__all__ = ["HOSTILE", "SINKS", "names_rows", "read_markdown", "wrong"]

HOSTILE = (
    "a\nmodels:\n  evil:\n    cmd: touch /tmp/x",
    "a: {b: c}",
    "- a",
    "&a [*a]",
    "!!python/object/apply:os.system [id]",
    "${PORT} ${env.HOME}",
    "$(touch x) `id` ; rm -rf .",
    "'; touch x; '",
    '"; touch x; "',
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "[a](javascript:alert(1))",
    "![a](http://evil/x.png)",
    "[a]: http://evil/",
    "a | b \\| c",
    "`a <b> | c`",
    "``` a",
    "*a* __b__ ~~c~~",
    "&lt;b&gt; &#42;",
    "# a",
    "1. a",
    "> a",
    "---",
    "===",
    "=cmd|' /C calc'!A0",
    "@SUM(1)",
    "+1+1",
    "'=1",
    "\t=1",
    "\x1b[2J\x1b]0;title\x07",
    "[red]a[/red] [/b] :smile:",
    "../../etc/passwd",
    "/etc/passwd",
    ".hidden",
    "a/b",
    "nul\x00l",
    "x' OR '1'='1",
    "a`b",
    "\u202egnp.exe",
    "\u2028\u2029\x85",
    "\ud800",
    "1e3",
    "yes",
    "~",
    "",
    " ",
    "x" * 5000,
    "模" * 100,
    "é日本",
)
"""Names that break out of what they are written into, where it lets them."""


def _error(name: str) -> str:
    for error in (
        InputError(name, name, name),
        UnknownNameError("f", name, [name]),
        BrokenFileError(name, name),
    ):
        if not str(error).isprintable():
            return "a message is no line"
        if len(str(error)) > 2500:
            return "a message is longer than a line"
    return ""


def _terminal(name: str) -> str:
    console = PlainConsole(file=io.StringIO(), width=WIDE * 10)
    table = Table("name", title=name)
    table.add_row(name)
    console.print(table)
    console.print(name)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    if not text.replace("\n", "").replace("\t", "").isprintable():
        return "a control reaches the terminal"
    seen = re.findall(r"[\w./$:{}]+", name)
    return "" if all(part in text for part in seen if len(part) < 100) else "a part of it is not shown"


class _Tags(HTMLParser):
    """What elements a page has."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append(tag)


def _sections(name: str) -> list[Section]:
    table = ReportTable(name, (name, "b"), ((name, name),), name)
    return [Section(name, (name,), (), (table,))]


def _tags(path: Path) -> list[str]:
    parser = _Tags()
    parser.feed(path.read_text(encoding="utf-8", errors="replace"))
    return parser.found


def _html(name: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        pages = []
        for text in ("plain", name.encode(errors="replace").decode()):
            path = write_sections(
                Path(folder) / "p.html", title=text, paragraphs=(text, text), sections=_sections(text)
            )
            pages.append(_tags(path))
    return "" if pages[0] == pages[1] or not name else "the page has other elements"


def read_markdown(text: str) -> tuple[list[str], list[str]]:
    """What a page makes of Markdown: its elements, and the text within each, broken where it is."""
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    elements, lines = [], []
    for token in reader.parse(text):
        inside = token.children or ()
        elements += [token.type, *(one.type for one in inside if one.type not in ("text", "text_special"))]
        if token.content:
            lines.append("".join(one.content or "\n" for one in inside) if inside else token.content)
    return elements, lines


def _markdown(name: str) -> str:
    name = name.encode(errors="replace").decode()
    read = []
    with tempfile.TemporaryDirectory() as folder:
        for text in ("plain", name):
            path = write_markdown(
                Path(folder) / "p.md", title=text, paragraphs=(text, text), sections=_sections(text)
            )
            read.append(read_markdown(path.read_text(encoding="utf-8")))
    (plain, lines), (elements, found) = read
    if elements != plain and name.strip():
        return "it has other elements"
    seen = " ".join(visible(name).split())
    shown = [seen if line == "plain" else line for line in lines]
    return "" if not seen or found == shown else "it is not shown"


def _csv(name: str) -> str:
    cell = csv_text(name)
    if cell[:1] in tuple("=+-@\t\r") and cell:
        return "a spreadsheet takes it for a formula"
    return "" if from_csv_text(cell) == name else "it reads back as something else"


def _trace(name: str) -> str:
    name = name.encode(errors="replace").decode().strip()
    frame = pd.DataFrame({"arrival_s": [0.0, 1.0], "prompt_tokens": 1, "decode_tokens": 1, "model": name})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        write_trace(frame.assign(session=""), path, format="shunter")
        cells = [row[3] for row in csv.reader(io.StringIO(path.read_bytes().decode(), newline=""))][1:]
        again = read_trace(path).frame["model"].tolist()
    if any(cell[:1] in tuple("=+-@\t\r") for cell in cells if cell):
        return "a spreadsheet takes it for a formula"
    return (
        ""
        if [" ".join(n.split()) for n in again] == [" ".join(name.split())] * 2
        else "it reads back otherwise"
    )


def _yaml(name: str) -> str:
    name = name.encode(errors="replace").decode()
    text = f"# {one_line(name)}\n" + to_yaml({"names": [name], name: 1})
    return "" if yaml.safe_load(text) == {"names": [name], name: 1} else "it reads back as something else"


def _shell(name: str) -> str:
    words = ["run", word("name", name)]
    return "" if shlex.split(shlex.join(words)) == words else "a shell reads other words"


def _swap(name: str) -> str:
    made = swap_words("name", ["run", name])
    if "${" in made:
        return "llama-swap fills something in"
    return "" if shlex.split(made) == ["run", name] else "a shell reads other words"


def _file(name: str) -> str:
    made = file_name(name)
    with tempfile.TemporaryDirectory() as folder:
        try:
            (Path(folder) / f"{made}.json.gz").touch()
        except OSError as error:
            return str(error.strerror)
        inside = [path.parent for path in Path(folder).rglob("*")] == [Path(folder)]
    return "" if inside and not made.startswith(".") else "it leads elsewhere"


def _filter(name: str) -> str:
    made = f"name = '{registry_name('--name', name)}'"
    return "" if made.count("'") == 2 else "it ends the filter"


class _Described:
    """A client of MLflow's that keeps what it is told of a version."""

    said = ""

    def update_model_version(self, name: str, version: str, description: str) -> None:
        self.said = description


def _description(name: str) -> str:
    client = _Described()
    describe(client, "m", "1", name)
    elements, lines = read_markdown(client.said)
    if elements and elements != ["paragraph_open", "inline", "paragraph_close"]:
        return "it has other elements"
    return "" if "".join(lines) == " ".join(visible(name).split()) else "it is not shown"


def _key(name: str) -> str:
    return "" if re.fullmatch(r"[\w\-. :/]*", store_key(name)) else "MLflow refuses it"


def _entered(name: str) -> str:
    try:
        made = plain_name(name)
    except ValueError:
        return ""
    return "" if made.isprintable() and 0 < len(made) <= 200 else "it is let in"


SINKS: dict[str, Callable[[str], str]] = {
    "where names enter": _entered,
    "messages": _error,
    "terminal": _terminal,
    "HTML": _html,
    "Markdown": _markdown,
    "CSV": _csv,
    "traces as CSV": _trace,
    "YAML": _yaml,
    "shell": _shell,
    "llama-swap": _swap,
    "names of files": _file,
    "MLflow's filters": _filter,
    "MLflow's keys": _key,
    "MLflow's descriptions": _description,
}


def wrong(sink: str, name: str) -> str:
    """What is wrong with a name in a sink; nothing if it comes out as itself, or is refused in one line."""
    try:
        return SINKS[sink](name)
    except ShunterError as error:
        return "" if str(error).isprintable() else "it is refused in several lines"


def names_rows() -> list[Row]:
    """How many names do something in any sink."""
    found = [f"{sink}: {html.escape(name[:20])!r}" for sink in SINKS for name in HOSTILE if wrong(sink, name)]
    pairs = len(SINKS) * len(HOSTILE)
    metric = f"{len(HOSTILE)} hostile names in {len(SINKS)} sinks ({pairs}): not escaped"
    return [at_most(Row(metric, len(found), "pairs", note="; ".join(found[:5])), 0)]
