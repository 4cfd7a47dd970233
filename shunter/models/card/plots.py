"""Pictures of a model card."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from shunter.errors import InputError
from shunter.models.performance import PerformanceModel
from shunter.models.state import ResidentMemory
from shunter.report.figures import add_band
from shunter.report.page import COLOURS

_PANELS = 3  # side by side
_CUTS = 9
_HELD_OUT_SPLITS = {"random cells": "circle", "leave one model out": "x-thin-open"}


def card_figures(model: PerformanceModel, frame: pd.DataFrame, held_out: pd.DataFrame) -> list[go.Figure]:
    """All figures for which there is something to show."""
    figures = [held_out_figure(held_out), residual_figure(held_out)] if len(held_out) else []
    for engine, device in sorted({(r.engine, r.device) for r in model.residents}):
        figures += [
            figure
            for figure in (
                offload_figure(model, frame, engine, device),
                preemption_figure(model, engine, device),
            )
            if figure is not None
        ]
    return figures


def held_out_figure(held_out: pd.DataFrame) -> go.Figure:
    """Predicted against measured, a panel per target, with the line of no error."""
    figure, panels = _panels(held_out, 330)
    for target, place in panels.items():
        rows = held_out[held_out["target"] == target]
        rows = rows[rows["split"].isin(_HELD_OUT_SPLITS)].dropna(subset=["predicted"])
        unit = 1e-6 if target.endswith("_bytes") else 1e3
        floored = rows.assign(
            measured=np.maximum(rows["measured"], rows["smallest"]) * unit,
            predicted=np.maximum(rows["predicted"], rows["smallest"]) * unit,
        )
        both = floored[["measured", "predicted"]]
        ends = [0.9 * both.min().min(), 1.1 * both.max().max()]  # or the axis of a constant is all digits
        _line(figure, ends, ends, "no error", "#999", place, dash="dot")
        for colour, (split, symbol) in zip(COLOURS, _HELD_OUT_SPLITS.items(), strict=False):
            of_split = floored[floored["split"] == split]
            _points(figure, of_split["measured"], of_split["predicted"], split, colour, symbol, place)
            figure.data[-1].update(text=_configuration_texts(of_split), hovertemplate=_HOVER)
        what = "MB" if target.endswith("_bytes") else "ms"
        figure.update_xaxes(title_text=f"measured, {what}", type="log", **place)
        figure.update_yaxes(title_text="predicted" if place["col"] == 1 else None, type="log", **place)
    return _finish(figure, "Held-out rows: predicted against measured")


def residual_figure(held_out: pd.DataFrame) -> go.Figure:
    """Measured over predicted, by model."""
    figure, panels = _panels(held_out, 300)
    for target, place in panels.items():
        rows = held_out[held_out["target"] == target].dropna(subset=["predicted"])
        for colour, (split, symbol) in zip(COLOURS, _HELD_OUT_SPLITS.items(), strict=False):
            of_split = rows[rows["split"] == split]
            ratio = np.maximum(of_split["measured"], of_split["smallest"]) / np.maximum(
                of_split["predicted"], of_split["smallest"]
            )
            spread = np.random.default_rng(0).uniform(-0.15, 0.15, len(of_split))
            x = pd.Categorical(of_split["model"], categories=sorted(rows["model"].unique())).codes + spread
            _points(figure, pd.Series(x), ratio, split, colour, symbol, place)
            figure.data[-1].update(text=_configuration_texts(of_split), hovertemplate=_HOVER)
        figure.add_hline(y=1, line={"color": "#999", "dash": "dot", "width": 1}, **place)
        _points(figure, [None, None], [0.95, 1.05], "", "#fff", "circle", place, legend=False)
        names = sorted(rows["model"].unique())
        figure.update_xaxes(tickvals=list(range(len(names))), ticktext=[_short(n) for n in names], **place)
        figure.update_yaxes(
            title_text="measured / predicted" if place["col"] == 1 else None, type="log", **place
        )
    return _finish(figure, "Held-out rows: what is left, by model (1 is no error)")


_HOVER = "%{text}<br>%{x:.4g} → %{y:.4g}<extra></extra>"


def offload_figure(
    model: PerformanceModel, frame: pd.DataFrame, engine: str, device: str
) -> go.Figure | None:
    """Tokens per second of one sequence against the share of layers on the host, with bands and medians."""
    figure = go.Figure()
    here = frame[(frame["engine"] == engine) & (frame["device"] == device)]
    decodes = here[(here["operation"] == "decode") & (here["batch"] == 1)]
    if decodes.empty:
        return None
    context = float(decodes["context_tokens"].median())
    residents = [r for r in model.residents if (r.engine, r.device) == (engine, device)]
    for colour, resident in zip(COLOURS * len(residents), residents, strict=False):
        rows = decodes[decodes["model"] == resident.model]
        if len(resident.gpu_layers) > 1 and len(rows):
            curve = _offload_curve(model, resident, context)
            add_band(figure, curve["offload"], curve["low"], curve["high"], colour)
            _line(figure, curve["offload"], curve["rate"], resident.model, colour)
            middle = rows.groupby("offload_ratio")["duration_s"].median()
            _points(figure, middle.index, 1 / middle, "measured", colour, "circle", {}, legend=False)
    if not figure.data:
        return None
    figure.update_xaxes(title_text="share of layers left on the host", tickformat=".0%")
    figure.update_yaxes(title_text="tokens/s of one sequence", rangemode="tozero")
    title = f"Offload on {engine}, {device}: {context:.0f} tokens of context, band: 90 %, points: medians"
    return figure.update_layout(title=title, template="plotly_white", height=420)


def _offload_curve(model: PerformanceModel, resident: ResidentMemory, context: float) -> pd.DataFrame:
    levels = np.arange(min(resident.gpu_layers), max(resident.gpu_layers) + 1)
    configurations = model.configurations(
        resident.engine,
        resident.device,
        resident.model,
        operation="decode",
        gpu_layers=levels,
        context_tokens=context,
    )
    done = model.predict(configurations)
    return pd.DataFrame(
        {
            "offload": 1 - levels / configurations["total_layers"],
            "rate": 1 / done["duration_s_predicted"],
            "low": 1 / done["duration_s_high"],
            "high": 1 / done["duration_s_low"],
        }
    )


def cut_costs(model: PerformanceModel, resident: ResidentMemory) -> pd.DataFrame:
    """The predicted cost of a preemption over the tokens at which a request is cut, as far as was measured.

    Returns:
        Columns ``cut_tokens``, ``total_s``, ``low_s``, ``high_s`` and ``reload_share``; no rows where loads,
        unloads or prefills were not measured.
    """
    columns = ["cut_tokens", "total_s", "low_s", "high_s", "reload_share"]
    cuts = np.unique(np.geomspace(1, max(2, resident.max_context_tokens), _CUTS).round().astype(int))
    rows = []
    for cut in cuts:
        try:
            cost = model.preemption_cost_s(resident.engine, resident.device, resident.model, int(cut))
        except InputError:
            return pd.DataFrame(columns=columns)
        rows.append((int(cut), cost.total_s, cost.low_s, cost.high_s, cost.reload_share, cost.out_of_range))
    costs = pd.DataFrame(rows, columns=[*columns, "out_of_range"])
    measured = costs[~costs["out_of_range"].astype(bool)]
    return (costs if measured.empty else measured)[columns]


def preemption_figure(model: PerformanceModel, engine: str, device: str) -> go.Figure | None:
    """Cost of a preemption over the cut, and the offload-sensitivity index, by model."""
    residents = [r for r in model.residents if (r.engine, r.device) == (engine, device)]
    costs_of = [cut_costs(model, resident) for resident in residents]
    titles = ["what preempting costs, by tokens when cut", "offload-sensitivity index"]
    if all(costs.empty for costs in costs_of):
        titles[0] = "preemption: loads, unloads or prefills were not measured"
    figure = make_subplots(1, 2, column_widths=[0.65, 0.35], subplot_titles=titles)
    names, indices, colours = [], [], []
    place = {"row": 1, "col": 1}
    for colour, resident, costs in zip(COLOURS * len(residents), residents, costs_of, strict=False):
        if len(costs):
            add_band(figure, costs["cut_tokens"], costs["low_s"], costs["high_s"], colour, **place)
            _line(figure, costs["cut_tokens"], costs["total_s"], resident.model, colour, place)
        index = sensitivity(model, resident)
        if index is not None:
            names.append(_short(resident.model))
            indices.append(index)
            colours.append(colour)
    figure.add_bar(x=indices, y=names, orientation="h", marker_color=colours, showlegend=False, row=1, col=2)
    if not any(getattr(trace, "x", None) is not None and len(trace.x) for trace in figure.data):
        return None
    figure.update_xaxes(title_text="tokens in the KV cache", type="log", row=1, col=1)
    figure.update_yaxes(title_text="seconds", rangemode="tozero", row=1, col=1)
    figure.update_xaxes(title_text="slower at most offload, less 1", row=1, col=2)
    return _finish(figure, f"Preemption and offload on {engine}, {device}").update_layout(height=420)


def sensitivity(model: PerformanceModel, resident: ResidentMemory) -> float | None:
    """The offload-sensitivity index; None where decodes were not measured."""
    try:
        return model.offload_sensitivity(resident.engine, resident.device, resident.model)
    except InputError:
        return None


def _panels(held_out: pd.DataFrame, height: int) -> tuple[go.Figure, dict[str, dict[str, int]]]:
    targets = list(dict.fromkeys(held_out["target"]))
    lines, width = -(-len(targets) // _PANELS), min(_PANELS, len(targets))
    figure = make_subplots(lines, width, subplot_titles=targets, vertical_spacing=0.35 / lines)
    figure.update_layout(height=100 + height * lines)
    places = {t: {"row": i // _PANELS + 1, "col": i % _PANELS + 1} for i, t in enumerate(targets)}
    return figure, places


def _finish(figure: go.Figure, title: str) -> go.Figure:
    seen: set[str] = set()
    for trace in figure.data:  # one legend entry for all panels
        trace.showlegend = bool(trace.name) and trace.name not in seen and trace.showlegend is not False
        seen |= {trace.name} if trace.showlegend else set()
    place = {"yanchor": "bottom", "y": 0.97, "yref": "container", "xanchor": "center", "x": 0.6}
    return figure.update_layout(title=title, template="plotly_white", legend={"orientation": "h", **place})


def _points(
    figure: go.Figure, x: Any, y: Any, name: str, colour: str, symbol: str, place: dict[str, int], **more: Any
) -> None:
    marker = {"color": colour, "symbol": symbol, "size": 6, "opacity": 0.7, "line": {"width": 1}}
    if symbol.endswith("-open"):
        marker["line"] = {"width": 1, "color": colour}
    show = more.get("legend", True)
    figure.add_scatter(
        x=x, y=y, mode="markers", name=name, legendgroup=name, marker=marker, showlegend=show, **place
    )


def _line(
    figure: go.Figure,
    x: Any,
    y: Any,
    name: str,
    colour: str,
    place: dict[str, int] | None = None,
    dash: str = "solid",
) -> None:
    line = {"color": colour, "dash": dash}
    figure.add_scatter(x=x, y=y, mode="lines", name=name, legendgroup=name, line=line, **(place or {}))


def _configuration_texts(rows: pd.DataFrame) -> list[str]:
    names = ("model", "quantization", "gpu_layers", "batch", "tokens", "context_tokens")
    return [
        ", ".join(f"{n} {v}" for n, v in zip(names, row, strict=True)) for row in rows[list(names)].to_numpy()
    ]


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:8]}…{name[-8:]}"
