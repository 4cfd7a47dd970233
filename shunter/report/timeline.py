"""The timeline of one run as a picture and as a page."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from shunter.errors import InputError
from shunter.eval.timeline import Timeline, each, queue_lengths
from shunter.report.page import PALETTE, ReportTable, write_page

__all__ = ["write_timeline"]

MAX_OPERATIONS = 5000
"""More bars make a browser slow: a longer run is drawn up to there, or from where one asks."""

HOW_TO_READ = (
    "For each device, the upper row shows what it does: quanta (plain), loads (hatched) and evictions "
    "(crossed); the rows below, pale, what is resident. Colours are models; a bar is the higher, the more of "
    "the model's layers are on the device, relative to the most in this run. Below, the requests in the "
    "system. Drag to zoom, double-click to go back, click a model to hide it."
)
_PATTERNS = {"run": "", "load": "/", "evict": "x"}
_GAP, _LANE = 0.5, 0.6  # between devices, and of a resident, in rows
_ROW_PIXELS, _MOST_PIXELS, _QUEUE_PIXELS, _SPACE_PIXELS = 26, 900, 170, 20


def write_timeline(
    timeline: Timeline, path: str | os.PathLike[str], *, from_s: float = 0.0, to_s: float | None = None
) -> Path:
    """Writes ``timeline_figure`` as a self-contained page, whole or not at all.

    Raises:
        InputError: Nothing is left.
    """
    figure = timeline_figure(timeline, from_s=from_s, to_s=to_s)
    low, high = figure.layout.xaxis.range
    paragraphs = [_headline(timeline), HOW_TO_READ]
    if low > 0 or high < timeline.end_s:
        paragraphs.append(
            f"The picture shows {low:.6g} to {high:.6g} s of a run of {timeline.end_s:.6g} s (at most "
            f"{MAX_OPERATIONS} operations); the tables count all of it."
        )
    title = f"Timeline: {timeline.title}"
    return write_page(
        path, title=title, paragraphs=paragraphs, figures=[figure], tables=[_device_table(timeline)]
    )


def timeline_figure(timeline: Timeline, *, from_s: float = 0.0, to_s: float | None = None) -> go.Figure:
    """Operations and residents by device, and the queues below, on one time axis.

    Args:
        timeline: Timeline of one run.
        from_s: What ended before is left out.
        to_s: What begins after it is left out; None: the end of the run.

    Raises:
        InputError: Nothing is left.
    """
    to_s = timeline.end_s if to_s is None else min(to_s, timeline.end_s)
    if from_s >= to_s:
        raise InputError("--from", f"be before {to_s:.6g} s", from_s)
    operations = _within(timeline.operations, from_s, to_s)
    if len(operations) > MAX_OPERATIONS:
        to_s = float(operations["start_s"].iloc[MAX_OPERATIONS])
        operations = operations.iloc[:MAX_OPERATIONS]
    residents = _in_lanes(_within(timeline.residents, from_s, to_s))
    bases, height = _rows(timeline.devices, residents)
    pixels = round(min(_ROW_PIXELS * height + 40, _MOST_PIXELS))
    figure = make_subplots(
        rows=2,
        cols=1,
        shared_xaxes=True,
        vertical_spacing=_SPACE_PIXELS / (pixels + _QUEUE_PIXELS + _SPACE_PIXELS),
        row_heights=[pixels, _QUEUE_PIXELS],
    )
    most = timeline.operations.groupby("model")["gpu_layers"].max()
    for model, colour in zip(timeline.models, PALETTE * len(timeline.models), strict=False):
        for bars in _bars(operations, residents, model, colour, most, bases):
            figure.add_trace(bars, row=1, col=1)
    _add_queues(figure, timeline, from_s, to_s)
    labels = {bases[d] + 0.5: d for d in timeline.devices}
    figure.update_yaxes(
        row=1, range=[height, 0], tickvals=list(labels), ticktext=list(labels.values()), showgrid=False
    )
    figure.update_yaxes(row=2, title_text="requests", rangemode="tozero")
    figure.update_yaxes(fixedrange=True, zeroline=False)
    figure.update_xaxes(range=[from_s, to_s], zeroline=False)
    figure.update_xaxes(row=2, title_text="seconds")
    return figure.update_layout(
        title=timeline.title,
        barmode="overlay",
        hovermode="closest",
        template="plotly_white",
        height=pixels + _QUEUE_PIXELS + _SPACE_PIXELS + 100,
        legend={"groupclick": "togglegroup"},
        margin={"t": 50, "b": 50},
    )


def _within(frame: pd.DataFrame, from_s: float, to_s: float) -> pd.DataFrame:
    return frame[(frame["end_s"] >= from_s) & (frame["start_s"] <= to_s)]


def _in_lanes(residents: pd.DataFrame) -> pd.DataFrame:
    """Gives each resident the lowest lane of its device that is free: ``lane``."""
    lanes = []
    busy: dict[str, list[float]] = {}
    for row in each(residents):
        ends = busy.setdefault(row.device, [])
        lane = next((i for i, end_s in enumerate(ends) if end_s <= row.start_s), len(ends))
        ends[lane : lane + 1] = [row.end_s]
        lanes.append(lane)
    return residents.assign(lane=np.array(lanes, np.int64))


def _rows(devices: tuple[str, ...], residents: pd.DataFrame) -> tuple[dict[str, float], float]:
    """Where each device's rows begin, counted downwards, and where the last ends."""
    most: dict[Any, int] = residents.groupby("device")["lane"].max().to_dict()
    bases, at = {}, _GAP / 2
    for device in devices:
        bases[device] = at
        at += 1 + _LANE * (1 + most.get(device, -1)) + _GAP
    return bases, at


