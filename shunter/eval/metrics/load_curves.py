"""Load curves: how a policy's responses grow with the arrival rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from shunter.report.figures import MODE_DASHES
from shunter.report.page import PALETTE, Section
from shunter.report.words import MODES

__all__ = ["load_curves"]

_RATES = ("load", "rate_per_s")
"""Fields of a workload that may differ along a curve."""

_METRICS = {"response_mean_s": "mean response", "response_p95_s": "95th percentile"}


def load_curves(results: Sequence[dict[str, Any]]) -> Section:
    """Responses over the arrival rate, of results of one scenario at several loads.

    Args:
        results: From ``Evaluation.to_dict``, or read back; of several at one rate the first counts.

    Returns:
        A section that draws them, or says why it does not.
    """
    title = "Load curves"
    by_rate: dict[float, dict[str, Any]] = {}
    for result in results:
        if result.get("rate_per_s"):
            by_rate.setdefault(result["rate_per_s"], result)
    if len(by_rate) < 2:
        more = "shunter eval --load 0.5 --load 0.8 evaluates two"
        return Section(title, (f"Not drawn: only one arrival rate was evaluated; {more}.",))
    if len({str(_apart_from_load(result["scenario"])) for result in by_rate.values()}) > 1:
        return Section(title, ("Not drawn: the scenarios differ in more than their load.",))
    note = "Each point is one evaluation; dotted lines are simulated. The vertical axis is logarithmic."
    return Section(title, (note,), (_figure(dict(sorted(by_rate.items()))),))


def _apart_from_load(scenario: dict[str, Any]) -> dict[str, Any]:
    workload = {k: v for k, v in scenario["workload"].items() if k not in _RATES}
    rest = {k: v for k, v in scenario.items() if k not in ("name", "description", "split")}
    return {**rest, "workload": workload}


def _figure(by_rate: dict[float, dict[str, Any]]) -> go.Figure:
    titles = tuple(_METRICS.values())
    figure = make_subplots(1, 2, shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.04)
    policies = dict.fromkeys(name for result in by_rate.values() for name in result["policies"])
    for policy, colour in zip(policies, PALETTE * len(policies), strict=False):
        for mode in MODES:
            for column, metric in enumerate(_METRICS, 1):
                points = [
                    (rate, value)
                    for rate, result in by_rate.items()
                    if _known(value := result["policies"].get(policy, {}).get(mode, {}).get(metric))
                ]
                if points:
                    figure.add_scatter(
                        x=[rate for rate, _ in points],
                        y=[value for _, value in points],
                        mode="lines+markers",
                        name=f"{policy}, {mode}",
                        legendgroup=f"{policy}, {mode}",
                        showlegend=column == 1,
                        line={"color": colour, "dash": MODE_DASHES[mode]},
                        hovertemplate="%{y:.4g} s at %{x:.4g}/s",
                        row=1,
                        col=column,
                    )
    figure.update_xaxes(title_text="requests per second", rangemode="tozero")
    figure.update_yaxes(type="log")
    figure.update_yaxes(title_text="seconds", row=1, col=1)
    return figure.update_layout(template="plotly_white", height=460, margin={"t": 60})


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
