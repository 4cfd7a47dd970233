"""The page of ``python -m benchmarks.preemption_phase``, made from its rows.

``python -m benchmarks.phase_page PATH`` makes it again from the JSON file: ``PATH`` with ``.html``.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.form import Row
from benchmarks.phase_worlds import WAYS, Setting, phase_world
from benchmarks.policy_grid import Grid, Square, colour, write_grids
from shunter.envs.scenario.scenario import load_scenario
from shunter.envs.workload.seed_ranges import SEED_RANGES
from shunter.report.words import decided_text
from shunter.uncertainty import said

__all__ = ["PhaseCell", "conclusions", "phase_cells", "write_diagram"]

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

_CELL = re.compile(r"(\S+), load (\S+), reloads × (\S+), answers × (\S+): preempt against waiting")
_VERDICT = re.compile(r"(?:unstable; )?(none drains|\w+)(?: \((\w+(?:, \w+)*)\))?;")


@dataclass(frozen=True)
class PhaseCell:
    """What is shown of a cell.

    Attributes:
        machine: Scenario.
        reload: Factor on load times.
        length: Factor on answers.
        load: Heading of its column.
        verdict: The way that wins, ``undecided`` or ``none drains``.
        tied: Ways that share the win.
        best_change: Relative change of the best way against waiting; None if one of the two does not drain.
        preempt_change: Relative change of preempting against waiting; None if one of the two does not drain.
        clear: Whether the interval of ``preempt_change`` excludes 0.
        title: Text that a pointer over the cell shows.
    """

    machine: str
    reload: float
    length: float
    load: float
    verdict: str
    tied: tuple[str, ...]
    best_change: float | None
    preempt_change: float | None
    clear: bool
    title: str


def phase_cells(rows: Sequence[Row]) -> list[PhaseCell]:
    """Reads the cells from the rows of the benchmark; means stand there with four digits."""
    found = ((_CELL.fullmatch(row.metric), row) for row in rows)
    return [_cell(*match.groups(), row=row) for match, row in found if match is not None]


def _cell(machine: str, load: str, reload: str, length: str, *, row: Row) -> PhaseCell:
    said = _VERDICT.match(row.note)
    if said is None:
        raise ValueError(f"{row.metric}: the note does not begin with who wins: {row.note}")
    verdict, tied = said[1], tuple((said[2] or said[1]).split(", "))
    means = {way: float(text) for way, text in re.findall(rf"({'|'.join(WAYS)}) (\S+) s \(", row.note)}
    best = None if row.value is None or verdict == "none drains" else means[tied[0]] / means["wait"] - 1
    low, high = row.interval or (0.0, 0.0)
    return PhaseCell(
        machine=machine,
        reload=float(reload),
        length=float(length),
        load=float(load),
        verdict=verdict,
        tied=tied,
        best_change=best,
        preempt_change=row.value,
        clear=low > 0 or high < 0,
        title=row.note,
    )


def conclusions(rows: Sequence[Row]) -> tuple[str, list[str]]:
    """A title that answers, and what holds at each GPU's own reload cost, at others, and on average.

    Args:
        rows: Rows of the benchmark.
    """
    cells, by = phase_cells(rows), {row.metric: row for row in rows}
    machines = {one: load_scenario(one).devices[0].text for one in dict.fromkeys(c.machine for c in cells)}
    own = {gpu: by.get(f"{one}, reloads × 1: preempt against waiting") for one, gpu in machines.items()}
    title = "Does preemption pay? At its own reload cost: " + ", ".join(
        f"{gpu} {_answer(row)}" for gpu, row in own.items()
    )
    lines = [
        "Change of the mean response by preempting instead of waiting (negative = lower = better), at each "
        f"GPU's own reload cost: {'; '.join(f'{gpu} {_change_of(row)}' for gpu, row in own.items())}."
    ]
    for machine, gpu in machines.items():
        lines += _of_machine(machine, gpu, [cell for cell in cells if cell.machine == machine], by)
    return title, lines


def _of_machine(machine: str, gpu: str, cells: Sequence[PhaseCell], by: dict[str, Row]) -> Iterator[str]:
    reloads = sorted({cell.reload for cell in cells})
    others = [
        f"× {one:g} {_change_of(by.get(f'{machine}, reloads × {one:g}: preempt against waiting'))}"
        for one in reloads
        if one != 1
    ]
    yield (
        f"{gpu}, preempting at other reload costs: {'; '.join(others)}. Averaged over × {reloads[0]:g} to "
        f"× {reloads[-1]:g}, a mix that no GPU has: "
        f"{_change_of(by.get(f'{machine}: preempt against waiting'))}."
    )
    ways = [
        f"{way} {_change_of(by.get(f'{machine}, reloads × 1: {way} against waiting'))}"
        for way in WAYS
        if way not in ("wait", "preempt")
    ]
    won = Counter(cell.verdict for cell in cells if cell.reload == 1)
    if won:
        counts = ", ".join(f"{text} {count}" for text, count in won.most_common())
        yield (
            f"{gpu} at its own reload cost, against waiting: {'; '.join(ways)}. Who wins its {won.total()} "
            f"cells of load and answer length: {counts}."
        )


def _answer(row: Row | None) -> str:
    if row is None or row.value is None or row.interval is None:
        return "not measured"
    low, high = row.interval
    return said(low, high, above="no", below="yes", undecided="undecided")


def _change_of(row: Row | None) -> str:
    if row is None or row.value is None or row.interval is None:
        return "not measured"
    return decided_text({"change": row.value, "low": row.interval[0], "high": row.interval[1]})


def write_diagram(path: Path, rows: Sequence[Row]) -> None:
    """Writes for every machine and answer length who wins, and what preempting changes against waiting.

    Args:
        path: HTML file.
        rows: Rows of the benchmark.
    """
    title, lines = conclusions(rows)
    grids = []
    groups: dict[tuple[str, float], list[PhaseCell]] = {}
    for cell in phase_cells(rows):
        groups.setdefault((cell.machine, cell.length), []).append(cell)
    for (machine, length), some in groups.items():
        where = f"{machine}, answers × {length:g} ({_facts(machine, 1.0, length)[1]:.0f} tokens)"
        grids.append(_grid(f"{where}: who wins", _WINS, some, _winner))
        grids.append(_grid(f"{where}: preempt against wait", _CHANGES, some, _change))
    write_grids(path, title, [*lines, *PARAGRAPHS], grids, columns=2)


@cache
def _facts(machine: str, reload: float, length: float) -> tuple[float, float]:
    """Mean time of a load in seconds, and mean tokens of an answer."""
    world = phase_world(Setting(machine, reload, length))
    load_s = float(world.tables.load_s[world.tables.level_ok].mean())
    return load_s, float(world.draw(SEED_RANGES["phase"][0]).decode_tokens.mean())


_WINS = (
    "Behind each: change of the mean response against waiting, negative = lower = better; undecided ones "
    "name who share the win."
)
_CHANGES = "Change of the mean response: negative (blue) = lower = better. In brackets: the interval holds 0."


def _grid(title: str, note: str, cells: Sequence[PhaseCell], square: Callable[[PhaseCell], Square]) -> Grid:
    loads = sorted({cell.load for cell in cells})
    at = {(cell.reload, cell.load): square(cell) for cell in cells}
    rows = tuple(
        (
            f"reloads × {reload:g} ({_facts(cells[0].machine, reload, 1.0)[0]:.2g} s)",
            tuple(at[reload, load] for load in loads),
        )
        for reload in dict.fromkeys(cell.reload for cell in cells)
    )
    return Grid(title, note, tuple(f"load {load:g}" for load in loads), rows, words=square is _winner)


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


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.phase_page", description="Makes the page again."
    )
    parser.add_argument("json", type=Path, help="what python -m benchmarks.preemption_phase wrote")
    path = parser.parse_args().json
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    write_diagram(path.with_suffix(".html"), [Row(**row) for row in rows])


if __name__ == "__main__":
    _main()
