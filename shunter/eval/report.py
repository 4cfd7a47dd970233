"""The report: one self-contained HTML page (plotly.js inside, works offline)."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio

from shunter.eval.evaluation import Evaluation
from shunter.eval.failure_log import execution_lines, failure_html
from shunter.eval.metrics import request_times
from shunter.eval.timeline import read_timeline
from shunter.eval.timeline_page import HOW_TO_READ, timeline_figure
from shunter.profiling.report_page import COLOURS

__all__ = ["format_metric", "verdict", "write_report"]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .5rem; text-align: right; border-bottom: 1px solid #ddd; font-size: 13px }
td { white-space: nowrap }
th:first-child, td:first-child { text-align: left }
.note { color: #666 }
"""


def format_metric(metric: str, value: float) -> str:
    """A metric as tables show it: seconds with three digits, shares in percent, counts plain."""
    if np.isnan(value):
        return "-"
    if metric.endswith("_share"):
        return f"{value:.1%}"
    if metric == "tpot_mean_s":
        return f"{value * 1e3:.1f} ms"
    return f"{value:.3f} s" if metric.endswith("_s") else f"{value:.4g}"


def change_text(change: dict[str, Any]) -> str:
    """A paired change with its interval."""
    if np.isnan(change["low"]):
        return f"{change['change']:+.1%} (no interval)"
    return f"{change['change']:+.1%} [{change['low']:+.1%}, {change['high']:+.1%}]"


def verdict(result: dict[str, Any]) -> list[str]:
    """The findings in words; each names its numbers and their uncertainty.

    Args:
        result: From ``Evaluation.to_dict``.
    """
    lines = []
    for kind in ("simulated", "real"):
        rows = {n: p[kind] for n, p in result["policies"].items() if kind in p}
        if not rows:
            continue
        best = min(rows, key=lambda n: rows[n]["response_mean_s"])
        others = ", ".join(
            f"{name} {change_text(row['response_change'])}"
            for name, row in rows.items()
            if name != result["changes_against"]
        )
        lines.append(
            f"{kind.capitalize()}: {best} has the lowest mean response "
            f"({rows[best]['response_mean_s']:.3f} s). Against {result['changes_against']}: {others}."
        )
    errors = [
        (name, p["simulation_error"]["response_mean_s"])
        for name, p in result["policies"].items()
        if p.get("simulation_error", {}).get("response_mean_s") is not None
    ]
    if errors:
        worst = max(errors, key=lambda e: abs(e[1]))
        middle = float(np.median([abs(e) for _, e in errors]))
        lines.append(
            f"Simulation was off by {middle:.1%} in mean response at the median policy, by "
            f"{worst[1]:+.1%} at worst ({worst[0]})."
        )
        splits = {n: p["error_split"] for n, p in result["policies"].items() if "error_split" in p}
        parts = (f"{n} {x['durations']:+.1%} and {x['decisions']:+.1%}" for n, x in splits.items())
        passed, added, logged = (
            sum(x[key] for x in splits.values()) for key in ("infeasible", "missing", "decisions_logged")
        )
        lines.append(
            "Of that, the predicted durations' part (the real decisions, replayed with them) and what "
            f"deciding differently adds: {', '.join(parts)} ({passed} of {logged} decisions could not be "
            f"taken again, {added} were added)."
        )
    return lines + execution_lines(result)


