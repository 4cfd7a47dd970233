"""What pictures of several pages draw alike: bands, and bars of intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import plotly.colors as pc
import plotly.graph_objects as go

__all__ = ["MODE_DASHES", "add_band"]

MODE_DASHES = {"simulated": "dot", "real": "solid"}


def add_band(figure: go.Figure, x: Any, low: Any, high: Any, colour: str, **place: Any) -> None:
    """Draws what lies between two curves, each of shape (n_points,); pale, and not in the legend."""
    red, green, blue = pc.hex_to_rgb(colour)
    figure.add_scatter(
        x=[*x, *list(x)[::-1]],
        y=[*high, *list(low)[::-1]],
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.15)",
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
        **place,
    )


def error_bars(intervals: Iterable[tuple[Any, Any, Any]], **look: Any) -> dict[str, Any]:
    """Intervals, each a value with both ends, as plotly's ``error_x``; unknown ends have none."""
    ends = [(_length(value, low), _length(high, value)) for value, low, high in intervals]
    down, up = zip(*ends, strict=True) if ends else ((), ())
    return {"type": "data", "symmetric": False, "array": list(up), "arrayminus": list(down), **look}


def _length(high: float | None, low: float | None) -> float:
    return 0.0 if high is None or low is None or math.isnan(high - low) else high - low
