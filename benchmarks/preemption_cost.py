"""Errors of predicted preemption costs on an unseen GPU, and of published loads by where bytes come from.

``python -m benchmarks.preemption_cost [--quick] --json PATH``; under a minute. Everything is nested: a fold's
rows are predicted by a model that was fitted, with its spreads and widths, to the others alone.

The paper's table has two GPUs in hosts that are described alike: what distinguishes an unseen one has to be
known from one other. The reference rows say what that leaves. Loads of all sources are predicted by
``shunter.models.published.loads``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from benchmarks.form import Row, at_most, main, reported
from benchmarks.model_accuracy import preemption_cells
from benchmarks.model_blind import held_to_coverage
from shunter.models.performance import PerformanceModel
from shunter.models.published.load_rows import load_rows, refused_loads
from shunter.models.published.loads import LoadModel
from shunter.uncertainty import bootstrap, ratio_of_sums

__all__ = ["held_out_cells", "held_out_loads", "run"]

_BAR = 0.08
_SPLITS = {"source": "source_url", "GPU": "gpu"}
_DRAWS = 1000
_ENDS = ("predicted", "low", "high")


def run(quick: bool) -> list[Row]:
    """All rows; quick: the paper's table only."""
    rows = list(_preemption_rows())
    why = "; ".join(f"{count}: {reason}" for reason, count in refused_loads().value_counts().items())
    rows.append(
        reported("published loads and sleeps, used", len(load_rows()), "cells", note=f"not used: {why}")
    )
    for split in () if quick else _SPLITS:
        rows += _load_rows(split, held_out_loads(split))
    return rows


def held_out_cells(calibrated: bool = False) -> pd.DataFrame:
    """The paper's six cells, each predicted by a performance model that has none of its GPU.

    Args:
        calibrated: Whether the model has one cell of that GPU after all, each in turn, and predicts the rest.

    Returns:
        A row a prediction: ``gpu``, ``cell``, ``true_s``, ``predicted_s``, ``low_s``, ``high_s`` and
        ``out_of_range``.
    """
    cells = preemption_cells()
    names = [name for name in cells if name != "cell"]
    found = []
    for gpu in cells["device"].unique():
        mine = cells["device"] == gpu
        own = list(cells.loc[mine, "cell"].unique())
        for known in own if calibrated else [None]:
            model = PerformanceModel().fit(cells.loc[~mine | (cells["cell"] == known), names])
            for asked in own:
                if asked != known:
                    done = model.predict(cells.loc[cells["cell"] == asked, names])
                    parts = done[["duration_s", *(f"duration_s_{end}" for end in _ENDS)]].sum()
                    found.append((gpu, asked, *parts, bool(done["out_of_range"].any())))
    columns = ["gpu", "cell", "true_s", "predicted_s", "low_s", "high_s", "out_of_range"]
    return pd.DataFrame(found, columns=columns)


def held_out_loads(split: str, rows: pd.DataFrame | None = None) -> pd.DataFrame:
    """Published loads, each predicted by a model that has none of its group.

    Args:
        split: ``source`` or ``GPU``.
        rows: As from ``load_rows``; None: all of them.

    Returns:
        The rows with ``group``, ``true_s``, ``predicted_s``, ``low_s`` and ``high_s``.
    """
    rows = load_rows() if rows is None else rows
    groups, parts = rows[_SPLITS[split]], []
    for group in groups.unique():
        out = groups == group
        done = LoadModel.fit(rows[~out]).predict(rows[out])
        parts.append(rows[out].join(done).assign(group=group))
    short = {"duration_s": "true_s", **{f"duration_s_{end}": f"{end}_s" for end in _ENDS}}
    together: pd.DataFrame = pd.concat(parts).rename(columns=short)
    return together


def _preemption_rows() -> Iterator[Row]:
    done = held_out_cells()
    name = "preemption cost, leave one GPU out, 6 cells of 2 GPUs"
    off = done["predicted_s"] / done["true_s"] - 1
    listed = ", ".join(f"{gpu} {value:+.1%}" for gpu, value in zip(done["gpu"], off, strict=True))
    yield at_most(reported(f"{name}: mean error", float(off.abs().mean()), note=listed), _BAR)
    yield from _interval_rows(name, done.assign(group=done["gpu"]), judged=False)
    by_model = done["true_s"].to_numpy().reshape(2, -1)
    copied = np.abs(np.concatenate([by_model[1] / by_model[0], by_model[0] / by_model[1]]) - 1)
    note = "no model: the other GPU's own figure of the same model"
    name = "preemption cost, the other GPU's figure instead: mean error"
    yield reported(name, float(copied.mean()), note=note)
    middle = np.abs(np.sqrt(np.concatenate([by_model[1] / by_model[0], by_model[0] / by_model[1]])) - 1)
    note = (
        "what is left if one figure must do for both, since their links and their hosts are described alike"
    )
    name = "preemption cost, the geometric mean of both GPUs instead: mean error"
    yield reported(name, float(middle.mean()), note=note)
    again = held_out_cells(calibrated=True)
    error = float((again["predicted_s"] / again["true_s"] - 1).abs().mean())
    note = f"{len(again)} predictions: from each other cell of the GPU in turn"
    yield reported("preemption cost, after one cell measured on the GPU: mean error", error, note=note)


def _load_rows(split: str, done: pd.DataFrame) -> Iterator[Row]:
    name = f"published loads and sleeps, leave one {split} out"
    done = done.assign(error=(done["predicted_s"] / done["true_s"] - 1).abs())
    for path, part in [("", done), *done.groupby("path")]:
        by_group = part.groupby("group")["error"].agg(["sum", "size"]).to_numpy(dtype=np.float64)
        ends = bootstrap(by_group, ratio_of_sums, resamples=_DRAWS)[1:] if len(by_group) > 1 else None
        ratio = (part["predicted_s"] / part["true_s"]).median()
        note = f"{len(part)} rows, {len(by_group)} groups; median {part['error'].median():.3g}"
        note += f", median predicted / true {ratio:.3g}"
        which = f"{name}, {path}" if path else name
        yield reported(f"{which}: mean error", float(part["error"].mean()), interval=ends, note=note)
    yield from _interval_rows(name, done, judged=True)


def _interval_rows(name: str, done: pd.DataFrame, *, judged: bool) -> Iterator[Row]:
    """Coverage with each group counting alike, since a group's rows err together, and widths."""
    inside = done["true_s"].between(done["low_s"], done["high_s"])
    by_group = inside.groupby(done["group"]).mean()
    share = float(by_group.mean())
    note = f"of all rows alike {inside.mean():.3g}; {len(by_group)} groups"
    if not judged:
        note += ": of so few a share between 0.85 and 0.95 cannot be told"
    row = reported(f"{name}: inside the 90 % interval, groups alike", share, note=note)
    yield held_to_coverage(row) if judged else row
    half = done.assign(half=np.log(done["high_s"] / done["low_s"]) / 2).groupby("group")["half"].mean()
    yield reported(f"{name}: mean log half width, groups alike", float(half.mean()))


def _main(argv: Sequence[str] | None = None) -> int:
    return main("preemption_cost", run, "Errors of preemption costs and loads on what was not seen.", argv)


if __name__ == "__main__":
    sys.exit(_main())
