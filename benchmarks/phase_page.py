"""The picture of ``python -m benchmarks.preemption_phase``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.policy_grid import Grid, Square, colour, write_grids

__all__ = ["PhaseCell", "write_diagram"]

COLOURS = {"wait": "#b9d7ea", "preempt": "#f6b48f", "offload": "#b7ddb0", "both": "#d7b9e3"}
UNDECIDED = "#e8e8e8"

MOST = 2.0
"""Ratio of mean responses at which a colour is full."""

PARAGRAPHS = (
    "Wait: what is started on a device is finished before its model is evicted. Preempt: a model with "
    "unfinished requests may be evicted, and pays a reload to come back. Both of these hold whole "
    "models (the highest level that fits). Offload: nothing started is evicted, but models may be "
    "resident in part, so that more of them fit beside each other. Both: partial levels and evictions. "
    "Each way is stood for by the best of a few known rules, chosen on other requests than those shown. "
    "Undecided (grey): the best does not differ significantly from another way.",
    "Load is a share of the capacity at that reload cost and answer length. Reloads: factor on all load "
    "times, and their mean over models and levels.",
)


@dataclass(frozen=True)
class PhaseCell:
    """What is shown of a cell.

    Attributes:
        machine: Scenario.
        reload: Heading of its row.
        length: Heading of its grid.
        load: Heading of its column.
        verdict: The way that wins, ``undecided`` or ``none drains``.
        tied: Ways that share the win.
        best_change: Of the best way against waiting; None if one of the two does not drain.
        preempt_change: Likewise of preempting.
        clear: Whether the interval of that excludes 0.
        title: Under the pointer.
    """

    machine: str
    reload: str
    length: str
    load: float
    verdict: str
    tied: tuple[str, ...]
    best_change: float | None
    preempt_change: float | None
    clear: bool
    title: str


def write_diagram(path: Path, cells: Sequence[PhaseCell]) -> None:
    """Writes for every machine and answer length who wins, and what preempting changes against waiting."""
    grids = []
    for machine in dict.fromkeys(cell.machine for cell in cells):
        for length in dict.fromkeys(cell.length for cell in cells if cell.machine == machine):
            some = [cell for cell in cells if (cell.machine, cell.length) == (machine, length)]
            grids.append(_grid(f"{machine}, {length}: who wins", _WINS, some, _winner))
            grids.append(_grid(f"{machine}, {length}: preempt against wait", _CHANGES, some, _change))
    write_grids(path, "Does preemption pay?", PARAGRAPHS, grids, columns=2)


_WINS = "Behind each: the change of the mean response against waiting; undecided ones name who share the win."
_CHANGES = "Change of the mean response; blue: preempting is lower. In brackets: the interval holds 0."


def _grid(title: str, note: str, cells: Sequence[PhaseCell], square: Callable[[PhaseCell], Square]) -> Grid:
    loads = sorted({cell.load for cell in cells})
    at = {(cell.reload, cell.load): square(cell) for cell in cells}
    rows = tuple(
        (f"reloads {reload}", tuple(at[reload, load] for load in loads))
        for reload in dict.fromkeys(cell.reload for cell in cells)
    )
    return Grid(title, note, tuple(f"load {load:g}" for load in loads), rows)


def _winner(cell: PhaseCell) -> Square:
    if cell.verdict == "none drains":
        return Square(cell.verdict, title=cell.title)
    text = cell.verdict if cell.verdict in COLOURS else " = ".join(cell.tied)
    if cell.best_change is not None and cell.verdict != "wait":
        text += f" {cell.best_change:+.0%}"
    return Square(text, COLOURS.get(cell.verdict, UNDECIDED), cell.title)


def _change(cell: PhaseCell) -> Square:
    if cell.preempt_change is None:
        return Square("unstable", title=cell.title)
    text = f"{cell.preempt_change:+.0%}" if cell.clear else f"({cell.preempt_change:+.0%})"
    return Square(text, colour(1 + cell.preempt_change, MOST), cell.title)
