"""A comparison of evaluations as tables, as a page and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import plotly.graph_objects as go

from shunter.eval.compare import Change, Comparison
from shunter.eval.metrics.load_curves import load_curves
from shunter.report.figures import error_bars
from shunter.report.page import PALETTE, ReportTable, Section, write_page_and_markdown
from shunter.report.words import MODES, best_text, format_metric, verdict
from shunter.uncertainty import UNDECIDED, said

__all__ = [
    "changes_table",
    "comparison_words",
    "figures_words",
    "load_words",
    "marks_table",
    "metric_table",
    "run_words",
    "write_comparison",
]


def comparison_words(comparison: Comparison) -> list[str]:
    """What came of it, in words made from the figures."""
    lines = []
    for number in range(2, len(comparison.runs) + 1):
        changes = [c for c in comparison.changes if c.run == number]
        parts = []
        for mode in MODES:
            here = [c for c in changes if c.mode == mode and not c.refused]
            if here:
                parts.append(f"{mode}, {_counts(here)}")
        refused = list(dict.fromkeys(c.refused for c in changes if c.refused))
        parts += [f"not paired: {reason}" for reason in refused]
        if not changes:
            parts.append("it shares no policy with run 1 in the same mode")
        unlike = list(
            dict.fromkeys(m.what for m in comparison.marks if m.run == number and set(m.touches) & set(MODES))
        )
        if unlike:
            parts.append(f"not alike in {', '.join(unlike)}, which may be what moved the figures")
        lines.append(f"Run {number}: {'; '.join(parts)}.")
    return lines


def _counts(changes: Sequence[Change]) -> str:
    """How many policies moved which way."""
    names: dict[str, list[str]] = {}
    for c in changes:
        # Not a claim of an interval: every request was answered as in run 1.
        same = "exactly as in run 1" if c.low == c.high == 0 else f"{UNDECIDED} against run 1"
        by = "than in run 1 by more than chance"
        kind = said(c.low, c.high, below=f"sooner {by}", above=f"later {by}", undecided=same)
        names.setdefault(kind, []).append(c.policy)
    return "; ".join(f"{kind}: {', '.join(policies)}" for kind, policies in names.items())


def figures_words(comparison: Comparison) -> list[str]:
    """How much the mean responses changed, a line for each run and mode."""
    lines = []
    for number in range(2, len(comparison.runs) + 1):
        for mode in MODES:
            here = [c for c in comparison.changes if (c.run, c.mode) == (number, mode) and not c.refused]
            if here:
                changes = ", ".join(f"{c.policy} {change_words(c)}" for c in here)
                lines.append(f"Mean response of run {number} against run 1, {mode}: {changes}.")
    return lines


def run_words(comparison: Comparison) -> list[str]:
    """What is compared, a line a run."""
    lines = []
    for number, source, scenario, *rest in runs_table(comparison).rows:
        names = runs_table(comparison).columns[3:]
        facts = (f"{name} {text}" for name, text in zip(names, rest, strict=True))
        lines.append(f"run {number}: {source}: {scenario}, {', '.join(facts)}")
    return lines


def runs_table(comparison: Comparison) -> ReportTable:
    """What is compared."""
    rows = []
    for number, run in enumerate(comparison.runs, 1):
        made = run.result["provenance"]
        performance = (made.get("performance") or {}).get("digest") or "-"
        engine = made.get("engine_version") or f"{run.result['scenario']['engine']} (not run)"
        rate = run.result.get("rate_per_s")
        rows.append(
            (
                str(number),
                run.source,
                run.result["scenario"]["name"],
                "-" if rate is None else f"{rate:.4g}/s",
                str(len(run.result["seeds"])),
                engine,
                performance,
                made.get("commit") or "-",
                made.get("created_utc") or "-",
            )
        )
    columns = ("run", "source", "scenario", "rate", "seeds", "engine", "performance model", "commit", "when")
    return ReportTable("Runs", columns, tuple(rows), prose=True)


def metric_table(comparison: Comparison, metric: str) -> ReportTable | None:
    """One metric: a row per policy and mode, a column per run; None if no run has it."""
    rows = []
    for policy in comparison.policies:
        for mode in MODES:
            values = [run.metric(policy, mode, metric) for run in comparison.runs]
            if not all(map(math.isnan, values)):
                rows.append((policy, mode, *(format_metric(metric, value) for value in values)))
    if not rows:
        return None
    columns = ("policy", "mode", *(f"run {n}" for n in range(1, len(comparison.runs) + 1)))
    name = comparison.metrics[metric]
    return ReportTable(f"{name[:1].upper()}{name[1:]}", columns, tuple(rows))


def changes_table(comparison: Comparison) -> ReportTable | None:
    """Paired differences; None if no run shares a policy with the first."""
    rows = []
    for c in comparison.changes:
        unlike = ", ".join(c.marked) or "-"
        rows.append((str(c.run), c.policy, c.mode, str(c.sequences), change_words(c), unlike))
    note = (
        "Change of the mean response against run 1, on the same requests, with its 95 % paired bootstrap "
        "interval over request sequences: negative = lower response = better. Real changes have none: of two "
        "times of a machine no spread is known. A figure is marked by all that is unlike besides."
    )
    columns = ("run", "policy", "mode", "sequences", "change against run 1", "unlike besides")
    return ReportTable("Paired differences", columns, tuple(rows), note, prose=True) if rows else None


def change_words(change: Change) -> str:
    """The change with its interval, or why there is none."""
    if change.refused:
        return f"refused: {change.refused}"
    if math.isnan(change.low):
        return f"{change.change:+.1%} (no interval)"
    return f"{change.change:+.1%} [{change.low:+.1%}, {change.high:+.1%}]"


def marks_table(comparison: Comparison) -> ReportTable | None:
    """What is unlike; None if nothing is."""
    rows = tuple(
        (str(m.run), m.what, m.first, m.other, " and ".join(m.touches) or "none") for m in comparison.marks
    )
    columns = ("run", "unlike in", "run 1", "this run", "touches figures")
    return ReportTable("What is not alike", columns, rows, prose=True) if rows else None


def load_words(comparison: Comparison) -> list[str]:
    """What several loads came to in words: the best policy of each, then each by itself."""
    results = [run.result for run in comparison.runs]
    best = "; ".join(f"{best_text(r)} at {r['rate_per_s']:.4g} requests/s" for r in results)
    each = [f"At {r['rate_per_s']:.4g} requests/s. {line}" for r in results for line in verdict(r)]
    return [f"Lowest mean response: {best}.", *each]


def write_comparison(
    comparison: Comparison, path: Path, *, title: str, lines: Sequence[str] | None = None
) -> Path:
    """Writes the page, and the same as Markdown beside it.

    Args:
        comparison: The comparison to show.
        path: Path of the page.
        title: Title of the page.
        lines: What it says first; None: ``comparison_words``.
    """
    lines = comparison_words(comparison) if lines is None else lines
    sections = list(_sections(comparison))
    return write_page_and_markdown(path, title=title, paragraphs=lines, sections=sections)


def _sections(comparison: Comparison) -> Iterator[Section]:
    first = [runs_table(comparison), marks_table(comparison)]
    yield Section("What is compared", tables=tuple(t for t in first if t is not None))
    changes = changes_table(comparison)
    if changes is not None:
        figure = _changes_figure(comparison)
        yield Section(
            "Paired differences", figures=(figure,) if figure else (), tables=(replace(changes, title=""),)
        )
    yield load_curves([run.result for run in comparison.runs])
    tables = (metric_table(comparison, metric) for metric in comparison.metrics)
    yield Section("Metrics side by side", tables=tuple(t for t in tables if t is not None))


def _changes_figure(comparison: Comparison) -> go.Figure | None:
    figure = go.Figure()
    for number in range(2, len(comparison.runs) + 1):
        shown = [c for c in comparison.changes if c.run == number and not c.refused]
        if shown:
            figure.add_bar(
                orientation="h",
                name=f"run {number}",
                y=[f"{c.policy}, {c.mode}" for c in shown],
                x=[c.change for c in shown],
                marker={"color": PALETTE[number - 2], "opacity": 0.5},
                error_x=error_bars(((c.change, c.low, c.high) for c in shown), color="#333", thickness=1.5),
                customdata=[change_words(c) for c in shown],
                hovertemplate="%{y}: %{customdata}<extra></extra>",
            )
    if not figure.data:
        return None
    bars = sum(len(trace.y) for trace in figure.data)
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_xaxes(title_text="change of the mean response against run 1", tickformat="+.0%")
    return figure.update_layout(template="plotly_white", height=200 + 24 * bars, showlegend=True)
