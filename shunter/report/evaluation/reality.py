"""Simulation against reality: request by request, operation by operation, and in the metrics."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from shunter.eval.evaluation import Evaluation
from shunter.eval.execution.runs import Run
from shunter.eval.fidelity.operations import OPERATIONS
from shunter.eval.fidelity.spans import run_spans
from shunter.eval.metrics.metrics import request_times
from shunter.report.page import PALETTE, ReportTable, Section

_MOST_POINTS = 1500
"""Most points of one policy or operation in a picture."""

Array = NDArray[np.float64]


def reality_section(evaluation: Evaluation, result: dict[str, Any]) -> Section | None:
    """None if nothing ran for real."""
    if not evaluation.real:
        return None
    notes = (
        "Each point of the first picture is a request: above the line it took longer in simulation than for "
        "real. Left, simulation decided for itself; right, it repeated the real decisions, so that only "
        "predicted durations are wrong. Each point of the second is a stretch of engine work between two "
        "times that the event log tells apart, coloured by what takes most of it.",
    )
    figures = (_requests_figure(evaluation), _operations_figure(evaluation))
    tables = (_error_table(result), _split_table(result))
    return Section("Simulation against reality", notes, figures, tables)


def _requests_figure(evaluation: Evaluation) -> go.Figure:
    titles = ("simulated freely", "real decisions, predicted durations")
    figure = make_subplots(1, 2, subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.04)
    for policy, colour in zip(evaluation.policies, PALETTE * len(evaluation.policies), strict=False):
        real = _responses(evaluation.real.get(policy, []))
        replays = [replay.run for replay in evaluation.replays.get(policy, [])]
        of_seed = {run.seed: run for run in evaluation.simulated.get(policy, [])}
        simulated = [of_seed[run.seed] for run in evaluation.real.get(policy, [])]
        for column, runs in enumerate((simulated, replays), 1):
            predicted = _responses(runs)
            if len(real) == 0 or len(predicted) != len(real):
                continue
            picked = _some(np.flatnonzero(np.isfinite(real) & np.isfinite(predicted)))
            _add_points(figure, real[picked], predicted[picked], policy, colour, column)
    _add_identity(figure, (1, 2))
    figure.update_xaxes(title_text="real response, seconds", type="log")
    figure.update_yaxes(type="log")
    figure.update_yaxes(title_text="simulated response, seconds", row=1, col=1)
    return figure.update_layout(template="plotly_white", height=480, margin={"t": 60})


def _operations_figure(evaluation: Evaluation) -> go.Figure:
    """Predicted against measured seconds, with what takes most of a span as its name."""
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for runs in evaluation.real.values():
        for run in runs:
            requests = evaluation.world.draw(run.seed)
            for span in run_spans(evaluation.world, requests, run.log.frame()):
                if span.parts_s and span.predicted_s > 0 and span.measured_s > 0:
                    most = max(span.parts_s, key=lambda part: span.parts_s[part])
                    points[most.target].append((span.measured_s, span.predicted_s))
    figure = make_subplots(1, 1)
    for (target, name), colour in zip(OPERATIONS.items(), PALETTE, strict=False):
        if points[target]:
            pairs = np.array(points[target])
            x, y = pairs[_some(np.arange(len(pairs)))].T
            _add_points(figure, x, y, f"{name} ({len(pairs)})", colour, 1)
    _add_identity(figure, (1,))
    figure.update_xaxes(title_text="measured, seconds", type="log")
    figure.update_yaxes(title_text="predicted, seconds", type="log")
    return figure.update_layout(
        template="plotly_white", height=480, title="Engine operations: predicted against measured"
    )


def _error_table(result: dict[str, Any]) -> ReportTable:
    rows = []
    for name, policy in result["policies"].items():
        errors = policy.get("simulation_error")
        if errors is not None:
            cells = ("-" if errors.get(m) is None else f"{errors[m]:+.1%}" for m in result["metrics"])
            rows.append((name, *cells))
    note = "Error = simulated / real - 1, on the request sequences that ran for real."
    return ReportTable("Error of each metric", ("policy", *result["metrics"].values()), tuple(rows), note)


def _split_table(result: dict[str, Any]) -> ReportTable:
    rows = []
    for name, policy in result["policies"].items():
        split = policy.get("error_split")
        if split is not None:
            lost = f"{split['infeasible']} of {split['decisions_logged']}"
            parts = (f"{split[key]:+.1%}" for key in ("durations", "decisions"))
            rows.append((name, *parts, lost, str(split["missing"])))
    columns = ("policy", "predicted durations", "deciding differently", "could not be repeated", "added")
    note = "Parts of the error in mean response, relative to the real one; then decisions of the replay."
    return ReportTable("Where the error comes from", columns, tuple(rows), note)


def _responses(runs: list[Run]) -> Array:
    """Response of every request, run after run."""
    return np.concatenate([request_times(run)["response_s"] for run in runs]) if runs else np.empty(0)


def _some(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """At most ``_MOST_POINTS`` of them, evenly taken."""
    return indices[:: max(1, -(-len(indices) // _MOST_POINTS))]


def _add_points(figure: go.Figure, x: Array, y: Array, name: str, colour: str, column: int) -> None:
    figure.add_scatter(
        x=x,
        y=y,
        mode="markers",
        name=name,
        legendgroup=name,
        showlegend=column == 1,
        marker={"color": colour, "size": 5, "opacity": 0.55},
        hovertemplate=f"{name}<br>%{{x:.4g}} s real, %{{y:.4g}} s predicted<extra></extra>",
        row=1,
        col=column,
    )


def _add_identity(figure: go.Figure, columns: tuple[int, ...]) -> None:
    """Draws where both axes say the same, as far as there are points."""
    drawn = [value for trace in figure.data for axis in (trace.x, trace.y) for value in axis]
    if not drawn:
        return
    ends = [min(drawn), max(drawn)]
    for column in columns:
        figure.add_scatter(
            x=ends,
            y=ends,
            mode="lines",
            name="no error",
            legendgroup="no error",
            showlegend=column == 1,
            line={"color": "#888", "dash": "dash", "width": 1},
            hoverinfo="skip",
            row=1,
            col=column,
        )
