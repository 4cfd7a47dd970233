"""Tables that a terminal and a page show alike, and pages that hold everything they need."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import plotly.io as pio
from rich.table import Table

from shunter.errors import InputError

__all__ = ["COLOURS", "ReportTable", "report_folder", "write_json", "write_page"]

COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2", "#ff9da6", "#9d755d")

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: .5rem 0 1rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #ddd; font-size: 13px }
td { white-space: nowrap }
th:first-child, td:first-child { text-align: left }
h2 { font-size: 17px; margin: 1.5rem 0 0 }
.note { color: #666; font-size: 13px; margin: .2rem 0 }
"""


@dataclass(frozen=True)
class ReportTable:
    """A table of finished texts.

    Attributes:
        title: Above it.
        columns: Headings; the first column is aligned left.
        rows: One text per column.
        note: Below it; what the columns mean.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def to_rich(self) -> Table:
        """For a terminal."""
        table = Table(title=self.title, caption=self.note or None, caption_justify="left")
        for index, column in enumerate(self.columns):
            widest = max(map(len, column.split()), default=1)  # a narrow terminal must not cut words
            table.add_column(column, justify="right" if index else "left", overflow="fold", min_width=widest)
        for row in self.rows:
            table.add_row(*row)
        return table

    def to_html(self) -> str:
        """For a page."""
        head = "".join(f"<th>{html.escape(text)}</th>" for text in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>" for row in self.rows
        )
        note = f"<p class=note>{html.escape(self.note)}</p>" if self.note else ""
        return f"<h2>{html.escape(self.title)}</h2><table><tr>{head}</tr>{body}</table>{note}"


def report_folder(path: Path, *, field: str = "--out") -> Path:
    """Makes the folder if need be.

    Raises:
        InputError: There is a file, or the place cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(field, "be a folder that can be written", f"{path}: {error.strerror}") from error
    return path


def write_page(
    path: str | os.PathLike[str],
    *,
    title: str,
    paragraphs: Sequence[str],
    figures: Sequence[go.Figure],
    tables: Sequence[ReportTable],
) -> Path:
    """Writes one HTML file that works offline: plotly.js is inside."""
    parts = [f"<h1>{html.escape(title)}</h1>", *(f"<p>{html.escape(text)}</p>" for text in paragraphs)]
    parts += [
        pio.to_html(figure, full_html=False, include_plotlyjs="inline" if index == 0 else False)
        for index, figure in enumerate(figures)
    ]
    parts += [table.to_html() for table in tables]
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>"
    )
    return _replace(Path(path), page)


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
    """Writes JSON, whole or not at all.

    Raises:
        ValueError: A number is not finite: a reader of JSON could not read it.
    """
    return _replace(Path(path), json.dumps(value, indent=1, allow_nan=False) + "\n")


def _replace(path: Path, text: str) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
