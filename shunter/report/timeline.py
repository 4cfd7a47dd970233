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
from shunter.report.request_lanes import (
    HOW_TO_READ_LANES,
    MOST_LANES,
    WAITING,
    in_lanes,
    request_bars,
    request_lanes,
)

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
_GAP, _LANE, _REQUEST = 0.5, 0.6, 0.35  # between devices, of a resident, and of a request, in rows
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
    if timeline.of_gateway:
        paragraphs += [HOW_TO_READ_LANES, *_left_out(timeline)]
    if low > 0 or high < timeline.end_s:
        paragraphs.append(
            f"The picture shows {low:.6g} to {high:.6g} s of a run of {timeline.end_s:.6g} s (at most "
            f"{MAX_OPERATIONS} operations and as many requests); the tables count all of it."
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
    lanes = _request_lanes(timeline, from_s, to_s)
    if len(lanes) > MAX_OPERATIONS:
        lanes = lanes.sort_values("start_s", kind="stable").iloc[:MAX_OPERATIONS]
        to_s = float(lanes["start_s"].iloc[-1])
    residents = in_lanes(_within(timeline.residents, from_s, to_s))
    bases, below, height = _rows(timeline.devices, residents, lanes)
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
        for bars in request_bars(lanes, model, colour, below, _REQUEST):
            figure.add_trace(bars, row=1, col=1)
    _add_queues(figure, timeline, from_s, to_s)
    labels = {at + 0.5: device for device, at in bases.items()}
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


def _request_lanes(timeline: Timeline, from_s: float, to_s: float) -> pd.DataFrame:
    """Pieces of requests that can be drawn; none where there are no clients."""
    if not timeline.of_gateway:
        return request_lanes(timeline.requests.iloc[:0].assign(sent_s=0.0, device="", status=""), 0.0)
    lanes = request_lanes(timeline.requests, timeline.end_s)
    return _within(lanes[lanes["lane"] < MOST_LANES], from_s, to_s)


def _left_out(timeline: Timeline) -> Iterator[str]:
    """How many requests have no lane, and why."""
    lanes = request_lanes(timeline.requests, timeline.end_s)
    beyond = lanes[lanes["lane"] >= MOST_LANES]["request_id"].nunique()
    if beyond:
        yield f"{beyond} requests are not drawn: more than {MOST_LANES} ran on a device or waited at once."
    placeless = timeline.requests["sent_s"].notna() & timeline.requests["device"].isna()
    if placeless.any():
        yield f"Of {int(placeless.sum())} requests the record does not name the device: they have no row."


def _rows(
    devices: tuple[str, ...], residents: pd.DataFrame, lanes: pd.DataFrame
) -> tuple[dict[str, float], dict[str, float], float]:
    """Where each device's rows and its requests' begin, counted downwards, and where the last ends."""
    most: dict[Any, int] = residents.groupby("device")["lane"].max().to_dict()
    requests: dict[Any, int] = lanes.groupby("device")["lane"].max().to_dict()
    bases, below, at = {}, {}, _GAP / 2
    for device in devices:
        bases[device] = at
        below[device] = at + 1 + _LANE * (1 + most.get(device, -1))
        at = below[device] + _REQUEST * (1 + requests.get(device, -1)) + _GAP
    if WAITING in requests:
        bases[WAITING] = below[WAITING] = at
        at += max(1.0, _REQUEST * (1 + requests[WAITING])) + _GAP
    return bases, below, at


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
            [
                rows["gpu_layers"],
                rows["request_ids"].map(len),
                rows["steps"],
                rows["evicted"].map(", ".join),
                [_remarks(row) for row in each(rows)],
            ]
        )
        more = {
            "run": "<br>%{customdata[1]} requests, %{customdata[2]} steps",
            "load": "<br>evicts: %{customdata[3]}%{customdata[4]}",
            "evict": "%{customdata[4]}",
        }[kind]
        tops = rows["device"].map(bases)
        yield _bar(rows, f"{kind} {model}", tops, 1.0, most, marker, details, more)
    rows = residents[residents["model"] == model]
    if len(rows):
        tops = rows["device"].map(bases) + 1 + _LANE * rows["lane"]
        marker = {"color": colour, "opacity": 0.35, "line": {"width": 0}}
        details = rows[["gpu_layers"]].to_numpy()
        yield _bar(rows, f"resident {model}", tops, _LANE, most, marker, details, "")


def _remarks(operation: Any) -> str:
    """Why an operation was, and how it failed, as far as the log says."""
    servers = ", ".join(operation.servers) or None
    remarks = {"because of": operation.cause, "failed": operation.fault_reason, "engines": servers}
    return "".join(f"<br>{word}: {text}" for word, text in remarks.items() if isinstance(text, str))


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
    done = dict(zip((*_PATTERNS, "idle"), shares.tolist(), strict=True))
    many = f"{len(timeline.devices)} devices" if len(timeline.devices) > 1 else "The device"
    return (
        f"{many} ran requests in {done['run']:.1%} of {timeline.end_s:.6g} s, loaded models in "
        f"{done['load']:.1%}, and idled in {done['idle']:.1%}."
    )


def _shares(timeline: Timeline, device: str) -> list[float]:
    """Shares of the run's time that a device spent on each kind of operation, and on none.

    A gateway's device runs requests while it loads.
    """
    times = ["start_s", "end_s"]
    operations = timeline.operations[timeline.operations["device"] == device]
    spans = [operations[operations["operation"] == kind][times] for kind in _PATTERNS]
    if timeline.of_gateway:
        requests = timeline.requests[timeline.requests["device"] == device]
        finish_s = requests["finish_s"].fillna(timeline.end_s)
        spans[0] = pd.DataFrame({"start_s": requests["sent_s"], "end_s": finish_s})
    covered = [_covered_s(part) for part in (*spans, pd.concat(spans))]
    return [seconds / timeline.end_s for seconds in (*covered[:-1], timeline.end_s - covered[-1])]


def _covered_s(spans: pd.DataFrame) -> float:
    """Seconds in which there is any of some spans of time."""
    spans = spans.sort_values("start_s")
    starts_s, ends_s = spans["start_s"].to_numpy(np.float64), spans["end_s"].to_numpy(np.float64)
    before_s = np.maximum.accumulate(np.concatenate([[-np.inf], ends_s]))[:-1]
    return float(np.maximum(0.0, ends_s - np.maximum(starts_s, before_s)).sum())


def _device_table(timeline: Timeline) -> ReportTable:
    rows = []
    for device in timeline.devices:
        operations = timeline.operations[timeline.operations["device"] == device]
        kinds, shares = operations["operation"], _shares(timeline, device)
        counts = [int((kinds == kind).sum()) for kind in ("run", "load")]
        if timeline.of_gateway:
            counts[0] = int((timeline.requests["device"] == device).sum())
        evicted = int(operations["evicted"].map(len).sum())
        texts = (f"{share:.1%}" for share in shares)
        rows.append((device, *texts, *map(str, (*counts, evicted))))
    run = "requests" if timeline.of_gateway else "quanta"
    columns = ("device", "running", "loading", "evicting", "idle", run, "loads", "evictions")
    note = f"Shares of {timeline.end_s:.6g} s, then counts. A load's time includes the evictions before it."
    return ReportTable("What the devices did", columns, tuple(rows), note)
