"""The picture and the tables beside the JSON of ``python -m benchmarks.policies``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.form import Row
from benchmarks.paired import paired
from benchmarks.policy_cells import Cell, kinds
from benchmarks.policy_grid import Grid, Square, colour, write_grids
from benchmarks.policy_results import Results
from benchmarks.policy_runs import Figures, Waits
from shunter.report.words import decided_text

__all__ = ["conclusions", "write_picture", "write_tables"]

PARTS = ("all cells", "several devices", "one device", "held-out models, GPUs, trace")
"""Groups of cells of which rows compare policies."""


def conclusions(rows: Sequence[Row], judged: Sequence[str], best: str) -> tuple[str, list[str]]:
    """A title that says how the first policy stands against the best baseline, and lines that say where.

    Args:
        rows: Rows of the benchmark; there, how much lower a policy is counts as positive.
        judged: Labels of the policies that the rows are of.
        best: Label of the best single baseline.
    """
    by, titles, lines = {row.metric: row for row in rows}, [], []
    for label in judged:
        found = {part: _turned(by.get(f"{part}: {label} lower than {best} by")) for part in PARTS}
        known = [f"{part} {text}" for part, text in found.items() if text]
        if known:
            titles.append(f"{label} {found[PARTS[0]]}" if found[PARTS[0]] else "")
            lines.append(f"{label} against {best}: {'; '.join(known)}.")
            lines += _in_each_cell(by, label)
    first = next(filter(None, titles), "")
    return (f"Mean response against {best}: {first}" if first else "Policies in cells"), lines


def _in_each_cell(by: Mapping[str, Row], label: str) -> list[str]:
    """Against the best baseline of each cell: on average, and in how many it is better and worse."""
    text = _turned(by.get(f"each cell: {label} lower than its best baseline by"))
    parts = [f"geometric mean {text}"] if text else []
    start = f"cells where {label} is "
    for row in by.values():
        if row.value is not None and row.metric.startswith(f"{start}significantly"):
            kind = row.metric.removeprefix(start).replace("the best baseline there", "it")
            parts.append(f"{kind} in {row.value:.0f} ({row.note})")
    if not parts:
        return []
    return [f"{label} against the best baseline of each cell, chosen with hindsight: {'; '.join(parts)}."]


def _turned(row: Row | None) -> str:
    """How much lower as a change of the mean response: negative is lower."""
    if row is None or row.value is None:
        return ""
    low, high = (None, None) if row.interval is None else (-row.interval[1], -row.interval[0])
    return decided_text({"change": -row.value, "low": low, "high": high})


def write_picture(
    path: Path, results: Results, judged: Sequence[str], seeds: int, rows: Sequence[Row] = ()
) -> None:
    """Writes heat maps of cells and policies: mean responses, p99.9 waits and the longest of any model.

    Args:
        path: HTML file.
        results: All results.
        judged: Labels that come first.
        seeds: How many seeds each cell has.
        rows: Rows of the benchmark, which the page's conclusions are made from.
    """
    labels = [*judged, *_by_mean(results, [label for label in results.labels if label not in judged])]
    best = results.best
    title, lines = conclusions(rows, judged, best)
    paragraphs = [
        *lines,
        "Changes are of the mean response, geometric means over cells, with paired 95 % intervals: negative "
        "= lower = better; undecided where the interval holds zero.",
        f"Each cell: {seeds} request sequences that nothing was tuned or trained on, the same for every "
        f"policy; × is relative to {best}, the best single baseline (tuned on other requests). Blue is "
        "lower, red higher, full at half and double. A frame marks the lowest of the heuristics that see "
        "what a server sees. Hatched: some run had not drained after ten times its arrivals.",
    ]
    response: Callable[[Figures], float] = lambda figures: figures.mean_s  # noqa: E731
    wait: Callable[[Figures], float] = lambda figures: figures.waits.p99_9_s  # noqa: E731
    worst: Callable[[Figures], float] = lambda figures: figures.longest[1]  # noqa: E731
    grids = [
        _grid("Mean response", "Under the pointer: seconds.", results, labels, response),
        _grid("p99.9 wait for a first token", "Over all requests of a cell.", results, labels, wait),
        _grid("Longest wait of any model", "For a first token; waits.csv has all.", results, labels, worst),
    ]
    write_grids(path, title, paragraphs, grids)


def write_tables(json: Path, results: Results, guard_off: Mapping[str, str]) -> None:
    """Writes ``.cells.csv``, one row per cell and policy, and ``.waits.csv``, one per model too.

    Args:
        json: File beside which the tables are written.
        results: All results.
        guard_off: By label of a policy, the label of the same one in worlds without their guard.
    """
    cell_rows, wait_rows = [], []
    for (cell, label), figures in results.figures.items():
        head = {"scenario": cell.scenario, "load": cell.load, "policy": label}
        free = results.figures.get((cell, guard_off.get(label, "")))
        cell_rows.append({**head, **_figures(figures), **_guard_cost(figures, free)})
        for model, waits in figures.model_waits.items():
            allowed_s = round(figures.allowed_waits_s[model], 2)
            wait_rows.append({**head, "model": model, **_waits(waits), "allowed_wait_s": allowed_s})
    pd.DataFrame(cell_rows).to_csv(json.with_suffix(".cells.csv"), index=False)
    pd.DataFrame(wait_rows).to_csv(json.with_suffix(".waits.csv"), index=False)


def _figures(figures: Figures) -> dict[str, object]:
    slo = figures.slo_attainment
    return {
        "mean_response_s": round(float(np.mean(figures.response_s)), 3),
        "unstable_runs": sum(not one for one in figures.stable),
        **_waits(figures.waits),
        "max_wait_time_scales": round(figures.waits.max_s / figures.time_scale_s, 2),
        "max_wait_model": figures.longest[0],
        "guard_s": round(figures.guard_s, 2),
        "slo_attainment": round(float(np.mean(slo)), 4) if slo else None,
        "swaps": round(figures.swaps, 1),
        "preemptions": round(figures.preemptions, 1),
    }


def _waits(waits: Waits) -> dict[str, float]:
    return {
        "p99_wait_s": round(waits.p99_s, 2),
        "p99_9_wait_s": round(waits.p99_9_s, 2),
        "max_wait_s": round(waits.max_s, 2),
    }


def _guard_cost(figures: Figures, free: Figures | None) -> dict[str, float | None]:
    """Mean response with the guard over that without, and both ends of the paired interval."""
    names = ("guard_on_over_off", "guard_on_over_off_low", "guard_on_over_off_high")
    if free is None or not figures.drained or not free.drained:
        return dict.fromkeys(names)
    found = paired(np.array([figures.response_s]), np.array([free.response_s]))
    return dict(zip(names, (round(1 + x, 4) for x in (found.change, *found.interval())), strict=True))


def _by_mean(results: Results, labels: Sequence[str]) -> list[str]:
    """Labels by their geometric mean where they are stable; of equals the more often stable one first."""

    def rank(label: str) -> tuple[int, float]:
        found = results.compare(label, results.best, results.cells)
        return len(found.unstable), np.inf if found.paired is None else found.paired.change

    return sorted(labels, key=rank)


def _grid(
    title: str, note: str, results: Results, labels: Sequence[str], figure: Callable[[Figures], float]
) -> Grid:
    rows = [(_heading(cell), _squares(results, cell, labels, figure)) for cell in results.cells]
    means = tuple(_mean_square(results, label, figure) for label in labels)
    return Grid(title, note, tuple(labels), (("geometric mean, cells where both are stable", means), *rows))


def _heading(cell: Cell) -> str:
    marks = "".join(f" · {kind}" for kind in kinds(cell.scenario) if kind in ("several devices", "held out"))
    return cell.name + marks


def _squares(
    results: Results, cell: Cell, labels: Sequence[str], figure: Callable[[Figures], float]
) -> tuple[Square, ...]:
    base = results.figures[cell, results.best]
    candidates = [
        c.label for c in results.contenders if c.heuristic and results.figures[cell, c.label].drained
    ]
    lowest = min(candidates, key=lambda label: figure(results.figures[cell, label]), default=None)
    return tuple(
        _square(results.figures[cell, label], base, figure, f"{cell.name}, {label}", label == lowest)
        for label in labels
    )


def _square(
    mine: Figures, base: Figures, figure: Callable[[Figures], float], where: str, lowest: bool
) -> Square:
    if not mine.drained:
        return Square(f"{sum(not one for one in mine.stable)} unstable", title=where)
    ratio = figure(mine) / figure(base) if base.drained and figure(base) > 0 else np.nan
    text = f"{ratio:.2f}" if np.isfinite(ratio) else f"{figure(mine):.3g} s"
    shade = colour(max(ratio, 1e-3)) if np.isfinite(ratio) else "#eee"
    return Square(text, shade, f"{where}: {figure(mine):.4g} s", lowest)


def _mean_square(results: Results, label: str, figure: Callable[[Figures], float]) -> Square:
    pairs = [(results.figures[cell, label], results.figures[cell, results.best]) for cell in results.cells]
    ratios = [
        figure(a) / figure(b) for a, b in pairs if a.drained and b.drained and figure(a) * figure(b) > 0
    ]
    if not ratios:
        return Square("unstable")
    mean = float(np.exp(np.mean(np.log(ratios))))
    some = f" ({len(ratios)})" if len(ratios) < len(pairs) else ""
    return Square(f"{mean:.2f}{some}", colour(mean), f"{label}: over {len(ratios)} cells")
