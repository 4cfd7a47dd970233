"""Tables that a terminal and a page show alike, and pages that hold everything they need."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import plotly.colors as pc
import plotly.graph_objects as go
import plotly.io as pio
from rich.table import Table

from shunter.errors import InputError
from shunter.files import write_text, write_texts
from shunter.sinks import markdown

__all__ = [
    "COLOURS",
    "PALETTE",
    "ReportTable",
    "Section",
    "report_folder",
    "write_markdown",
    "write_page",
    "write_sections",
]

COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2", "#ff9da6", "#9d755d")
PALETTE = (*COLOURS, *pc.qualitative.Dark24, *pc.qualitative.Light24)
"""For more series than ``COLOURS`` has; the same first."""

_UNFOLDED = 4
"""Most findings below the conclusion that a page shows without being asked."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1400px; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: .5rem 0 1rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .32rem; text-align: right; border-bottom: 1px solid #ddd; font-size: 12.5px }
td { white-space: nowrap }
th:first-child, td:first-child, .prose th, .prose td { text-align: left }
.prose td + td { white-space: normal }
h2 { font-size: 17px; margin: 1.5rem 0 0 }
h3 { font-size: 15px; margin: 1rem 0 0 }
nav a { margin-right: 1rem }
.wide { overflow-x: auto }
.lead { font-size: 17px; font-weight: 600; max-width: 70rem }
.findings { max-width: 75rem; padding-left: 1.2rem }
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
        prose: Whether cells are texts, aligned left and wrapped.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    prose: bool = False

    def to_rich(self) -> Table:
        """For a terminal."""
        table = Table(title=self.title, caption=self.note or None, caption_justify="left")
        for index, column in enumerate(self.columns):
            widest = max(map(len, column.split()), default=1)  # a narrow terminal must not cut words
            table.add_column(
                column,
                justify="right" if index and not self.prose else "left",
                overflow="fold",
                min_width=widest,
            )
        for row in self.rows:
            table.add_row(*row)
        return table

    def to_html(self, heading: str = "h2") -> str:
        """For a page.

        Args:
            heading: Element of the title; there is none where the title is empty.
        """
        head = "".join(f"<th>{html.escape(text)}</th>" for text in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>" for row in self.rows
        )
        note = f"<p class=note>{html.escape(self.note)}</p>" if self.note else ""
        title = f"<{heading}>{html.escape(self.title)}</{heading}>" if self.title else ""
        table = "<table class=prose>" if self.prose else "<table>"
        return f"{title}<div class=wide>{table}<tr>{head}</tr>{body}</table></div>{note}"

    def to_markdown(self) -> str:
        """As a table of GitHub's Markdown, the note below it."""
        aligned = ("---", *["---" if self.prose else "---:"] * (len(self.columns) - 1))
        head, *body = (tuple(map(markdown, line)) for line in (self.columns, *self.rows))
        table = "\n".join("| " + " | ".join(line) + " |" for line in (head, aligned, *body))
        return f"{table}\n\n{markdown(self.note)}" if self.note else table


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: Its heading.
        notes: Paragraphs below it.
        figures: Figures, below the notes.
        tables: Tables, below the figures.
    """

    title: str
    notes: tuple[str, ...] = ()
    figures: tuple[go.Figure, ...] = ()
    tables: tuple[ReportTable, ...] = ()


def report_folder(path: Path) -> Path:
    """Makes the folder if need be.

    Raises:
        InputError: There is a file, or the place cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError("--out", "be a folder that can be written", f"{path}: {error.strerror}") from error
    return path


