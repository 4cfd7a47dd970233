"""A replay in words, as tables, and as a page."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from shunter.eval.traffic.replay import Replayed
from shunter.report.page import COLOURS, ReportTable, write_page
from shunter.uncertainty import Interval

__all__ = ["replay_tables", "replay_words", "write_replay"]


def replay_words(replayed: Replayed) -> list[str]:
    """What simulation says against what happened, the answer first, then what would have been."""
    figures, error = replayed.figures(), replayed.error
    mean = figures.loc["mean response"]
    lines = [
        f"mean response {mean['simulated_s']:.3g} s simulated, {mean['real_s']:.3g} s real: "
        f"{_change(error)} ({len(replayed.requests)} requests in {_time(replayed.span_s)}, {replayed.policy})"
    ]
    quantiles = figures.loc[[name for name in figures.index if name.startswith("p")]]
    ends = (f"{name} {row['simulated_s']:.3g} / {row['real_s']:.3g} s" for name, row in quantiles.iterrows())
    real_loads = "unknown" if replayed.real_loads is None else replayed.real_loads
    lines.append(
        f"simulated / real: {', '.join(ends)}; loads {replayed.loads[replayed.policy]} / {real_loads}"
    )
    for name in replayed.others:
        mean_s, change = replayed.simulated_s(name).mean(), _change(replayed.change(name))
        lines.append(
            f"{name} would have been {mean_s:.3g} s: {change} against {replayed.policy}, both simulated; "
            f"loads {replayed.loads[name]}"
        )
    lines += [one.words for one in replayed.shadows]
    if replayed.left_out:
        lines.append(f"note: {replayed.left_out} requests are played and not compared (cut short)")
    if not replayed.measured:
        lines.append("note: no load was measured: loads take what the performance model says")
    return lines


def replay_tables(replayed: Replayed) -> list[ReportTable]:
    """Every figure simulated and real, and what loads took."""
    rows = [
        (
            str(name),
            f"{row['requests']:.0f}",
            f"{row['simulated_s']:.3f} s",
            f"{row['real_s']:.3f} s",
            f"{row['simulated_s'] / row['real_s'] - 1:+.1%}" if row["real_s"] else "-",
        )
        for name, row in replayed.figures().iterrows()
    ]
    columns = ("", "requests", "simulated", "real", "error")
    tables = [ReportTable(f"Simulated against real, {replayed.policy}", columns, tuple(rows))]
    loads = [
        (
            f"{one.model} on {one.device}",
            str(one.loads),
            f"{one.measured_s:.3f} s",
            f"{one.predicted_s:.3f} s",
        )
        for one in replayed.measured
    ]
    if loads:
        note = "The simulation's loads take what was measured."
        heads = ("load of", "loads", "measured, median", "predicted")
        tables.append(ReportTable("What loads took", heads, tuple(loads), note))
    return tables


def write_replay(replayed: Replayed, path: str | os.PathLike[str]) -> Path:
    """Writes a page that works offline: the answer, mean responses over time, and the tables."""
    lines = replay_words(replayed)
    return write_page(
        path,
        title="Simulation against what happened",
        paragraphs=lines,
        figures=[_over_time(replayed)],
        tables=replay_tables(replayed),
    )


def _over_time(replayed: Replayed) -> go.Figure:
    """Mean response by block of time: real, and under each policy."""
    columns = {"real": "real_s", f"{replayed.policy}, simulated": f"simulated:{replayed.policy}"}
    columns |= {f"{name}, simulated": f"simulated:{name}" for name in replayed.others}
    means = replayed.requests.groupby("block")[["at_s", *columns.values()]].mean()
    figure = go.Figure()
    for k, (name, column) in enumerate(columns.items()):
        figure.add_scatter(
            x=means["at_s"],
            y=means[column],
            name=name,
            mode="lines+markers",
            line={"color": COLOURS[k % len(COLOURS)], "dash": "solid" if k == 0 else "dot"},
        )
    figure.update_xaxes(title_text="seconds of traffic")
    figure.update_yaxes(title_text="mean response, s", rangemode="tozero")
    return figure.update_layout(template="plotly_white", height=380, margin={"t": 30, "b": 50})


def _change(change: Interval) -> str:
    if np.isnan(change.low):
        return f"{change.value:+.1%} (too few requests for an interval)"
    return f"{change.value:+.1%} [{change.low:+.1%}, {change.high:+.1%}]"


def _time(seconds: float) -> str:
    for unit, length_s in (("days", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:.3g} {unit}"
    return f"{seconds:.3g} s"
