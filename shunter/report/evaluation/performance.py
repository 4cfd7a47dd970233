"""What the performance model says of a scenario's models: speed over offload, and cost of a preemption."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from shunter.envs.scenario.model import Model
from shunter.envs.scenario.scenario import Scenario
from shunter.envs.workload.lengths import mean_lengths
from shunter.envs.world.tabulation import facts_of_model
from shunter.errors import InputError
from shunter.models.performance import PerformanceModel
from shunter.report.page import PALETTE, Section

_CUTS, _LEVELS = 9, 40
_MOST_DEVICES, _MOST_MODELS = 4, 8
"""In the pictures; a scenario may have forty models on eight GPUs."""


@dataclass(frozen=True)
class _Asked:
    """One model on one kind of device."""

    performance: PerformanceModel
    scenario: Scenario
    model: Model
    hardware: str
    facts: dict[str, Any]

    @property
    def engine(self) -> str:
        return self.scenario.engine_of(self.model)

    def cells(self, **cell: Any) -> pd.DataFrame:
        limits = {
            "max_batch": self.scenario.batch_of(self.model),
            "max_context_tokens": self.scenario.context_of(self.model),
        }
        facts = {k: v for k, v in self.facts.items() if k != "model"}
        return self.performance.cells(
            self.engine, self.hardware, str(self.facts["model"]), **{**facts, **limits, **cell}
        )


def performance_section(scenario: Scenario, performance: PerformanceModel | None) -> Section:
    """Offload and preemption pictures of the scenario's models on its devices.

    Args:
        scenario: Names engine, devices, models and limits.
        performance: The model that predicted; None if it is not known, which the section then says.
    """
    title = "What was predicted of the models"
    if performance is None:
        return Section(title, ("Not drawn: no performance model was given to the report.",))
    prompt, decode = mean_lengths(scenario).mean(axis=0)
    context_tokens = float(prompt + decode / 2)
    devices = list(dict.fromkeys(device.hardware_name for device in scenario.devices))
    figures, left_out = [], []
    for hardware in devices[:_MOST_DEVICES]:
        asked = [
            _Asked(performance, scenario, model, hardware, facts_of_model(model, performance))
            for model in scenario.models[:_MOST_MODELS]
        ]
        try:
            figures.append(_figure(asked, context_tokens))
        except InputError as error:
            left_out.append(f"Not drawn for {hardware}: {error}")
    if len(devices) > _MOST_DEVICES or len(scenario.models) > _MOST_MODELS:
        shown = f"{_MOST_DEVICES} kinds of device and {_MOST_MODELS} models"
        left_out.append(f"Drawn are the first {shown} of {len(devices)} and {len(scenario.models)}.")
    note = (
        "Predictions of the performance model, bands: 90 %. Left, decoding of one "
        f"sequence at {context_tokens:.0f} tokens of context, this workload's mean; marks are the levels "
        "that the scenario may choose. Right, what it costs to take a model off its device in the middle of "
        "a request and bring it back (KV save, unload, load, KV restore or recomputation)."
    )
    return Section(title, (note, *left_out), tuple(figures))


def _figure(asked: list[_Asked], context_tokens: float) -> go.Figure:
    titles = ("speed over offload", "cost of a preemption")
    figure = make_subplots(1, 2, subplot_titles=titles, horizontal_spacing=0.1)
    for one, model, colour in zip(asked, asked[0].scenario.models, PALETTE, strict=False):
        levels = model.gpu_layers(int(one.facts["total_layers"]))
        curve = _speeds(one, levels, context_tokens)
        _add_curve(figure, curve, model.name, colour, 1)
        marks = curve[curve["gpu_layers"].isin(levels)]
        _add_marks(figure, marks, colour)
        _add_curve(figure, _costs(one), model.name, colour, 2)
    figure.update_xaxes(title_text="share of layers left on the host", tickformat=".0%", row=1, col=1)
    figure.update_yaxes(title_text="tokens/s of one sequence", rangemode="tozero", row=1, col=1)
    figure.update_xaxes(title_text="tokens in the KV cache when cut", type="log", row=1, col=2)
    figure.update_yaxes(title_text="seconds", rangemode="tozero", row=1, col=2)
    return figure.update_layout(
        title=f"On {asked[0].hardware}", template="plotly_white", height=440, margin={"t": 90}
    )


def _speeds(one: _Asked, chosen: list[int], context_tokens: float) -> pd.DataFrame:
    """Tokens per second at these numbers of layers and others: gpu_layers, x, y, low, high."""
    total = int(one.facts["total_layers"])
    between = np.linspace(0, total, min(total, _LEVELS) + 1).round().astype(int)
    levels = np.union1d(between, chosen)
    cells = one.cells(operation="decode", gpu_layers=levels, context_tokens=context_tokens, batch=1)
    done = one.performance.predict(cells)
    return pd.DataFrame(
        {
            "gpu_layers": levels,
            "x": 1 - levels / total,
            "y": 1 / done["duration_s_predicted"],
            "low": 1 / done["duration_s_high"],
            "high": 1 / done["duration_s_low"],
        }
    )


def _costs(one: _Asked) -> pd.DataFrame:
    """Seconds of a preemption over the tokens when cut: x, y, low, high."""
    most = one.scenario.context_of(one.model)
    cuts = np.unique(np.geomspace(1, max(2, most), _CUTS).round().astype(int))
    keeps = one.performance.saves_kv(one.engine, one.hardware)
    parts = ("kv_save", "unload", "load", "kv_restore") if keeps else ("unload", "load", "prefill")
    columns = {"y": "duration_s_predicted", "low": "duration_s_low", "high": "duration_s_high"}
    sums = {name: np.zeros(len(cuts)) for name in columns}
    for operation in parts:
        done = one.performance.predict(one.cells(operation=operation, tokens=cuts))
        for name, column in columns.items():
            sums[name] += done[column].to_numpy(np.float64)
    return pd.DataFrame({"x": cuts, **sums})


def _add_curve(figure: go.Figure, curve: pd.DataFrame, name: str, colour: str, column: int) -> None:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    place = {"row": 1, "col": column, "legendgroup": name}
    figure.add_scatter(
        x=[*curve["x"], *curve["x"][::-1]],
        y=[*curve["high"], *curve["low"][::-1]],
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.15)",
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
        **place,
    )
    figure.add_scatter(
        x=curve["x"],
        y=curve["y"],
        mode="lines",
        name=name,
        line={"color": colour},
        showlegend=column == 1,
        hovertemplate=f"{name}: %{{y:.4g}}<extra></extra>",
        **place,
    )


def _add_marks(figure: go.Figure, marks: pd.DataFrame, colour: str) -> None:
    figure.add_scatter(
        x=marks["x"],
        y=marks["y"],
        mode="markers",
        marker={"color": colour, "size": 8},
        showlegend=False,
        text=[f"{layers} layers on the device" for layers in marks["gpu_layers"]],
        hovertemplate="%{text}: %{y:.4g} tokens/s<extra></extra>",
        row=1,
        col=1,
    )
