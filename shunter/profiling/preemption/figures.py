"""Pictures of a preemption measurement."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from shunter.profiling.preemption.cycles import PARTS

PART_NAMES = {
    "kv_save_s": "KV save",
    "unload_a_s": "unload A",
    "load_a_s": "load A",
    "kv_restore_s": "KV restore",
    "load_b_s": "load B",
    "unload_b_s": "unload B",
    "other_s": "other",
}
_COLOURS = ("#54a24b", "#9ecae9", "#2f6fae", "#b279a2", "#f2b36d", "#ffd8a8", "#c8c8c8")
_PANELS = 3  # side by side


def overhead_bars(rows: pd.DataFrame) -> go.Figure:
    """Stacked bars of overhead by part over the cut points, one panel a model.

    Each cycle is a dash, and each prediction of A's own parts, which are the lower four, a diamond.
    """
    models = list(dict.fromkeys(rows["model"]))
    lines = -(-len(models) // _PANELS)
    figure = make_subplots(lines, min(_PANELS, len(models)), subplot_titles=models, shared_yaxes="all")
    for index, model in enumerate(models):
        place = {"row": index // _PANELS + 1, "col": index % _PANELS + 1}
        cells = rows[rows["model"] == model]
        means = cells.groupby("cut_tokens")[list(PARTS)].mean()
        cuts = [str(cut) for cut in means.index]
        for (part, label), colour in zip(PART_NAMES.items(), _COLOURS, strict=True):
            figure.add_bar(
                x=cuts,
                y=means[part],
                name=label,
                legendgroup=part,
                showlegend=index == 0,
                marker_color=colour,
                **place,
            )
        _add_markers(figure, cells, place)
    figure.update_xaxes(title_text="tokens generated when cut", type="category")
    # Not to the ends of the predicted intervals: a model that knows little would flatten the bars.
    highest_s = float(rows[["overhead_s", "predicted_s"]].max().max())
    figure.update_yaxes(range=[0, 1.1 * highest_s])
    figure.update_yaxes(title_text="seconds", col=1)
    return figure.update_layout(
        title="Overhead of a preemption by part: mean over repeats",
        barmode="stack",
        template="plotly_white",
        height=180 + 300 * lines,
        legend={"orientation": "h", "yanchor": "top", "y": -0.25 / lines},
        margin={"b": 130},
    )


def _add_markers(figure: go.Figure, cells: pd.DataFrame, place: dict[str, int]) -> None:
    is_first = place == {"row": 1, "col": 1}
    figure.add_scatter(
        x=cells["cut_tokens"].astype(str),
        y=cells["overhead_s"],
        mode="markers",
        marker={"color": "#222", "size": 5, "symbol": "line-ew-open"},
        name="overhead of each cycle",
        legendgroup="cycle",
        showlegend=is_first,
        **place,
    )
    predicted = cells.dropna(subset=["predicted_s"]).drop_duplicates("cut_tokens").sort_values("cut_tokens")
    if predicted.empty:
        return
    figure.add_scatter(
        x=predicted["cut_tokens"].astype(str),
        y=predicted["predicted_s"],
        error_y={
            "array": predicted["predicted_high_s"] - predicted["predicted_s"],
            "arrayminus": predicted["predicted_s"] - predicted["predicted_low_s"],
            "thickness": 1,
            "width": 2,
            "color": "rgba(214, 39, 40, 0.45)",
        },
        mode="markers",
        marker={"color": "#d62728", "size": 7, "symbol": "diamond"},
        name="predicted beforehand: A's own parts (the lower four)",
        legendgroup="predicted",
        showlegend=is_first,
        **place,
    )


def weights_figure(results: dict[str, Any]) -> go.Figure:
    """Overhead against the preempted model's weights, both logarithmic, with the paper's cells."""
    models, cells = results["models"], pd.DataFrame(results["paper"])
    figure = go.Figure()
    figure.add_scatter(
        x=[s["weight_bytes"] / 1e9 for s in models.values()],
        y=[s["overhead_mean_s"] for s in models.values()],
        text=list(models),
        mode="markers+text",
        textposition="top center",
        marker={"size": 10, "color": _COLOURS[2]},
        name="here",
    )
    for gpu, symbol in zip(cells["gpu"].unique(), ("circle-open", "square-open"), strict=False):
        of_gpu = cells[cells["gpu"] == gpu]
        figure.add_scatter(
            x=of_gpu["weight_bytes"] / 1e9,
            y=of_gpu["overhead_s"],
            text=of_gpu["model"],
            mode="markers",
            marker={"size": 10, "color": "#555", "symbol": symbol},
            name=f"paper, as summarised: {gpu}",
        )
    return figure.update_layout(
        title="Overhead against the size of the preempted model, beside the paper's six cells",
        xaxis={"title": "weights, GB", "type": "log", "dtick": "D2"},
        yaxis={"title": "seconds", "type": "log", "dtick": "D2"},
        template="plotly_white",
        height=420,
    )
