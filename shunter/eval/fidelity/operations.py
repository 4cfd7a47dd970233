"""Operations of real runs against what the performance model predicts of them, one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from shunter.errors import InputError
from shunter.eval.execution.runs import Run
from shunter.eval.fidelity.spans import Span, run_spans

__all__ = ["OPERATIONS", "operation_fidelity"]

OPERATIONS = {
    "load_s": "load",
    "unload_s": "unload",
    "prefill_s": "prefill",
    "decode_step_s": "decode",
    "kv_save_s": "KV save",
    "kv_restore_s": "KV restore",
}
"""Targets of the performance model, and how tables call them."""

SHORTEST_S = 1e-6
"""Spans below the resolution of an engine's clock say nothing."""


@dataclass(frozen=True)
class OperationFidelity:
    """Spans that mostly hold one kind of operation.

    Attributes:
        operation: One of ``OPERATIONS``, or ``all``.
        devices: ``any``; where a node has several devices also ``alone`` and ``co-running``: whether another
            device of the node was at work for more than half of the span.
        spans: How many.
        measured_s: What they took in all.
        predicted_s: What they should have taken.
        error: Error of the sum: predicted / measured - 1.
        mean_error: Mean of abs(predicted / measured - 1).
        median_error: Its median.
    """

    operation: str
    devices: str
    spans: int
    measured_s: float
    predicted_s: float
    error: float
    mean_error: float
    median_error: float


def operation_fidelity(runs: Sequence[Run]) -> tuple[tuple[OperationFidelity, ...], int]:
    """Measured against predicted, by operation.

    Args:
        runs: Real ones.

    Returns:
        A row per operation, then one for all; and how many runs were left out, since their logs hold
        operations that failed.
    """
    frames, left_out = [], 0
    for run in runs:
        world, rows = run.log.world, run.log.frame()
        try:
            spans = run_spans(world, world.draw(run.seed), rows)
        except InputError:
            left_out += 1
            continue
        frames.append(_frame(spans, rows, [d.name for d in world.scenario.devices]))
    if not frames or not sum(map(len, frames)):
        return (), left_out
    return tuple(_rows(pd.concat(frames, ignore_index=True))), left_out


def _frame(spans: Sequence[Span], rows: pd.DataFrame, devices: Sequence[str]) -> pd.DataFrame:
    busy = rows[rows["operation"].isin(["run", "load", "evict"]) & rows["end_s"].notna()]
    others = {d: busy.loc[busy["device"] != d, ["start_s", "end_s"]].to_numpy() for d in devices}
    records = []
    for span in spans:
        if span.measured_s < SHORTEST_S or span.predicted_s < SHORTEST_S:
            continue
        part = max(span.parts_s, key=lambda p: span.parts_s[p])
        beside_s = _overlap_s(span, others[devices[part.device]])
        records.append((part.target, span.measured_s, span.predicted_s, beside_s / span.measured_s > 0.5))
    frame = pd.DataFrame(records, columns=["target", "measured_s", "predicted_s", "beside"])
    return frame.assign(several=len(devices) > 1)


def _overlap_s(span: Span, busy: np.ndarray) -> float:
    if not len(busy):
        return 0.0
    until = np.minimum(busy[:, 1], span.start_s + span.measured_s)
    return float(np.clip(until - np.maximum(busy[:, 0], span.start_s), 0.0, None).sum())


def _rows(frame: pd.DataFrame) -> Iterator[OperationFidelity]:
    groups = [(OPERATIONS[t], frame[frame["target"] == t]) for t in OPERATIONS]
    for name, rows in [*groups, ("all", frame)]:
        parts = [("any", rows)]
        if rows["several"].any():
            parts += [("alone", rows[~rows["beside"]]), ("co-running", rows[rows["beside"]])]
        yield from (_row(name, devices, part) for devices, part in parts if len(part))


def _row(operation: str, devices: str, rows: pd.DataFrame) -> OperationFidelity:
    errors = (rows["predicted_s"] / rows["measured_s"] - 1).abs()
    measured_s, predicted_s = float(rows["measured_s"].sum()), float(rows["predicted_s"].sum())
    return OperationFidelity(
        operation,
        devices,
        len(rows),
        measured_s,
        predicted_s,
        predicted_s / measured_s - 1,
        float(errors.mean()),
        float(errors.median()),
    )
