"""Rows of ``python -m benchmarks.policies``: the bars of a trained policy, and what else there is to know."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.form import Row, at_least, at_most, reported
from benchmarks.policy_cells import Cell, kinds
from benchmarks.policy_results import MARGIN, CellVerdict, Comparison, Results
from shunter.envs.scenario import load_scenario

__all__ = ["bar_rows", "baseline_rows", "cell_rows", "guard_rows", "kind_rows", "lower_row", "slo_rows"]
__all__ += ["times_row"]

SEVERAL, ONE, HELD_OUT = "several devices", "one device", "held out"


def bar_rows(results: Results, mine: str, greedy: str, fifo: str, keepalive: str) -> list[Row]:
    """A policy against all bars on mean responses and waits.

    Args:
        results: Of it and of all baselines.
        mine: Its label.
        greedy: Label of the tuned cost-greedy.
        fifo: Label of the tuned fifo-swap.
        keepalive: Label of the tuned lru-keepalive.
    """
    cells = results.cells
    one = [cell for cell in cells if SEVERAL not in kinds(cell.scenario)]
    several = [cell for cell in cells if SEVERAL in kinds(cell.scenario)]
    held_out = [cell for cell in cells if HELD_OUT in kinds(cell.scenario)]
    rows = [
        _clear(lower_row("all cells", results, mine, results.best, cells, 0.08)),
        lower_row(SEVERAL, results, mine, greedy, several, 0.10),
        *(
            lower_row(f"{ONE}, load {load:g}", results, mine, greedy, _at(one, load), 0.03)
            for load in (0.7, 0.9)
        ),
        _not_worse(lower_row(f"{ONE}, load 0.5", results, mine, greedy, _at(one, 0.5))),
        lower_row("where stable", results, mine, fifo, cells, 0.40),
        lower_row("where stable", results, mine, keepalive, cells, 0.25),
        lower_row("held-out scenarios", results, mine, results.best, held_out, 0.05),
    ]
    return [*rows, _wait_row(results, mine, cells), *_verdict_rows(results, mine, cells)]


def lower_row(
    where: str, results: Results, mine: str, theirs: str, cells: Iterable[Cell], bar: float | None = None
) -> Row:
    """By how much a policy's mean response is lower than another's: 0.1 is 10 %."""
    found = results.compare(mine, theirs, cells)
    row = _lower(f"{where}: {mine} lower than {theirs} by", found, "mean response, geometric mean")
    return row if bar is None else at_least(row, bar)


def _lower(metric: str, found: Comparison, what: str) -> Row:
    note = f"{what} over {len(found.cells)} cells"
    if found.unstable:
        note += "; kept out, one of the two unstable: " + ", ".join(cell.name for cell in found.unstable)
    if found.paired is None:
        return reported(metric, None, note=note)
    low, high = found.paired.interval()
    return reported(metric, -found.paired.change, interval=(-high, -low), note=note)


def times_row(metric: str, found: Comparison, note: str) -> Row:
    """How many times another's a policy's figure is; nothing where no cell compares."""
    if found.paired is None:
        return reported(metric, None, note=note)
    low, high = found.paired.interval()
    return reported(metric, 1 + found.paired.change, interval=(1 + low, 1 + high), note=note)


def _clear(row: Row) -> Row:
    """Asks also for an interval clear of zero."""
    clear = row.interval is not None and row.interval[0] > 0
    return replace(row, bar=f"{row.bar}, interval clear of 0", ok=bool(row.ok) and clear)


def _not_worse(row: Row) -> Row:
    """Asks that it is not significantly worse."""
    ok = row.interval is not None and row.interval[1] >= 0
    return replace(row, bar="not significantly below 0", ok=ok)


def _at(cells: Sequence[Cell], load: float) -> list[Cell]:
    return [cell for cell in cells if cell.load == load]


def _wait_row(results: Results, mine: str, cells: Sequence[Cell]) -> Row:
    found = results.compare_waits(mine, results.best, cells)
    metric = f"p99.9 wait for a first token: {mine} × of {results.best}"
    above = [c.name for c in found.cells if _waits(results, mine, c) > 1.1 * _waits(results, results.best, c)]
    note = f"geometric mean over {len(found.cells)} cells; above 1.1 in {len(above)}"
    if above:
        note += ": " + ", ".join(above)
    return at_most(times_row(metric, found, note), 1.1)


def _waits(results: Results, label: str, cell: Cell) -> float:
    return results.figures[cell, label].p99_9_wait_s


def _verdict_rows(results: Results, mine: str, cells: Sequence[Cell]) -> list[Row]:
    verdicts = results.verdicts(mine, cells)
    worse = [v.cell.name for v in verdicts if v.worse]
    compared = [v for v in verdicts if v.paired is not None]
    note = (
        ", ".join(worse) or f"of {len(compared)} cells; Holm at 5 % over all, baselines chosen with hindsight"
    )
    better = sum(v.p < 0.05 and v.paired.change < 0 for v in compared if v.paired)
    metric = (
        f"cells where {mine} is significantly worse than the best baseline there by more than {MARGIN:.0%}"
    )
    rows = [at_most(reported(metric, float(len(worse)), "cells", note=note), 0)]
    rows.append(
        reported(
            f"cells where {mine} is significantly better than the best baseline there",
            float(better),
            "cells",
            note=f"of {len(compared)}, Holm at 5 %",
        )
    )
    if compared:
        last = max(compared, key=lambda v: v.high)
        metric = f"largest corrected upper bound of the change of {mine} against the best baseline of a cell"
        rows.append(reported(metric, last.high, note=f"{last.cell.name}, against {last.baseline}"))
    return rows


def cell_rows(results: Results, mine: str) -> list[Row]:
    """One row a cell: the change against the best baseline there."""
    return [_cell_row(results, mine, verdict) for verdict in results.verdicts(mine, results.cells)]


def _cell_row(results: Results, mine: str, verdict: CellVerdict) -> Row:
    metric = f"{verdict.cell.name}: {mine} lower than its best baseline by"
    if verdict.baseline is None:
        return reported(metric, None, note="no baseline is stable")
    own, theirs = (results.figures[verdict.cell, name] for name in (mine, verdict.baseline))
    if verdict.paired is None:
        return reported(metric, None, note=f"unstable: {mine}; {verdict.baseline} {theirs.mean_s:.4g} s")
    low, high = verdict.paired.interval()
    note = f"{own.mean_s:.4g} s; {verdict.baseline} {theirs.mean_s:.4g} s; Holm p {verdict.p:.2g}, "
    note += f"corrected {-verdict.high:.3g} to {-verdict.low:.3g}"
    return reported(metric, -verdict.paired.change, interval=(-high, -low), note=note)


def kind_rows(results: Results, mine: str, theirs: str) -> list[Row]:
    """Which kinds of scenario paid, against another policy."""
    names = list(dict.fromkeys(kind for cell in results.cells for kind in kinds(cell.scenario)))
    return [
        lower_row(
            f"{kind} ({_count(results.cells, kind)} scenarios)",
            results,
            mine,
            theirs,
            [cell for cell in results.cells if kind in kinds(cell.scenario)],
        )
        for kind in names
    ]


def _count(cells: Sequence[Cell], kind: str) -> int:
    return len({cell.scenario for cell in cells if kind in kinds(cell.scenario)})


def baseline_rows(results: Results) -> list[Row]:
    """Every policy as a multiple of the best single baseline, in mean response and in longest waits."""
    rows = []
    for contender in results.contenders:
        found = results.compare(contender.label, results.best, results.cells)
        waits = results.compare_waits(contender.label, results.best, results.cells)
        sees = "oracle; " if contender.oracle else ""
        mine = [results.figures[cell, contender.label] for cell in results.cells]
        unstable = sum(not figures.drained for figures in mine)
        longest = max((f.max_wait_s / f.time_scale_s for f in mine if f.drained), default=np.nan)
        note = f"{sees}{Path(contender.text).name}; unstable in {unstable} cells; "
        note += f"p99.9 wait × {_times(waits)}; longest wait {longest:.3g} time scales"
        rows.append(times_row(f"{contender.label} × of {results.best}", found, note))
    return rows


def _times(found: Comparison) -> str:
    return "unknown" if found.paired is None else f"{1 + found.paired.change:.3g}"


def guard_rows(results: Results, guarded: Sequence[tuple[str, str]]) -> list[Row]:
    """What an age bound costs in mean response, and what it does to waits.

    Args:
        results: Of all.
        guarded: Labels without and with the bound.
    """
    rows = []
    for free, bound in guarded:
        found = results.compare(bound, free, results.cells)
        waits = results.compare_waits(bound, free, results.cells)
        note = f"over {len(found.cells)} cells; p99.9 wait × {_times(waits)}, "
        note += f"longest × {_longest(results, free, bound)}"
        rows.append(times_row(f"age bound: {bound} × of {free}, mean response", found, note))
    return rows


def _longest(results: Results, free: str, bound: str) -> str:
    """Geometric mean over cells of the longest waits' ratio."""
    pairs = [(results.figures[cell, bound], results.figures[cell, free]) for cell in results.cells]
    logs = [
        np.log(a.max_wait_s / b.max_wait_s) for a, b in pairs if a.drained and b.drained and b.max_wait_s > 0
    ]
    return f"{np.exp(np.mean(logs)):.3g}" if logs else "unknown"


def slo_rows(results: Results, labels: Sequence[str]) -> list[Row]:
    """SLO attainment where a scenario has an SLO."""
    found: list[Row] = []
    share: Callable[[Cell, str], float] = lambda cell, label: float(  # noqa: E731
        np.mean(results.figures[cell, label].slo_attainment)
    )
    for cell in results.cells:
        if load_scenario(cell.scenario).objective.slo is not None:
            found += [
                reported(f"{cell.name}: requests within the SLO under {label}", share(cell, label))
                for label in labels
            ]
    return found