def _bars(
    operations: pd.DataFrame,
    residents: pd.DataFrame,
    model: str,
    colour: str,
    most: pd.Series[Any],
    bases: dict[str, float],
) -> Iterator[go.Bar]:
    for kind, pattern in _PATTERNS.items():
        rows = operations[(operations["model"] == model) & (operations["operation"] == kind)]
        if rows.empty:
            continue
        marker: dict[str, Any] = {
            "color": colour,
            "pattern": {"shape": pattern, "size": 6, "solidity": 0.35},
            "line": {"width": 0.5, "color": "white"},
        }
        details = np.column_stack(
            [rows["gpu_layers"], rows["request_ids"].map(len), rows["steps"], rows["evicted"].map(", ".join)]
        )
        more = {
            "run": "<br>%{customdata[1]} requests, %{customdata[2]} steps",
            "load": "<br>evicts: %{customdata[3]}",
        }.get(kind, "")
        tops = rows["device"].map(bases)
        yield _bar(rows, f"{kind} {model}", tops, 1.0, most, marker, details, more)
    rows = residents[residents["model"] == model]
    if len(rows):
        tops = rows["device"].map(bases) + 1 + _LANE * rows["lane"]
        marker = {"color": colour, "opacity": 0.35, "line": {"width": 0}}
        details = rows[["gpu_layers"]].to_numpy()
        yield _bar(rows, f"resident {model}", tops, _LANE, most, marker, details, "")


def _bar(
    rows: pd.DataFrame,
    name: str,
    tops: pd.Series[Any],
    lane: float,
    most: pd.Series[Any],
    marker: dict[str, Any],
    details: Any,
    more: str,
) -> go.Bar:
    share = (rows["gpu_layers"] / rows["model"].map(most).clip(lower=1)).astype(float)
    heights = lane * (0.25 + 0.65 * share)
    return go.Bar(
        orientation="h",
        base=rows["start_s"],
        x=rows["end_s"] - rows["start_s"],
        y=tops + 0.95 * lane - heights / 2,
        width=heights,
        marker=marker,
        name=name,
        legendgroup=name.split(maxsplit=1)[1],
        showlegend=False,
        customdata=details,
        hovertemplate=f"{name}, %{{customdata[0]}} layers on the device<br>"
        f"from %{{base:.6g}} s for %{{x:.4g}} s{more}<extra></extra>",
    )


def _add_queues(figure: go.Figure, timeline: Timeline, from_s: float, to_s: float) -> None:
    times, lengths = queue_lengths(timeline)
    first, last = np.searchsorted(times, [from_s, to_s])
    shown = slice(max(first - 1, 0), last + 1)
    for model, colour in zip(timeline.models, PALETTE * len(timeline.models), strict=False):
        figure.add_scatter(
            x=times[shown],
            y=lengths.get(model, np.zeros(len(times), np.int64))[shown],
            name=model,
            legendgroup=model,
            stackgroup="queues",
            line={"shape": "hv", "width": 0},
            fillcolor=colour,
            # A swatch in the legend takes the line's colour where there is no marker.
            marker={"color": colour},
            hovertemplate=f"{model}: %{{y}} in the system at %{{x:.6g}} s<extra></extra>",
            row=2,
            col=1,
        )


def _headline(timeline: Timeline) -> str:
    """What the devices did with their time, on average, in one sentence."""
    if not timeline.devices:
        return "No device did anything."
    shares = np.mean([_shares(timeline, device) for device in timeline.devices], axis=0)
    done = dict(zip(_PATTERNS, shares.tolist(), strict=True))
    many = f"{len(timeline.devices)} devices" if len(timeline.devices) > 1 else "The device"
    return (
        f"{many} ran requests in {done['run']:.1%} of {timeline.end_s:.6g} s, loaded models in "
        f"{done['load']:.1%}, and idled in {1 - sum(done.values()):.1%}."
    )


def _shares(timeline: Timeline, device: str) -> list[float]:
    """Shares of the run's time that a device spent on each kind of operation."""
    operations = timeline.operations[timeline.operations["device"] == device]
    lasted_s = operations["end_s"] - operations["start_s"]
    kinds = operations["operation"]
    return [float(lasted_s[kinds == kind].sum()) / timeline.end_s for kind in _PATTERNS]


def _device_table(timeline: Timeline) -> ReportTable:
    rows = []
    for device in timeline.devices:
        operations = timeline.operations[timeline.operations["device"] == device]
        kinds, shares = operations["operation"], _shares(timeline, device)
        counts = [int((kinds == kind).sum()) for kind in ("run", "load")]
        evicted = int(operations["evicted"].map(len).sum())
        texts = (f"{share:.1%}" for share in (*shares, 1 - sum(shares)))
        rows.append((device, *texts, *map(str, (*counts, evicted))))
    columns = ("device", "running", "loading", "evicting", "idle", "quanta", "loads", "evictions")
    note = f"Shares of {timeline.end_s:.6g} s, then counts. A load's time includes the evictions before it."
    return ReportTable("What the devices did", columns, tuple(rows), note)