def write_report(
    evaluation: Evaluation, path: str | Path, *, title: str, extra: Sequence[tuple[str, str]] = ()
) -> Path:
    """Writes the page.

    Args:
        evaluation: What to show.
        path: Of the HTML file.
        title: Of the page.
        extra: Further sections: a heading, and HTML that is inserted as it is.
    """
    result = evaluation.to_dict()
    parts = [f"<h1>{html.escape(title)}</h1>"]
    parts += [f"<p>{html.escape(line)}</p>" for line in verdict(result)]
    scenario = evaluation.world.scenario
    devices = ", ".join(d.device or d.gpu or d.name for d in scenario.devices)
    parts.append(
        f"<p class=note>{', '.join(scenario.engines)} on {html.escape(devices)}; "
        f"{len(scenario.models)} models; {scenario.workload.requests} requests a run at "
        f"{evaluation.world.rate_per_s:.3g}/s; workload seeds "
        f"{', '.join(map(str, evaluation.seeds))}; tables interpolate the performance model's predictions to "
        f"within {evaluation.world.interpolation_error:.1%}. Response = last token - arrival, TTFT = first "
        "token - arrival, TPOT = (last - first token)/(tokens - 1). Changes are paired on the same requests, "
        "with 95 % bootstrap intervals.</p>"
    )
    parts.append(_table(result))
    for index, figure in enumerate([_response_bars(result), _response_curves(evaluation)]):
        parts.append(pio.to_html(figure, full_html=False, include_plotlyjs="inline" if index == 0 else False))
    parts.append(f"<h2>What the devices did, first seed</h2><p class=note>{HOW_TO_READ}</p>")
    parts += [pio.to_html(f, full_html=False, include_plotlyjs=False) for f in _timelines(evaluation)]
    parts.append(failure_html(result["failures"]))
    parts += [f"<h2>{html.escape(heading)}</h2>{body}" for heading, body in extra]
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<style>{STYLE}</style><body>{''.join(parts)}</body></html>"
    )
    path = Path(path)
    part = path.with_name(path.name + ".part")
    part.write_text(page, encoding="utf-8")
    part.replace(path)
    return path


def _table(result: dict[str, Any]) -> str:
    head = "".join(
        f"<th>{html.escape(text)}</th>" for text in ("policy", *result["metrics"].values(), "change")
    )
    rows = []
    for name, policy in result["policies"].items():
        for kind in ("simulated", "real"):
            if kind in policy:
                cells = "".join(f"<td>{format_metric(m, policy[kind][m])}</td>" for m in result["metrics"])
                change = html.escape(change_text(policy[kind]["response_change"]))
                rows.append(f"<tr><td>{html.escape(name)}, {kind}</td>{cells}<td>{change}</td></tr>")
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _response_bars(result: dict[str, Any]) -> go.Figure:
    figure = go.Figure()
    for kind, colour in (("simulated", COLOURS[0]), ("real", COLOURS[1])):
        rows = {n: p[kind]["response_mean_s"] for n, p in result["policies"].items() if kind in p}
        if rows:
            figure.add_bar(x=list(rows), y=list(rows.values()), name=kind, marker_color=colour)
    return figure.update_layout(
        title="Mean response by policy", yaxis_title="seconds", template="plotly_white", height=380
    )


def _response_curves(evaluation: Evaluation) -> go.Figure:
    figure = go.Figure()
    for policy, colour in zip(evaluation.policies, COLOURS * len(evaluation.policies), strict=False):
        for kind, runs, dash in (
            ("simulated", evaluation.simulated, "dot"),
            ("real", evaluation.real, "solid"),
        ):
            if runs.get(policy):
                times = np.sort(np.concatenate([request_times(run).response_s for run in runs[policy]]))
                share = np.arange(1, len(times) + 1) / len(times)
                line = {"color": colour, "dash": dash}
                figure.add_scatter(x=times, y=share, name=f"{policy}, {kind}", line=line, mode="lines")
    return figure.update_layout(
        title="Response times: share of requests served within",
        xaxis_title="seconds",
        yaxis_title="share",
        template="plotly_white",
        height=420,
    )


def _timelines(evaluation: Evaluation) -> list[go.Figure]:
    """The first run of each policy, real if there are real ones."""
    runs = evaluation.real or evaluation.simulated
    return [
        timeline_figure(read_timeline(runs[name][0].log.frame()))
        for name in evaluation.policies
        if runs.get(name)
    ]
