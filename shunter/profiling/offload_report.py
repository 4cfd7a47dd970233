"""Decode speed against the offload ratio: absolute, and relative to all layers on the device."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from shunter.errors import InputError
from shunter.report.page import COLOURS, ReportTable, write_page

__all__ = ["offload_curves", "offload_findings", "offload_tables", "write_offload_page"]

_CURVE = ["engine", "device", "model", "quantization", "batch", "prompt_tokens", "decode_tokens"]
_DASHES = ("solid", "dash", "dot", "dashdot")


def offload_curves(rows: pd.DataFrame, *, batch: int = 1) -> pd.DataFrame:
    """Summarises the decode rows of datasets as curves over the offload ratio.

    Args:
        rows: Profile dataset (``shunter.profiling.dataset.schema``); several may be concatenated.
        batch: Only rows with that many requests decoded together.

    Returns:
        One row per curve (engine, device, model, quantization, batch, prompt and decode tokens) and level:
        ``offload_ratio``, ``gpu_layers``, ``total_layers``, ``weight_bytes``, ``context_tokens``,
        ``repeats``, then median, q25, q75, min and max of ``tokens_per_s`` (all requests together), and the
        same divided by the curve's median with all layers on the device (``relative_median``, …; NaN where
        there is none). Models by size.

    Raises:
        InputError: No decode rows, or none with that batch.
    """
    decode = rows[(rows["operation"] == "decode") & rows["tokens_per_s"].notna()]
    if decode.empty:
        raise InputError("DATASET", "hold decode rows", f"{len(rows)} rows of other operations")
    known = sorted(decode["batch"].unique().tolist())
    decode = decode[decode["batch"] == batch]
    if decode.empty:
        raise InputError("--batch", f"be one that was profiled: {', '.join(map(str, known))}", batch)
    level = ["offload_ratio", "gpu_layers", "total_layers"]
    curves = (
        decode.groupby([*_CURVE, *level], sort=False)
        .agg(
            weight_bytes=("weight_bytes", "first"),
            context_tokens=("context_tokens", "mean"),
            repeats=("tokens_per_s", "size"),
            median=("tokens_per_s", "median"),
            q25=("tokens_per_s", lambda values: values.quantile(0.25)),
            q75=("tokens_per_s", lambda values: values.quantile(0.75)),
            min=("tokens_per_s", "min"),
            max=("tokens_per_s", "max"),
        )
        .reset_index()
    )
    whole = curves[curves["offload_ratio"] == 0].set_index(_CURVE)["median"]
    base = curves[_CURVE].merge(whole.rename("whole").reset_index(), how="left", on=_CURVE)["whole"]
    for name in ("median", "q25", "q75", "min", "max"):
        curves[f"relative_{name}"] = curves[name] / base.to_numpy()
    return curves.sort_values([*_CURVE[:2], "weight_bytes", *_CURVE[2:], "offload_ratio"]).reset_index(
        drop=True
    )


def offload_findings(curves: pd.DataFrame) -> list[str]:
    """A line per curve: how much is lost at the most offloaded level, and where it is slowest."""
    return [_finding(name, curve) for name, curve in _named_curves(curves)]


def offload_tables(curves: pd.DataFrame) -> list[ReportTable]:
    """One table a model, engine and device."""
    tables = []
    for (engine, device, model, quantization), group in curves.groupby(_CURVE[:4], sort=False):
        rows = tuple(
            (
                f"{r.offload_ratio:.0%}",
                f"{r.gpu_layers} of {r.total_layers}",
                f"{r.context_tokens:.0f}",
                str(r.repeats),
                f"{r.median:.2f}",
                f"{r.q25:.2f} to {r.q75:.2f}",
                f"{r.min:.2f} to {r.max:.2f}",
                "-" if np.isnan(float(str(r.relative_median))) else f"{r.relative_median:.3f}",
            )
            for r in group.sort_values(["prompt_tokens", "decode_tokens", "offload_ratio"]).itertuples()
        )
        columns = (
            "offloaded",
            "gpu_layers",
            "context",
            "repeats",
            "tokens/s",
            "quartiles",
            "range",
            "relative",
        )
        tables.append(ReportTable(f"{model} ({quantization}) on {engine}, {device}", columns, rows))
    return tables


def write_offload_page(curves: pd.DataFrame, path: str | os.PathLike[str], *, sources: Sequence[str]) -> Path:
    """Writes the page: the curves absolute and relative, and all tables.

    Args:
        curves: From ``offload_curves``.
        path: Path of the HTML file.
        sources: Lines that say where the rows come from.
    """
    note = (
        "Points are medians of repeats, thick bars their quartiles and thin bars their range. Relative: to "
        "the median of the same curve with all layers on the device."
    )
    return write_page(
        path,
        title="Decode speed against the share of layers left on the host",
        paragraphs=[*offload_findings(curves), *sources, note],
        figures=[
            _figure(curves, "", "Tokens per second", "tokens/s"),
            _figure(curves, "relative_", "Relative to all layers on the device", "share"),
        ],
        tables=offload_tables(curves),
    )


def _named_curves(curves: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Curves with names that say only what differs between them, beside model and context."""
    telling = [c for c in ("engine", "device", "quantization") if curves[c].nunique() > 1]
    named = []
    for _, curve in curves.groupby(_CURVE, sort=False):
        first = curve.iloc[0]
        words = [str(first["model"]), *(str(first[c]) for c in telling)]
        named.append((f"{', '.join(words)}, context {first['context_tokens']:.0f}", curve))
    return named