def write_page(
    path: str | os.PathLike[str],
    *,
    title: str,
    paragraphs: Sequence[str],
    figures: Sequence[go.Figure],
    tables: Sequence[ReportTable],
) -> Path:
    """Writes one HTML file that works offline: plotly.js is inside.

    Args:
        path: Path of the file.
        title: What the page comes to, or what it is about.
        paragraphs: The conclusion, then what else there is to say, which becomes a list.
        figures: Figures, below the paragraphs.
        tables: Tables, below the figures.
    """
    parts = _opening(title, paragraphs)
    parts += _drawn(figures)
    parts += [table.to_html() for table in tables]
    return write_text(path, _page(title, parts))


def write_sections(
    path: str | os.PathLike[str], *, title: str, paragraphs: Sequence[str], sections: Sequence[Section]
) -> Path:
    """Writes one HTML file of several sections, in order; otherwise as ``write_page``."""
    return write_text(path, _sections_page(title, paragraphs, sections))


def write_markdown(
    path: str | os.PathLike[str], *, title: str, paragraphs: Sequence[str], sections: Sequence[Section]
) -> Path:
    """Writes what ``write_sections`` does as Markdown, without the figures."""
    return write_text(path, _sections_markdown(title, paragraphs, sections))


def write_page_and_markdown(
    path: Path, *, title: str, paragraphs: Sequence[str], sections: Sequence[Section]
) -> Path:
    """Writes what ``write_sections`` and ``write_markdown`` do, side by side: both, or neither."""
    text = _sections_markdown(title, paragraphs, sections)
    write_texts({path.with_suffix(".md"): text, path: _sections_page(title, paragraphs, sections)})
    return path


def _sections_page(title: str, paragraphs: Sequence[str], sections: Sequence[Section]) -> str:
    parts = _opening(title, paragraphs)
    links = (f'<a href="#s{i}">{html.escape(section.title)}</a>' for i, section in enumerate(sections))
    parts.append(f"<nav>{''.join(links)}</nav>")
    begun = False
    for index, section in enumerate(sections):
        parts.append(f"<h2 id=s{index}>{html.escape(section.title)}</h2>")
        parts += [f"<p class=note>{html.escape(note)}</p>" for note in section.notes]
        parts += _drawn(section.figures, begun=begun)
        parts += [table.to_html("h3") for table in section.tables]
        begun = begun or bool(section.figures)
    return _page(title, parts)


def _sections_markdown(title: str, paragraphs: Sequence[str], sections: Sequence[Section]) -> str:
    lead, *more = (*map(markdown, paragraphs), "")
    parts = [f"# {markdown(title)}", lead, "\n".join(f"- {text}" for text in more if text)]
    parts = [part for part in parts if part]
    for section in sections:
        if section.tables or not section.figures:
            parts += [f"## {markdown(section.title)}", *map(markdown, section.notes)]
        for table in section.tables:
            parts += [*([f"### {markdown(table.title)}"] if table.title else []), table.to_markdown()]
    return "\n\n".join(parts) + "\n"


def _opening(title: str, paragraphs: Sequence[str]) -> list[str]:
    """The heading, the conclusion, and a list of what else there is to say."""
    parts = [f"<h1>{html.escape(title)}</h1>"]
    parts += [f"<p class=lead>{html.escape(text)}</p>" for text in paragraphs[:1]]
    more = paragraphs[1:]
    if more:
        items = "".join(f"<li>{html.escape(text)}</li>" for text in more)
        listed = f"<ul class=findings>{items}</ul>"
        folded = f"<details><summary>{len(more)} findings in detail</summary>{listed}</details>"
        parts.append(folded if len(more) > _UNFOLDED else listed)
    return parts


def _drawn(figures: Sequence[go.Figure], *, begun: bool = False) -> list[str]:
    """Figures as HTML; the first of a page brings plotly.js along."""
    config = {"displaylogo": False, "responsive": True}
    return [
        pio.to_html(
            figure,
            full_html=False,
            include_plotlyjs="inline" if index == 0 and not begun else False,
            config=config,
        )
        for index, figure in enumerate(figures)
    ]


def _page(title: str, parts: Sequence[str]) -> str:
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>"
    )
