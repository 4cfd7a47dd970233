"""Rows of ``python -m benchmarks.policies``: the bars of a trained policy, and what else there is to know."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.form import Row, at_least, at_most, reported
from benchmarks.policy_cells import Cell, kinds
from benchmarks.policy_results import MARGIN, CellVerdict, Comparison, Results
from shunter.envs.scenario.scenario import load_scenario
from shunter.uncertainty import sign_of

__all__ = ["bar_rows", "baseline_rows", "cell_rows", "kind_rows", "lower_row", "noise_rows", "slo_rows"]
__all__ += ["specialist_rows", "times_row"]

SEVERAL, ONE, HELD_OUT = "several devices", "one device", "held out"
ALL_CELLS, GOAL = 0.15, "goal 20 %"
EACH_CELL = 0.06
"""Bar against the best baseline of each cell, chosen with hindsight."""

SPECIALISTS = 0.20


def bar_rows(results: Results, mine: str, greedy: str, fifo: str, keepalive: str) -> list[Row]:
    """A policy against all bars on mean responses.

    Args:
        results: Results of the policy and of all baselines.
        mine: Its label.
        greedy: Label of the tuned cost-greedy.
        fifo: Label of the tuned fifo-swap.
        keepalive: Label of the tuned lru-keepalive.
    """
    cells = results.cells
    one = [cell for cell in cells if SEVERAL not in kinds(cell.scenario)]
    first = _clear(lower_row("all cells", results, mine, results.best, cells, ALL_CELLS))
    found = results.compare_best(mine, cells)
    each = _lower(f"each cell: {mine} lower than its best baseline by", found, "chosen with hindsight")
    rows = [
        replace(first, note=f"{first.note}; {GOAL}"),
        lower_row(SEVERAL, results, mine, greedy, of_kind(cells, SEVERAL), 0.18),
        lower_row(ONE, results, mine, greedy, one, 0.12),
        lower_row(
            "held-out models, GPUs, trace", results, mine, results.best, of_kind(cells, HELD_OUT), 0.12
        ),
        at_least(each, EACH_CELL),
        lower_row("where stable", results, mine, fifo, cells, 0.40),
        lower_row("where stable", results, mine, keepalive, cells, 0.25),
        *_verdict_rows(results, mine, cells),
    ]
    starved = of_kind(cells, "starvation")
    if starved:
        rows.append(lower_row("starvation", results, mine, fifo, starved, 0.0))
    return rows + [row for kind in ("replicas", "skew") for row in _kind_verdict_rows(results, mine, kind)]


def specialist_rows(results: Results, mine: str, greedy: str) -> list[Row]:
    """Policies that were each trained for one scenario, against tuned cost-greedy."""
    return [lower_row("all cells", results, mine, greedy, results.cells, SPECIALISTS)]


def noise_rows(results: Results, greedy: str, drawn: Mapping[str, str]) -> list[Row]:
    """The same where durations are drawn: is the gain there if predictions are off as much as they may be?

    Args:
        results: Results of all policies, as predicted and drawn.
        greedy: Label of the tuned cost-greedy.
        drawn: By label, the label of the same policy where durations are drawn from the prediction intervals.
    """
    where, rows = "durations drawn from the prediction intervals, all cells", []
    for mine, label in drawn.items():
        if mine != greedy:
            gain = results.compare(label, drawn[greedy], results.cells)
            metric = f"{where}: {mine} lower than {greedy} by"
            rows.append(_lower(metric, gain, "mean response, geometric mean"))
        cost = results.compare(label, mine, results.cells)
        rows.append(times_row(f"{where}: {mine} × of as predicted", cost, f"over {len(cost.cells)} cells"))
    return rows


def of_kind(cells: Iterable[Cell], kind: str) -> list[Cell]:
    """Cells whose scenario is of a kind."""
    return [cell for cell in cells if kind in kinds(cell.scenario)]


def _kind_verdict_rows(results: Results, mine: str, kind: str) -> list[Row]:
    """Whether a policy is nowhere significantly worse in a kind of cells; nothing where there are none."""
    cells = of_kind(results.cells, kind)
    if not cells:
        return []
    verdicts = results.verdicts(mine, cells)
    worse = [v.cell.name for v in verdicts if v.significantly_worse]
    note = f"of {len(cells)} cells, Holm at 5 % over these: " + (", ".join(worse) or "none")
    metric = f"{kind}: cells where {mine} is significantly worse than the best baseline there"
    gain = _lower(
        f"{kind}: {mine} lower than the best baseline of each cell by",
        results.compare_best(mine, cells),
        "chosen with hindsight, geometric mean",
    )
    return [at_most(reported(metric, float(len(worse)), "cells", note=note), 0), gain]


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
    clear = row.interval is not None and sign_of(*row.interval) > 0
    return replace(row, bar=f"{row.bar}, interval clear of 0", ok=bool(row.ok) and clear)


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
    return [
        lower_row(f"{kind} ({scenarios} scenarios)", results, mine, theirs, cells)
        for kind, scenarios, cells in by_kind(results.cells)
    ]


def by_kind(cells: Sequence[Cell]) -> list[tuple[str, int, list[Cell]]]:
    """Every kind that there is, how many scenarios are of it, and their cells."""
    names = dict.fromkeys(kind for cell in cells for kind in kinds(cell.scenario))
    among = {kind: of_kind(cells, kind) for kind in names}
    return [(kind, len({cell.scenario for cell in some}), some) for kind, some in among.items()]


def baseline_rows(results: Results) -> list[Row]:
    """Every policy as a multiple of the best single baseline, in mean response and in p99.9 waits."""
    rows = []
    for contender in results.contenders:
        found = results.compare(contender.label, results.best, results.cells)
        times = results.times_waits(contender.label, results.best, results.cells)
        sees = "oracle; " if contender.oracle else ""
        unstable = sum(not results.figures[cell, contender.label].drained for cell in results.cells)
        note = f"{sees}{Path(contender.text).name}; unstable in {unstable} cells; p99.9 wait × {times:.3g}"
        rows.append(times_row(f"{contender.label} × of {results.best}", found, note))
    return rows


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