def _finding(name: str, curve: pd.DataFrame) -> str:
    last = curve.iloc[-1]
    slowest = curve.iloc[int(curve["median"].argmin())]
    if len(curve) < 2:
        return f"{name}: only one level was profiled ({last['offload_ratio']:.0%} offloaded)."
    if np.isnan(last["relative_median"]):
        return f"{name}: never profiled with all layers on the device, so there is nothing to compare with."
    text = (
        f"{name}: {_change(last)} at {last['offload_ratio']:.0%} offloaded against all layers on the device"
    )
    if slowest["offload_ratio"] in (0, last["offload_ratio"]):
        return f"{text}."
    return f"{text}; slowest at {slowest['offload_ratio']:.0%} offloaded: {_change(slowest)}."


def _change(point: pd.Series[Any]) -> str:
    low, high = point["relative_min"] - 1, point["relative_max"] - 1
    return f"{point['relative_median'] - 1:+.1%} (repeats {low:+.1%} to {high:+.1%})"


def _figure(curves: pd.DataFrame, prefix: str, title: str, unit: str) -> go.Figure:
    figure = go.Figure()
    places = list(dict.fromkeys(map(tuple, curves[_CURVE[:4]].to_numpy().tolist())))
    lengths = sorted(set(map(tuple, curves[_CURVE[5:]].to_numpy().tolist())))
    for name, curve in _named_curves(curves):
        first = curve.iloc[0]
        colour = COLOURS[places.index(tuple(first[_CURVE[:4]])) % len(COLOURS)]
        dash = _DASHES[lengths.index(tuple(first[_CURVE[5:]])) % len(_DASHES)]
        _add_curve(figure, name, curve, prefix, {"color": colour, "dash": dash})
    return figure.update_layout(
        title=title,
        xaxis={"title": "offload ratio: share of layers on the host", "range": [-0.03, 1.03]},
        yaxis={"title": unit, "rangemode": "tozero"},
        template="plotly_white",
        height=460,
    )


def _add_curve(figure: go.Figure, name: str, curve: pd.DataFrame, prefix: str, line: dict[str, Any]) -> None:
    middle = curve[f"{prefix}median"]
    for low, high, width in (("min", "max", 1), ("q25", "q75", 4)):
        is_line = low == "q25"
        figure.add_scatter(
            x=curve["offload_ratio"],
            y=middle,
            error_y={
                "array": curve[f"{prefix}{high}"] - middle,
                "arrayminus": middle - curve[f"{prefix}{low}"],
                "thickness": width,
                "width": 0 if is_line else 4,
            },
            mode="lines+markers" if is_line else "markers",
            name=name,
            legendgroup=name,
            showlegend=is_line,
            line=line,
            marker={"size": 7, "color": line["color"]},
        )
