"""A table with coloured cells as one HTML file that needs nothing else."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shunter.files import write_text

__all__ = ["Grid", "Square", "colour", "write_grids"]

MANY = 10
"""Columns beyond which headings stand upright."""

_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 1.5rem; color: #222 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin-bottom: 2rem }
th { font-weight: 600; font-size: 12px; padding: 2px 6px; text-align: left }
thead th { vertical-align: bottom; max-width: 90px; overflow-wrap: anywhere }
td { padding: 2px 6px; text-align: right; font-size: 12px; border: 1px solid #fff; white-space: nowrap }
td.best { outline: 2px solid #111; outline-offset: -2px; font-weight: 700 }
td.none { background: repeating-linear-gradient(45deg, #ddd 0 4px, #f4f4f4 4px 8px); color: #666 }
p, ul { max-width: 60rem; color: #444 }
ul { padding-left: 1.2rem }
.lead { font-size: 17px; font-weight: 600; color: #222 }
main { display: grid; column-gap: 2rem }
.scroll { max-width: 100%; overflow-x: auto }
section { min-width: 0 }
tbody th { position: sticky; left: 0; background: #fff }
table.many thead th { writing-mode: vertical-rl; transform: rotate(180deg) }
table.many thead th { max-height: 180px; padding: 6px 2px }
table.many td { padding: 2px 4px }
table.many tbody th { font-size: 11px }
table.words td { white-space: normal; max-width: 115px }
section p { max-width: 34rem; font-size: 12px }
h2 { font-size: 15px; margin: 0 }
"""


@dataclass(frozen=True)
class Square:
    """One cell of a table.

    Attributes:
        text: Text in it.
        colour: Colour behind the text, as CSS has it; empty: hatched.
        title: What a pointer over it shows.
        best: Whether it is framed.
    """

    text: str
    colour: str = ""
    title: str = ""
    best: bool = False


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        title: Above it.
        note: How to read it.
        columns: Headings.
        rows: Headings and squares, one for each column.
        words: Whether squares hold words, which are wrapped.
    """

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Square, ...]], ...]
    words: bool = False


def colour(ratio: float, most: float = 2.0) -> str:
    """Blue below 1, red above, by the logarithm; full at ``most`` and its inverse."""
    share = max(-1.0, min(1.0, math.log(ratio) / math.log(most)))
    strength = round(abs(share) ** 0.7 * 70)
    return f"hsl({210 if share < 0 else 10} 75% {96 - strength * 0.6:.0f}%)"


def write_grids(
    path: Path, title: str, paragraphs: Sequence[str], grids: Sequence[Grid], *, columns: int = 1
) -> None:
    """Writes the page, whole or not at all.

    Args:
        path: HTML file.
        title: What the page comes to.
        paragraphs: The conclusion, then what else there is to say, which becomes a list.
        grids: The tables.
        columns: How many of them stand beside each other.
    """
    text = "".join(f"<p class=lead>{html.escape(one)}</p>" for one in paragraphs[:1])
    text += f"<ul>{''.join(f'<li>{html.escape(one)}</li>' for one in paragraphs[1:])}</ul>"
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style><body><h1>{html.escape(title)}</h1>{text}"
        f"<main style='grid-template-columns:repeat({columns},minmax(0,max-content))'>"
        f"{''.join(f'<section>{_table(grid)}</section>' for grid in grids)}</main></body></html>\n"
    )
    write_text(path, page)


def _table(grid: Grid) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in grid.columns)
    kind = "words" if grid.words else "many" if len(grid.columns) > MANY else ""
    rows = "\n".join(
        f"<tr><th>{html.escape(name)}</th>{''.join(map(_square, squares))}</tr>"
        for name, squares in grid.rows
    )
    return (
        f"<h2>{html.escape(grid.title)}</h2><p>{html.escape(grid.note)}</p>"
        f"<div class=scroll><table class='{kind}'><thead><tr><th></th>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _square(square: Square) -> str:
    names = " ".join(n for n, holds in (("best", square.best), ("none", not square.colour)) if holds)
    style = f' style="background:{square.colour}"' if square.colour else ""
    title = f' title="{html.escape(square.title)}"' if square.title else ""
    return f'<td class="{names}"{style}{title}>{html.escape(square.text)}</td>'
