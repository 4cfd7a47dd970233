"""Rows of ``python -m benchmarks.policies`` about waiting: long waits, starvation, the cost of the guard."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.form import Row, at_most, reported
from benchmarks.policy_cells import Cell
from benchmarks.policy_results import Results
from benchmarks.policy_rows import by_kind, of_kind, times_row
from benchmarks.policy_waits import ALLOWANCE

__all__ = ["guard_rows", "longest_rows", "starved_rows", "wait_rows"]

QUANTILES = {"p99": 0.99, "p99.9": 0.999}

STARVATION = "starvation"


def wait_rows(results: Results, mine: str, greedy: str) -> list[Row]:
    """A policy's long waits against tuned cost-greedy's: over all cells with a bar, then for each kind."""
    rows = []
    for name, share in QUANTILES.items():
        found = results.compare_waits(mine, greedy, results.cells, share)
        note = f"geometric mean over {len(found.cells)} cells"
        metric = f"{name} wait for a first token: {mine} × of {greedy}"
        rows.append(at_most(times_row(metric, found, note), 1.0))
    for kind, scenarios, cells in by_kind(results.cells):
        for name, share in QUANTILES.items():
            found = results.compare_waits(mine, greedy, cells, share)
            metric = f"{kind} ({scenarios} scenarios): {name} wait, {mine} × of {greedy}"
            rows.append(times_row(metric, found, f"geometric mean over {len(found.cells)} cells"))
    return rows


def longest_rows(results: Results) -> list[Row]:
    """The longest wait under each policy, where it is stable."""
    rows = []
    for label in results.labels:
        stable = [cell for cell in results.cells if results.figures[cell, label].drained]
        worst = max(stable, key=lambda cell: results.figures[cell, label].longest[1], default=None)
        metric = f"longest wait for a first token under {label}"
        if worst is None:
            rows.append(reported(metric, None, "s", note="unstable everywhere"))
        else:
            model, wait_s = results.figures[worst, label].longest
            note = f"{model} in {worst.name}; of {len(stable)} stable cells"
            rows.append(reported(metric, wait_s, "s", note=note))
    return rows


def starved_rows(results: Results) -> list[Row]:
    """Whether every policy keeps the guard where a model would starve; nothing where there is no such cell.

    An episode that was cut off counts too: its requests waited at least that long. What is allowed is of
    predicted durations, so policies where durations are drawn are left out.
    """
    cells = of_kind(results.cells, STARVATION)
    guarded = [c for c in results.contenders if c.guard and not c.noise]
    return [_starved_row(results, contender.label, cells) for contender in guarded if cells]


def _starved_row(results: Results, label: str, cells: Sequence[Cell]) -> Row:
    excess = {
        (cell, model): waits.max_s - results.figures[cell, label].allowed_waits_s[model]
        for cell in cells
        for model, waits in results.figures[cell, label].model_waits.items()
    }
    cell, model = max(excess, key=lambda key: excess[key])
    figures = results.figures[cell, label]
    above = [f"{c.name} {m} {by_s:+.1f} s" for (c, m), by_s in excess.items() if by_s > 0]
    note = f"{model} in {cell.name}: {figures.model_waits[model].max_s:.1f} s of "
    note += f"{figures.allowed_waits_s[model]:.1f} s allowed, guard {figures.guard_s:.1f} s; "
    note += f"{len(cells)} cells; {ALLOWANCE}" + (f"; above: {', '.join(above)}" if above else "")
    metric = f"{STARVATION}: longest wait of any model under {label} beyond what the guard allows"
    worst_s = excess[cell, model]
    row = reported(metric, worst_s if np.isfinite(worst_s) else None, "s", note=note)
    return at_most(row, 0)


def guard_rows(results: Results, on: str, off: str) -> list[Row]:
    """What the guard costs a policy in mean response, and what it does to waits.

    Args:
        results: Results of both policies.
        on: Label of the policy in worlds with their guard.
        off: Label of the same policy without.
    """
    rows = [_guard_row(results, on, off, "all cells", results.cells)]
    for kind, scenarios, cells in by_kind(results.cells):
        rows.append(_guard_row(results, on, off, f"{kind} ({scenarios} scenarios)", cells))
    known = {cell: results.compare(on, off, [cell]) for cell in results.cells}
    costs = {cell: found.paired.change for cell, found in known.items() if found.paired is not None}
    if costs:
        cell = max(costs, key=lambda one: costs[one])
        rows.append(_guard_row(results, on, off, f"most of {len(costs)} cells, {cell.name}", [cell]))
    return rows


def _guard_row(results: Results, on: str, off: str, where: str, cells: Sequence[Cell]) -> Row:
    found = results.compare(on, off, cells)
    note = f"over {len(found.cells)} cells; p99.9 wait × {results.times_waits(on, off, cells):.3g}, "
    note += f"longest × {_longest(results, on, off, found.cells):.3g}"
    if found.unstable:
        note += "; kept out, unstable: " + ", ".join(cell.name for cell in found.unstable)
    return times_row(f"guard, {where}: {on} × of {off}, mean response", found, note)


def _longest(results: Results, on: str, off: str, cells: Sequence[Cell]) -> float:
    """Geometric mean over cells of the longest waits' ratio; NaN without any."""
    pairs = [[results.figures[cell, label].waits.max_s for label in (on, off)] for cell in cells]
    logs = [np.log(a / b) for a, b in pairs if min(a, b) > 0]
    return float(np.exp(np.mean(logs))) if logs else np.nan
