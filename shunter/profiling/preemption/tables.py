"""Tables of a preemption measurement, beside the paper's."""

from __future__ import annotations

from typing import Any

from shunter.profiling.preemption.cycles import PARTS
from shunter.profiling.preemption.figures import PART_NAMES
from shunter.report.page import ReportTable

_PAPER = "arXiv 2605.19593, Tables II and III, as summarised (machine-written summaries of the text)"


def preemption_tables(results: dict[str, Any]) -> list[ReportTable]:
    """The tables, in the order of showing."""
    models = results["models"]
    tables = [_parts_table(models), _dependence_table(models), _paper_table(results), _kv_table(results)]
    predicted = {name: s["prediction"] for name, s in models.items() if s["prediction"]}
    if predicted:
        tables.append(_prediction_table(predicted))
    return tables


def _parts_table(models: dict[str, Any]) -> ReportTable:
    rows = [
        (
            name,
            *(seconds_text(s["parts_mean_s"][part]) for part in PARTS),
            seconds_text(s["overhead_mean_s"]),
            f"{s['load_share']:.1%}",
        )
        for name, s in models.items()
    ]
    note = (
        "Mean of all cycles. The first four are what preempting A itself costs; other is the time between "
        "the engine's calls; loads is the share of both loads."
    )
    columns = ("A", *PART_NAMES.values(), "overhead", "loads")
    return ReportTable("Overhead by part", columns, tuple(rows), note)


def _dependence_table(models: dict[str, Any]) -> ReportTable:
    rows = []
    for name, s in models.items():
        slopes = [slope_text(s[key]) if s[key] else "-" for key in ("slope", "kv_slope")]
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
                change_text(s["change_over_cuts"]) if s["change_over_cuts"] else "-",
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
            mean_text(s),
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
            seconds_text(p["own_mean_s"]),
            f"{seconds_text(p['predicted_mean_s'])} "
            f"[{seconds_text(p['low_mean_s'])}, {seconds_text(p['high_mean_s'])}]",
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


def seconds_text(value: float) -> str:
    """Milliseconds below a second."""
    return f"{value * 1e3:.1f} ms" if abs(value) < 1 else f"{value:.3f} s"


def mean_text(s: dict[str, Any]) -> str:
    """Mean overhead of a model with its 95 % interval."""
    half = "" if s["overhead_ci_s"] is None else f" ± {seconds_text(s['overhead_ci_s'])}"
    return f"{seconds_text(s['overhead_mean_s'])}{half}"


def slope_text(slope: dict[str, float]) -> str:
    """With its interval."""
    return _interval(slope["slope"], slope["low"], slope["high"])


def change_text(change: dict[str, float]) -> str:
    """With its interval, as a percentage."""
    return f"{change['slope']:+.1%} [{change['low']:+.1%}, {change['high']:+.1%}]"


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def _copied(kv_bytes: float, seconds: float) -> str:
    rate = f", {kv_bytes / seconds / 1e9:.1f} GB/s" if seconds > 0 else ""
    return f"{seconds * 1e3:.1f} ms{rate}"
