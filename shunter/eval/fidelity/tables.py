"""Simulation beside reality as tables, for a terminal, a page, or Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

from shunter.eval.metrics.starvation import ALL
from shunter.report.page import ReportTable
from shunter.sinks import markdown
from shunter.uncertainty import UNDECIDED

__all__ = ["fidelity_markdown", "fidelity_tables", "fidelity_verdict"]

Plain = dict[str, Any]

OFF_PACE = 0.15
"""Share by which all operations together may take longer or shorter than predicted before it is said."""

ALIKE = 1.3
"""Kinds of operations whose paces differ by less than this factor were slowed down alike."""


def fidelity_tables(result: Plain, statistics: Sequence[str] | None = None) -> list[ReportTable]:
    """All tables of the comparison; none without real runs, or where it was refused.

    Args:
        result: From ``Evaluation.to_dict``.
        statistics: Statistics of requests to show, such as ``mean``; None: all.
    """
    found = result.get("fidelity")
    if found is None or found["refused"]:
        return []
    tables = [_operations(found), _requests(found, result["policies"], statistics), _phases(found)]
    if found["ranking"] is not None:
        tables.append(_pairs(found["ranking"]))
    return tables


def statistics_table(result: Plain) -> ReportTable:
    """Each policy against the first over request sequences, and the worst wait of each model."""
    rows = []
    for name, policy in result["policies"].items():
        for kind in ("simulated", "real"):
            if kind in policy:
                found, waits = policy[kind]["statistics"], policy[kind]["waits"]
                worst = ", ".join(f"{m} {_seconds(w['max_s'])}" for m, w in waits.items() if m != ALL)
                quicker = _share(found["profile"]["1.0"])
                figures = (_ratio(found["iqm"]), _share(found["probability_of_improvement"]), quicker)
                rows.append((f"{name}, {kind}", *figures, f"{policy[kind]['jain_index']:.3f}", worst))
    against = result["changes_against"]
    columns = ("policy", "IQM", "improvement", "not slower in", "Jain's index", "worst wait by model")
    note = f"IQM, probability of improvement, and the share of request sequences: against {against}."
    return ReportTable("Policies over request sequences", columns, tuple(rows), note)


def fidelity_verdict(result: Plain) -> list[str]:
    """The comparison in words; each line names its numbers."""
    found = result.get("fidelity")
    if found is None:
        return []
    if found["refused"]:
        return [f"Simulation and reality are not compared: {reason}." for reason in found["refused"]]
    slowdown = (result.get("machine") or {}).get("slowdown")
    parts = (_nearness(found), _pace(found["operations"], slowdown), _order(found["ranking"]))
    lines = [line for line in parts if line]
    return [*lines, *(f"Note: {note}." for note in found["notes"])]


def fidelity_markdown(result: Plain, title: str) -> str:
    """A page of Markdown: findings, tables, definitions."""
    tables = [*fidelity_tables(result), statistics_table(result)]
    parts = [f"# {markdown(title)}", *map(markdown, fidelity_verdict(result))]
    parts += [f"## {markdown(table.title)}\n\n{table.to_markdown()}" for table in tables]
    words = "\n".join(f"- **{word}**: {meaning}" for word, meaning in result["definitions"].items())
    return "\n\n".join([*parts, "## What the words mean", words]) + "\n"


def _nearness(found: Plain) -> str:
    rows = [r for r in found["requests"] if (r["quantity"], r["statistic"]) == ("response", "mean")]
    errors = sorted((abs(r["error"]), r["policy"]) for r in rows if r["error"] is not None)
    if not errors:
        return ""
    middle, worst = median([error for error, _ in errors]), errors[-1]
    noise = [r["noise"] for r in rows if r["noise"] is not None]
    beside = f"; two real runs on the same requests differ by {median(noise):.1%}" if noise else ""
    return (
        f"Mean response: simulation is {middle:.1%} off at the median policy, {worst[0]:.1%} at worst "
        f"({worst[1]}){beside}."
    )


def _pace(operations: Sequence[Plain], slowdown: float | None) -> str:
    """How much longer operations took than predicted, where that is much, and whether all kinds did alike.

    Args:
        operations: Rows of ``OperationFidelity``.
        slowdown: What the sentinel saw of the machine, which is said elsewhere; None: nobody measured it.
    """
    ratio = {
        row["operation"]: row["measured_s"] / row["predicted_s"]
        for row in operations
        if row["devices"] == "any" and row["predicted_s"] > 0
    }
    whole = ratio.pop("all", 1.0)
    if abs(math.log(max(whole, 1e-9) / (slowdown or 1.0))) <= math.log1p(OFF_PACE):
        return ""
    each = ", ".join(f"{name} {value:.2f}" for name, value in ratio.items())
    alike = max(ratio.values(), default=1.0) < ALIKE * min(ratio.values(), default=1.0)
    cause = (
        "all kinds alike, as on a machine that is slower or busier than when it was profiled"
        if alike
        else "by kind so unlike that a busy machine alone does not explain it"
    )
    if slowdown is not None:
        cause = f"the sentinel saw {slowdown:.2f} of it; the rest is the predictions' or fell between looks"
    return (
        f"Operations took {whole:.2f} times as long as predicted ({each}): {cause}. Run again when nothing "
        "else runs, profile anew, or let shunter calibrate follow these runs."
    )


def _order(ranking: Plain | None) -> str:
    if ranking is None:
        return ""
    tau = ranking["tau"]
    text = "undefined" if tau["value"] is None else f"{tau['value']:.2f}"
    interval = "" if tau["low"] is None else f" [{tau['low']:.2f}, {tau['high']:.2f}]"
    return (
        f"Order of policies: Kendall's tau {text}{interval}; of {len(ranking['pairs'])} pairs, "
        f"{ranking['significant']} differ significantly in reality, and simulation has the same sign in "
        f"{ranking['agreeing']} of these (intervals over {ranking['unit']}, each pair by itself)."
    )


def _operations(found: Plain) -> ReportTable:
    rows = [
        (
            row["operation"] if row["devices"] == "any" else f"{row['operation']}, {row['devices']}",
            str(row["spans"]),
            f"{row['measured_s']:.3g} s",
            f"{row['predicted_s']:.3g} s",
            _signed(row["error"]),
            _share(row["mean_error"]),
            _share(row["median_error"]),
        )
        for row in found["operations"]
    ]
    note = (
        "Spans of the event log by what they mostly hold; mean and median are of abs(error). Co-running: "
        "another device of the node was at work for most of the span."
    )
    columns = ("operation", "spans", "measured", "predicted", "error of the sum", "mean", "median")
    return ReportTable("Operations: predicted against measured", columns, tuple(rows), note)


def _requests(found: Plain, policies: Plain, statistics: Sequence[str] | None) -> ReportTable:
    rows = []
    for row in found["requests"]:
        if statistics is not None and row["statistic"] not in statistics:
            continue
        times = (_seconds(row["simulated_s"]), _seconds(row["real_s"]))
        what = f"{row['quantity']} {row['statistic']}"
        rows.append((row["policy"], what, *times, _signed(row["error"]), _share(row["noise"])))
    splits = {name: p["error_split"] for name, p in policies.items() if "error_split" in p}
    parts = "; ".join(
        f"{name} {_signed(s['durations'])} and {_signed(s['decisions'])}" for name, s in splits.items()
    )
    note = (
        "noise: reality against itself. Error of the mean response, what predicted durations make of it and "
        f"what deciding differently adds: {parts}"
    )
    columns = ("policy", "statistic", "simulated", "real", "error", "noise")
    return ReportTable("Requests: simulated against real", columns, tuple(rows), note)


def _phases(found: Plain) -> ReportTable:
    loads = {load["policy"]: load for load in found["loads"]}
    rows = []
    for row in found["phases"]:
        load = loads[row["policy"]]
        found_out = "saturated" if load["saturated"] else UNDECIDED
        growth = f"{_signed(load['simulated'])} and {_signed(load['real'])}"
        times = (_seconds(row["simulated_s"]), _seconds(row["real_s"]), _signed(row["error"]))
        rows.append((row["policy"], row["phase"], *times, growth, found_out))
    columns = ("policy", "phase", "simulated", "real", "error", "growth, simulated and real", "in reality")
    note = "Undecided: the backlog is not shown to grow by more than chance; few requests can show nothing."
    return ReportTable("Warm-up and saturation apart: mean response", columns, tuple(rows), note)


def _pairs(ranking: Plain) -> ReportTable:
    rows = []
    for pair in ranking["pairs"]:
        sign = "same" if pair["agrees"] else "OTHER"
        judged = sign if pair["significant"] else f"({sign})"
        changes = (_change(pair["real"]), _change(pair["simulated"]))
        rows.append((pair["policy"], pair["against"], *changes, judged))
    note = "In brackets: the pair does not differ significantly in reality."
    columns = ("policy", "against", "real change", "simulated change", "sign")
    return ReportTable("Pairs of policies: mean response", columns, tuple(rows), note)


def _change(interval: Plain) -> str:
    ends = "" if interval["low"] is None else f" [{interval['low']:+.1%}, {interval['high']:+.1%}]"
    return f"{_signed(interval['value'])}{ends}"


def _ratio(interval: Plain) -> str:
    ends = "" if interval["low"] is None else f" [{interval['low']:.3f}, {interval['high']:.3f}]"
    return "-" if interval["value"] is None else f"{interval['value']:.3f}{ends}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1%}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1e3:.1f} ms" if value < 0.1 else f"{value:.3f} s"
