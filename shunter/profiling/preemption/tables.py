"""Tables of a preemption measurement, beside the paper's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shunter.profiling.preemption.figures import PART_NAMES
from shunter.report.page import ReportTable

_PAPER = "arXiv 2605.19593, Tables II and III, as summarised (machine-written summaries of the text)"

_Cells = dict[str, Callable[[dict[str, Any]], str]]
"""Texts of a model's figures, by column."""


def preemption_tables(results: dict[str, Any]) -> list[ReportTable]:
    """The tables, in the order of showing."""
    models = results["models"]
    tables = [
        _table("Overhead by part", models, _PARTS, _PARTS_NOTE),
        _table("Does the cut point matter?", models, _DEPENDENCE, _DEPENDENCE_NOTE),
        _paper_table(results),
        _kv_table(results),
    ]
    predicted = {name: s["prediction"] for name, s in models.items() if s["prediction"]}
    if predicted:
        title = "The performance model's prediction"
        tables.append(_table(title, predicted, _PREDICTION, _PREDICTION_NOTE))
    return tables


def seconds_text(value: float) -> str:
    """Milliseconds below a second."""
    return f"{value * 1e3:.1f} ms" if abs(value) < 1 else f"{value:.3f} s"


def mean_text(s: dict[str, Any]) -> str:
    """Mean overhead of a model with its 95 % interval."""
    half = "" if s["overhead_ci_s"] is None else f" ± {seconds_text(s['overhead_ci_s'])}"
    return f"{seconds_text(s['overhead_mean_s'])}{half}"


def slope_text(slope: dict[str, float] | None, prefix: str = "") -> str:
    """With its interval; ``robust_`` is the prefix of the other one."""
    ends = slope and [slope[prefix + end] for end in ("slope", "low", "high")]
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*ends) if ends else "-"


def change_text(change: dict[str, float] | None) -> str:
    """With its interval, as a percentage."""
    return f"{change['slope']:+.1%} [{change['low']:+.1%}, {change['high']:+.1%}]" if change else "-"


def _mean_s(part: str) -> Callable[[dict[str, Any]], str]:
    return lambda s: seconds_text(s["parts_mean_s"][part])


_PARTS: _Cells = {
    **{name: _mean_s(part) for part, name in PART_NAMES.items()},
    "overhead": lambda s: seconds_text(s["overhead_mean_s"]),
    "loads": lambda s: f"{s['load_share']:.1%}",
}
_PARTS_NOTE = (
    "Mean of all cycles. The first four are what preempting A itself costs; other is the time between the "
    "engine's calls; loads is the share of both loads."
)
_DEPENDENCE: _Cells = {
    "cycles": lambda s: str(s["cycles"]),
    "overhead": lambda s: slope_text(s["slope"]),
    "overhead, robust": lambda s: slope_text(s["slope"], "robust_"),
    "KV only": lambda s: slope_text(s["kv_slope"]),
    "first to last cut": lambda s: change_text(s["change_over_cuts"]),
    "tokens equal": lambda s: f"{s['tokens_equal']}/{s['cycles']}",
    "memory back": lambda s: f"{s['memory_back']}/{s['cycles']}",
}
_DEPENDENCE_NOTE = (
    "Slopes in s per 1000 tokens with 95 % intervals: least squares, and the median of all pairs' slopes "
    "(robust)."
)
_PREDICTION: _Cells = {
    "measured": lambda p: seconds_text(p["own_mean_s"]),
    "predicted": lambda p: "{} [{}, {}]".format(
        *(seconds_text(p[f"{end}_mean_s"]) for end in ("predicted", "low", "high"))
    ),
    "off by": lambda p: f"{p['bias']:+.1%}",
    "mean error": lambda p: f"{p['mape']:.1%}",
    "inside": lambda p: f"{p['inside_interval']:.0%}",
    "beyond its data": lambda p: f"{p['out_of_range']:.0%}",
}
_PREDICTION_NOTE = (
    "A's own part of the overhead (KV save, unload, load, KV restore): predicted before it was measured. "
    "Inside: cycles within the predicted 90 % interval."
)


def _table(title: str, models: dict[str, Any], cells: _Cells, note: str) -> ReportTable:
    rows = tuple((name, *(text(s) for text in cells.values())) for name, s in models.items())
    return ReportTable(title, ("A", *cells), rows, note)


def _paper_table(results: dict[str, Any]) -> ReportTable:
    here = [
        (name, "here", f"{s['weight_bytes'] / 1e9:.3f} GB", *_shares(s, ".1%"))
        for name, s in results["models"].items()
    ]
    paper = [
        (s["model"], f"paper, {s['gpu']}", f"{s['weight_bytes'] / 1e9:.1f} GB", *_shares(s, ".2%"))
        for s in results["paper"]
    ]
    columns = ("A", "measured", "weights", "overhead", "unload + load", "KV transfer", "of uninterrupted")
    note = f"Shares of the overhead; the last column against A's uninterrupted computation. {_PAPER}."
    return ReportTable("Beside the paper's six cells", columns, (*here, *paper), note)


def _shares(s: dict[str, Any], of_baseline: str) -> tuple[str, ...]:
    mean = mean_text(s) if "overhead_mean_s" in s else f"{s['overhead_s']:.2f} s"
    whole = format(s["overhead_of_baseline"], of_baseline)
    return mean, f"{s['swap_share']:.1%}", f"{s['kv_share']:.1%}", whole


def _kv_table(results: dict[str, Any]) -> ReportTable:
    here = {name: s["longest_cut"] for name, s in results["models"].items() if s["kv_mode"] == "save"}
    paper = {cell["model"]: {**cell, "cut_tokens": 5000} for cell in results["paper"]}
    rows = tuple(
        (name, where, f"{kv['cut_tokens']:.0f}", f"{kv['kv_bytes'] / 1e6:.1f} MB", *_copies(kv))
        for where, cells in (("here", here), ("paper", paper))
        for name, kv in cells.items()
    )
    columns = ("A", "measured", "cut at", "KV", "KV save", "KV restore")
    note = f"At the last cut; medians here. {_PAPER}; its GPU is not stated there."
    return ReportTable("KV migration", columns, rows, note)


def _copies(kv: dict[str, float]) -> list[str]:
    times = [kv["kv_save_s"], kv["kv_restore_s"]]
    rates = [f", {kv['kv_bytes'] / s / 1e9:.1f} GB/s" if s > 0 else "" for s in times]
    return [f"{s * 1e3:.1f} ms{rate}" for s, rate in zip(times, rates, strict=True)]
