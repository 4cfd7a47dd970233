"""Shows a preemption measurement: tables beside the paper's, findings in words, and stacked bars."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd

from shunter.profiling.preemption_figures import PART_NAMES, overhead_bars, weights_figure
from shunter.profiling.preemption_rows import PARTS
from shunter.profiling.preemption_summary import line_over_models, paper_cells, summarise
from shunter.profiling.report_page import ReportTable, write_page

__all__ = ["findings", "preemption_results", "preemption_tables", "write_preemption_page"]

_PAPER = "arXiv 2605.19593, Tables II and III, as summarised (machine-written summaries of the text)"


def preemption_results(rows: pd.DataFrame) -> dict[str, Any]:
    """Everything that tables and pages show, as plain data."""
    models = summarise(rows)
    return {"models": models, "line_over_models": line_over_models(models), "paper": paper_cells()}


def findings(results: dict[str, Any]) -> list[str]:
    """The answers in words: does reload dominate, is it flat in the cut, do memory and tokens hold."""
    lines = [_finding(name, s) for name, s in results["models"].items()]
    line = results["line_over_models"]
    if line:
        lines.append(
            f"Over the models, A's own overhead is about {_seconds(line['intercept_s'])} + weights / "
            f"{line['bytes_per_s'] / 1e9:.2f} GB/s."
        )
    for name, s in results["models"].items():
        if s["tokens_equal"] < s["cycles"]:
            lines.append(
                f"{name}: in {s['cycles'] - s['tokens_equal']} of {s['cycles']} cycles the tokens differ "
                "from an uninterrupted run."
            )
        if s["memory_back"] < s["cycles"]:
            lines.append(
                f"{name}: in {s['cycles'] - s['memory_back']} of {s['cycles']} cycles the device's memory "
                "did not come back near its idle level after an unload."
            )
    return lines


def preemption_tables(results: dict[str, Any]) -> list[ReportTable]:
    """The tables, in the order of showing."""
    models = results["models"]
    tables = [_parts_table(models), _dependence_table(models), _paper_table(results), _kv_table(results)]
    predicted = {name: s["prediction"] for name, s in models.items() if s["prediction"]}
    if predicted:
        tables.append(_prediction_table(predicted))
    return tables


def write_preemption_page(
    rows: pd.DataFrame, results: dict[str, Any], path: str | os.PathLike[str], *, setting: str
) -> Path:
    """Writes the page: stacked bars of overhead by part over the cuts, one panel a model, and all tables.

    Args:
        rows: As from ``read_rows``.
        results: From ``preemption_results``.
        path: Of the HTML file.
        setting: What was measured on what, in a line.
    """
    return write_page(
        path,
        title="What preempting a model costs",
        paragraphs=[setting, *findings(results)],
        figures=[overhead_bars(rows), weights_figure(results)],
        tables=preemption_tables(results),
    )


def _finding(name: str, s: dict[str, Any]) -> str:
    text = f"{name}: {_mean(s)} a cycle, {s['swap_share']:.1%} of it unloading and loading weights"
    if not s["slope"]:
        return f"{text}; too few cuts to tell whether the cut matters."
    return (
        f"{text}; {_verdict(s['slope'])}: {_slope(s['slope'])} s per 1000 tokens, "
        f"{_change(s['change_over_cuts'])} of the overhead from the first cut to the last."
    )


def _verdict(slope: dict[str, float]) -> str:
    """In words; a few slow cycles move the least squares, so that both intervals have to leave 0 out."""
    squares = slope["low"] <= 0 <= slope["high"]
    robust = slope["robust_low"] <= 0 <= slope["robust_high"]
    if squares != robust:
        return "whether the cut matters depends on the method: one of the two intervals holds a flat line"
    return "a flat line fits the cuts" if robust else "the cut matters"


def _parts_table(models: dict[str, Any]) -> ReportTable:
    rows = [
        (name, *(_seconds(s["parts_mean_s"][part]) for part in PARTS), _seconds(s["overhead_mean_s"]))
        for name, s in models.items()
    ]
    note = (
        "Mean of all cycles. The first four are what preempting A itself costs; other is the time between "
        "the engine's calls."
    )
    columns = ("A", *PART_NAMES.values(), "overhead")
    return ReportTable("Overhead by part", columns, tuple(rows), note)


def _dependence_table(models: dict[str, Any]) -> ReportTable:
    rows = []
    for name, s in models.items():
        slopes = [_slope(s[key]) if s[key] else "-" for key in ("slope", "kv_slope")]
        robust = s["slope"]
        rows.append(
            (
                name,
                str(s["cycles"]),
                *slopes[:1],
                _interval(robust["robust_slope"], robust["robust_low"], robust["robust_high"])
                if robust
                else "-",
                slopes[1],
                _change(s["change_over_cuts"]) if s["change_over_cuts"] else "-",
                f"{s['tokens_equal']}/{s['cycles']}",
                f"{s['memory_back']}/{s['cycles']}",
            )
        )
    columns = ("A", "cycles", "overhead", "overhead, robust", "KV only", "first to last cut")
    note = (
        "Slopes in s per 1000 tokens with 95 % intervals: least squares, and the median of all pairs' slopes "
        "(robust)."
    )
    return ReportTable(
        "Does the cut point matter?", (*columns, "tokens equal", "memory back"), tuple(rows), note
    )


def _paper_table(results: dict[str, Any]) -> ReportTable:
    rows = [
        (
            name,
            "here",
            f"{s['weight_bytes'] / 1e9:.3f} GB",
            _mean(s),
            f"{s['swap_share']:.1%}",
            f"{s['kv_share']:.1%}",
            f"{s['overhead_of_baseline']:.1%}",
        )
        for name, s in results["models"].items()
    ]
    rows += [
        (
            cell["model"],
            f"paper, {cell['gpu']}",
            f"{cell['weight_bytes'] / 1e9:.1f} GB",
            f"{cell['overhead_s']:.2f} s",
            f"{cell['swap_share']:.1%}",
            f"{cell['kv_share']:.1%}",
            f"{cell['overhead_of_baseline']:.2%}",
        )
        for cell in results["paper"]
    ]
    columns = ("A", "measured", "weights", "overhead", "unload + load", "KV transfer", "of uninterrupted")
    note = f"Shares of the overhead; the last column against A's uninterrupted computation. {_PAPER}."
    return ReportTable("Beside the paper's six cells", columns, tuple(rows), note)


def _kv_table(results: dict[str, Any]) -> ReportTable:
    rows = []
    for name, s in results["models"].items():
        if s["kv_mode"] == "save":
            last = s["longest_cut"]
            rows.append(("here", name, last["cut_tokens"], last))
    paper = {cell["model"]: cell for cell in results["paper"]}.values()
    rows += [("paper", cell["model"], 5000.0, cell) for cell in paper]
    texts = tuple(
        (
            model,
            where,
            f"{tokens:.0f}",
            f"{kv['kv_bytes'] / 1e6:.1f} MB",
            *(_copied(kv["kv_bytes"], kv[key]) for key in ("kv_save_s", "kv_restore_s")),
        )
        for where, model, tokens, kv in rows
    )
    columns = ("A", "measured", "cut at", "KV", "KV save", "KV restore")
    note = f"At the last cut; medians here. {_PAPER}; its GPU is not stated there."
    return ReportTable("KV migration", columns, texts, note)


def _prediction_table(predicted: dict[str, Any]) -> ReportTable:
    rows = tuple(
        (
            name,
            _seconds(p["own_mean_s"]),
            f"{_seconds(p['predicted_mean_s'])} [{_seconds(p['low_mean_s'])}, {_seconds(p['high_mean_s'])}]",
            f"{p['bias']:+.1%}",
            f"{p['mape']:.1%}",
            f"{p['inside_interval']:.0%}",
            f"{p['out_of_range']:.0%}",
        )
        for name, p in predicted.items()
    )
    columns = ("A", "measured", "predicted", "off by", "mean error", "inside", "beyond its data")
    note = (
        "A's own part of the overhead (KV save, unload, load, KV restore): predicted before it was measured. "
        "Inside: cycles within the predicted 90 % interval."
    )
    return ReportTable("The performance model's prediction", columns, rows, note)


def _seconds(value: float) -> str:
    return f"{value * 1e3:.1f} ms" if abs(value) < 1 else f"{value:.3f} s"


def _mean(s: dict[str, Any]) -> str:
    half = "" if s["overhead_ci_s"] is None else f" ± {_seconds(s['overhead_ci_s'])}"
    return f"{_seconds(s['overhead_mean_s'])}{half}"


def _slope(slope: dict[str, float]) -> str:
    return _interval(slope["slope"], slope["low"], slope["high"])


def _change(change: dict[str, float]) -> str:
    return f"{change['slope']:+.1%} [{change['low']:+.1%}, {change['high']:+.1%}]"


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def _copied(kv_bytes: float, seconds: float) -> str:
    rate = f", {kv_bytes / seconds / 1e9:.1f} GB/s" if seconds > 0 else ""
    return f"{seconds * 1e3:.1f} ms{rate}"
