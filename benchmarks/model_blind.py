"""Any table of published rates against the performance model that is shipped: how wrong, and whether it knew.

The table is in the format of ``shunter/data/throughput.csv.gz`` and ``benchmarks/published/llama_bench.csv``.
A row's error is that of its time: of one decode step, or of the prompt. Medians of predicted / true above 1
say that the model is too slow there.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pandas as pd

from benchmarks.form import Row, at_least, at_most, reported
from shunter.errors import InputError
from shunter.models.performance import PerformanceModel
from shunter.models.published.performance import ENGINE, published_performance
from shunter.models.published.rows import published_frame, refused
from shunter.profiling.dataset.rates import read_rates
from shunter.profiling.dataset.reference import rates_reference

__all__ = ["PLACEMENTS", "blind_rows", "held_to_coverage", "scored"]

COVERED = (0.85, 0.95)
"""Share of rows that intervals of 90 % should hold."""

PLACEMENTS = (
    *("all layers on one GPU", "several sequences at once", "split over GPUs"),
    *("layers on the host", "layers on a host that is not known", "no GPU"),
)
_BARS = {"decode": 0.08, "prefill": 0.18}
_MOST_REASONS = 6


def blind_rows(path: str | os.PathLike[str], model: PerformanceModel | None = None) -> list[Row]:
    """Scores a table.

    Args:
        path: The table.
        model: A performance model of llama.cpp; None: the one that is shipped.

    Returns:
        For each operation, and each placement of its layers, errors and what intervals were worth.

    Raises:
        InputError: The file is no such table, or none of its rows can be predicted.
    """
    reference = rates_reference(read_rates(path))
    why = Counter(filter(None, (refused(row) for _, row in reference.iterrows())))
    frame = published_frame(reference)
    frame = frame[frame["engine"] == ENGINE].reset_index(drop=True)
    if frame.empty:
        raise InputError(str(path), "have rows of llama.cpp that can be predicted", _listed(why))
    done = scored(frame, model or published_performance())
    rows = [reported("rows scored", len(done), note=f"of {len(reference)}; left out: {_listed(why)}")]
    for operation, bar in _BARS.items():
        asked = done[done["operation"] == operation]
        if len(asked):
            rows += _scores(operation, asked, bar)
            for placement in PLACEMENTS:
                part = asked[asked["placement"] == placement]
                rows += _scores(f"{operation}, {placement}", part, None) if len(part) else []
    return rows


def _listed(why: Counter[str]) -> str:
    most = why.most_common(_MOST_REASONS)
    rest = sum(why.values()) - sum(n for _, n in most)
    listed = [f"{n}: {reason}" for reason, n in most] + ([f"{rest} for other reasons"] if rest else [])
    return "; ".join(listed) or "none"


def scored(frame: pd.DataFrame, model: PerformanceModel) -> pd.DataFrame:
    """Rows with their predictions, and what a score is of.

    Args:
        frame: Published rows as a dataset; shape (n_rows, ...).
        model: Predicts them.

    Returns:
        The frame with the columns of ``PerformanceModel.predict`` and ``ratio`` (predicted / true time),
        ``error``, ``inside`` its interval, ``half_width`` of that as a log ratio, ``placement``.
    """
    done = model.predict(frame)
    true_s, predicted_s = done["duration_s"], done["duration_s_predicted"]
    return done.assign(
        ratio=predicted_s / true_s,
        error=(predicted_s / true_s - 1).abs(),
        inside=true_s.between(done["duration_s_low"], done["duration_s_high"]),
        half_width=np.log(done["duration_s_high"] / done["duration_s_low"]) / 2,
        placement=placements(done),
    )


def placements(frame: pd.DataFrame) -> list[str]:
    """Where rows have their layers, as one of ``PLACEMENTS``."""
    host = (frame["gpu_layers"] < frame["total_layers"]) | (frame["kv_on_host"] > 0)
    found = np.select(
        [
            frame["device_kind"] == "cpu",
            host & frame["host_bandwidth_bytes_per_s"].isna(),
            host,
            frame["gpu_count"] > 1,
            frame["batch"] > 1,
        ],
        [5, 4, 3, 2, 1],
        0,
    )
    return [PLACEMENTS[i] for i in found]


def _scores(name: str, done: pd.DataFrame, bar: float | None) -> Iterator[Row]:
    by_gpu = done.groupby("device")["ratio"].agg(["median", "size"])
    listed = ", ".join(f"{gpu} {r['median']:.2f} ({r['size']:.0f})" for gpu, r in by_gpu.iterrows())
    error = reported(f"{name}: mean error", float(done["error"].mean()), note=f"{len(done)} rows")
    yield error if bar is None else at_most(error, bar)
    yield reported(f"{name}: median error", float(done["error"].median()))
    yield reported(
        f"{name}: median predicted / true", float(done["ratio"].median()), note=f"by GPU (rows): {listed}"
    )
    yield from coverage(name, done, judged=bar is not None)
    missed = done[~done["inside"]]
    if len(missed):
        share = float(missed["out_of_range"].mean())
        yield reported(f"{name}: share of misses flagged out of range", share, note=f"{len(missed)} misses")


def coverage(name: str, done: pd.DataFrame, *, judged: bool) -> Iterator[Row]:
    """Share of rows inside their intervals, in the note each GPU's rows alike, and how wide these are.

    Args:
        name: Begins the metrics.
        done: As from ``scored``.
        judged: Whether to hold the share to ``COVERED``.
    """
    note = f"GPUs alike: {done.groupby('device')['inside'].mean().mean():.3g}"
    row = reported(f"{name}: inside the 90 % interval", float(done["inside"].mean()), note=note)
    yield held_to_coverage(row) if judged else row
    yield reported(f"{name}: mean log half width", float(done["half_width"].mean()))


def held_to_coverage(row: Row) -> Row:
    """Holds a share inside 90 % intervals to that end of ``COVERED`` beyond which it may be."""
    too_many = (row.value or 0.0) > COVERED[1]
    return at_most(row, COVERED[1]) if too_many else at_least(row, COVERED[0])
