"""The policies beside each other: a table, their means and changes, and how long requests took."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from shunter.eval.evaluation import Evaluation
from shunter.eval.metrics.metrics import request_times
from shunter.report.figures import MODE_DASHES, error_bars
from shunter.report.page import PALETTE, ReportTable, Section
from shunter.report.words import MODES, change_text, format_metric

_COLOURS = {"simulated": "#4c78a8", "real": "#f58518"}
_POINTS = 400
"""Points of a curve: more cannot be told apart on a screen."""


def policies_section(result: dict[str, Any]) -> Section:
    """Metrics of every policy, and the paired changes with their intervals."""
    rows = []
    for name, policy in result["policies"].items():
        for mode in MODES:
            if mode in policy:
                of = policy[mode]
                mean, *others = (format_metric(m, of[m]) for m in result["metrics"])
                rows.append((name, mode, mean, change_text(of["response_change"]), *others))
    against = result["changes_against"]
    first, *rest = result["metrics"].values()
    columns = ("policy", "mode", first, f"against {against}", *rest)
    note = (
        f"Change of the mean response against {against} on the same requests, with its paired 95 % interval "
        "over runs: negative = lower response = better; undecided where it holds zero, and without one."
    )
    table = ReportTable("", columns, tuple(rows), note)
    return Section("Policies", figures=(_means_and_changes(result),), tables=(table,))


def _means_and_changes(result: dict[str, Any]) -> go.Figure:
    titles = ("mean response", f"change against {result['changes_against']}, 95 % interval")
    figure = make_subplots(1, 2, shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.04)
    for mode in MODES:
        rows = {n: p[mode] for n, p in result["policies"].items() if mode in p}
        names, changes = list(rows), [row["response_change"] for row in rows.values()]
        look = {"name": mode, "legendgroup": mode, "orientation": "h", "y": names}
        marker = {"color": _COLOURS[mode]}
        if not rows:
            continue
        means_s = [row["response_mean_s"] for row in rows.values()]
        figure.add_bar(
            **look,
            x=means_s,
            marker=marker,
            texttemplate="%{x:.3g} s",
            hovertemplate="%{y}: %{x:.4g} s<extra></extra>",
            row=1,
            col=1,
        )
        # Bars and no points: the modes stand beside each other here as on the left.
        figure.add_bar(
            **look,
            x=[c["change"] for c in changes],
            showlegend=False,
            marker={**marker, "opacity": 0.45},
            error_x=error_bars(
                ((c["change"], c["low"], c["high"]) for c in changes), color="#333", thickness=1.5
            ),
            customdata=[change_text(c) for c in changes],
            hovertemplate="%{y}: %{customdata}<extra></extra>",
            row=1,
            col=2,
        )
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_xaxes(title_text="seconds", rangemode="tozero", row=1, col=1)
    figure.update_xaxes(title_text="relative change (negative = better)", tickformat="+.0%", row=1, col=2)
    bars = sum(mode in p for p in result["policies"].values() for mode in MODES)
    return figure.update_layout(
        template="plotly_white", height=170 + 24 * bars, legend={"traceorder": "normal"}, margin={"t": 60}
    )


def responses_section(evaluation: Evaluation) -> Section:
    """Shares of requests served within a time; requests that were not served never are."""
    figure = make_subplots(
        1, 2, shared_yaxes=True, subplot_titles=("response", "time to first token"), horizontal_spacing=0.04
    )
    for policy, colour in zip(evaluation.policies, PALETTE * len(evaluation.policies), strict=False):
        for mode, runs in (("simulated", evaluation.simulated), ("real", evaluation.real)):
            if not runs.get(policy):
                continue
            times = [request_times(run) for run in runs[policy]]
            for column, metric in enumerate(("response_s", "ttft_s"), 1):
                shares, seconds = _curve(np.concatenate([t[metric] for t in times]))
                figure.add_scatter(
                    x=seconds,
                    y=shares,
                    name=f"{policy}, {mode}",
                    legendgroup=f"{policy}, {mode}",
                    showlegend=column == 1,
                    mode="lines",
                    line={"color": colour, "dash": MODE_DASHES[mode]},
                    hovertemplate="%{y:.1%} within %{x:.4g} s",
                    row=1,
                    col=column,
                )
    figure.update_xaxes(title_text="seconds, logarithmic", type="log")
    figure.update_yaxes(title_text="share of requests", tickformat=".0%", range=[0, 1.02], row=1, col=1)
    figure.update_layout(template="plotly_white", height=460, margin={"t": 60})
    note = "Share of all requests that were served within a time; dotted lines are simulated."
    return Section("Response times", (note,), (figure,))


def _curve(seconds: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares and times of an empirical distribution, thinned; missing values are never reached."""
    ordered = np.sort(seconds)
    served = int(np.isfinite(ordered).sum())
    picked = np.unique(np.linspace(0, served - 1, min(served, _POINTS)).round().astype(np.int64))
    return (picked + 1) / len(ordered), ordered[picked]
