"""Requests of a gateway as bars: a lane for each that a device had at once, and for each that waited."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from shunter.eval.timeline import each

WAITING = "(waiting)"
"""What the rows of those are called whom no server has yet."""

MOST_LANES = 24
"""Requests at once that are drawn of a device; where there are more, the rest is counted and left out."""

HOW_TO_READ_LANES = (
    "Below its residents each device has a thin row for every request that its servers had at once: pale "
    "from when it was sent to its first token, full from there to its end. A whole answer, not streamed, is "
    f"pale: nobody saw its first token. {WAITING} are requests that no server had yet, from their arrival on."
)
_SHORTEST_WAIT_S = 0.001
_OPACITY = {"wait": 0.6, "first token": 0.4, "answer": 0.95}
_PATTERN = {"wait": ".", "first token": "", "answer": ""}


def request_lanes(requests: pd.DataFrame, end_s: float) -> pd.DataFrame:
    """Requests as pieces of lanes.

    Args:
        requests: As a gateway's timeline has them: ``sent_s``, ``device`` and ``status`` are there.
        end_s: End of the run, at which those end that have not.

    Returns:
        A row per piece: device (``WAITING`` for none), model, request_id, status, phase (``wait``, ``first
        token``, ``answer``), start_s, end_s, lane (from 0, the lowest that is free).
    """
    finish_s = requests["finish_s"].fillna(end_s)
    sent_s = requests["sent_s"]
    waits = requests.assign(device=WAITING, start_s=requests["arrival_s"], end_s=sent_s.fillna(finish_s))
    waits = waits[waits["end_s"] - waits["start_s"] >= _SHORTEST_WAIT_S].assign(phase="wait")
    served = requests.assign(start_s=sent_s, end_s=finish_s).dropna(subset=["start_s", "device"])
    served = served[served["end_s"] > served["start_s"]]
    whole = in_lanes(pd.concat([waits, served]))
    columns = ["device", "model", "request_id", "status", "phase", "start_s", "end_s", "lane"]
    is_served = whole["device"] != WAITING
    first_s = whole["first_token_s"].fillna(whole["end_s"]).clip(whole["start_s"], whole["end_s"])
    before = whole[is_served].assign(phase="first token", end_s=first_s[is_served])
    after = whole[is_served].assign(phase="answer", start_s=first_s[is_served])
    pieces = pd.concat([whole[~is_served], before, after])
    return pieces[pieces["end_s"] > pieces["start_s"]][columns].reset_index(drop=True)


def request_bars(
    lanes: pd.DataFrame, model: str, colour: str, bases: dict[str, float], height: float
) -> Iterator[go.Bar]:
    """The bars of a model's requests.

    Args:
        lanes: From ``request_lanes``, as far as they are drawn.
        model: Name of the model.
        colour: Its colour.
        bases: Where each device's first lane begins, downwards.
        height: Of a lane.
    """
    mine = lanes[lanes["model"] == model]
    for phase, rows in mine.groupby("phase", sort=True):
        yield go.Bar(
            orientation="h",
            base=rows["start_s"],
            x=rows["end_s"] - rows["start_s"],
            y=rows["device"].map(bases) + height * (rows["lane"] + 0.5),
            width=0.85 * height,
            marker={
                "color": colour,
                "opacity": _OPACITY[str(phase)],
                "line": {"width": 0},
                "pattern": {"shape": _PATTERN[str(phase)], "size": 4, "solidity": 0.5},
            },
            name=f"{phase} {model}",
            legendgroup=model,
            showlegend=False,
            customdata=rows[["request_id", "status"]].to_numpy(),
            hovertemplate=f"{model}, request %{{customdata[0]}} (%{{customdata[1]}}): {phase}<br>"
            "from %{base:.6g} s for %{x:.4g} s<extra></extra>",
        )


def in_lanes(spans: pd.DataFrame) -> pd.DataFrame:
    """Gives each span of time the lowest lane of its device that is free when it begins.

    Args:
        spans: device, start_s, end_s, and whatever else.

    Returns:
        The same in order of their starts, and ``lane``, from 0.
    """
    spans = spans.sort_values("start_s", kind="stable")
    lanes: list[int] = []
    busy: dict[str, list[tuple[float, int]]] = {}
    free: dict[str, list[int]] = {}
    for row in each(spans):
        mine, left = busy.setdefault(row.device, []), free.setdefault(row.device, [])
        while mine and mine[0][0] <= row.start_s:
            heapq.heappush(left, heapq.heappop(mine)[1])
        lane = heapq.heappop(left) if left else len(mine)
        heapq.heappush(mine, (row.end_s, lane))
        lanes.append(lane)
    return spans.assign(lane=np.array(lanes, np.int64))
