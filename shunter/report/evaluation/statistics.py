"""Figures that few odd request sequences do not move, and which model's requests wait."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from shunter.report.figures import MODE_DASHES
from shunter.report.page import PALETTE, ReportTable, Section
from shunter.report.words import MODES, format_metric, interval_text

_ALL = "all models"


def statistics_section(result: dict[str, Any]) -> Section | None:
    """Robust aggregates and waits of each policy and mode; None if the evaluation holds none."""
    rows = [
        (name, mode, policy[mode])
        for name, policy in result["policies"].items()
        for mode in MODES
        if "statistics" in policy.get(mode, {})
    ]
    if not rows:
        return None
    against = result["changes_against"]
    columns = (
        "policy",
        "mode",
        "sequences",
        f"IQM against {against}",
        "P(improvement)",
        "longest wait",
    )
    texts = tuple((name, mode, *_texts(of)) for name, mode, of in rows)
    note = (
        f"IQM: mean of the middle half of the sequences' mean responses relative to {against}'s, below 1 = "
        "lower = better. P(improvement): that a run is quicker than one of it on the same requests."
    )
    notes = (
        "Left, the share of request sequences on which a policy's mean response is at most so many times "
        f"{against}'s: higher is better. Right, mean waits to the first token by model.",
    )
    table = ReportTable("", (*columns, "of"), texts, note)
    return Section("Over request sequences and models", notes, (_figure(rows),), (table,))


def _texts(of: dict[str, Any]) -> tuple[str, ...]:
    found = of["statistics"]
    waits = {model: row for model, row in of.get("waits", {}).items() if model != _ALL}
    longest = max(waits, key=lambda model: waits[model]["max_s"], default="")
    wait = format_metric("wait_s", waits[longest]["max_s"]) if longest else "-"
    improves = found["probability_of_improvement"]
    sooner = "-" if improves is None else f"{improves:.0%}"
    return str(found["sequences"]), interval_text(found["iqm"], "{:.3f}"), sooner, wait, longest or "-"


def _figure(rows: list[tuple[str, str, dict[str, Any]]]) -> go.Figure:
    titles = ("performance profile", "mean wait by model")
    figure = make_subplots(1, 2, subplot_titles=titles, horizontal_spacing=0.1)
    colours = dict(zip(dict.fromkeys(name for name, _, _ in rows), PALETTE * len(rows), strict=False))
    for name, mode, of in rows:
        look = {"name": f"{name}, {mode}", "legendgroup": f"{name}, {mode}"}
        profile = of["statistics"]["profile"]
        figure.add_scatter(
            **look,
            x=[float(ratio) for ratio in profile],
            y=list(profile.values()),
            mode="lines+markers",
            line={"color": colours[name], "dash": MODE_DASHES[mode], "shape": "hv"},
            row=1,
            col=1,
        )
        waits = {model: row for model, row in of.get("waits", {}).items() if model != _ALL}
        figure.add_bar(
            **look,
            x=list(waits),
            y=[row["mean_s"] for row in waits.values()],
            marker={"color": colours[name], "opacity": 1.0 if mode == "real" else 0.5},
            showlegend=False,
            row=1,
            col=2,
        )
    figure.update_xaxes(title_text="mean response relative to the first policy's", row=1, col=1)
    figure.update_yaxes(title_text="share of sequences", tickformat=".0%", range=[0, 1.05], row=1, col=1)
    figure.update_yaxes(title_text="seconds", rangemode="tozero", row=1, col=2)
    return figure.update_layout(template="plotly_white", height=440, margin={"t": 60})
