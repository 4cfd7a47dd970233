"""Where a performance model is farthest off, by what was measured: the first place to look for why."""

from __future__ import annotations

import numpy as np
import pandas as pd

from shunter.report.page import ReportTable

__all__ = ["largest_errors"]

_BY = ["target", "engine", "device", "model"]
_SHOWN = 8
_CLEAR = 2.0
"""Times by which the middle error of a group must exceed that of its target to be shown."""
_LEAST = 0.05


def largest_errors(held_out: pd.DataFrame) -> list[tuple[str, ...]]:
    """Targets, engines, devices and models whose held-out configurations are all off one way, worst first.

    Args:
        held_out: ``Validation.held_out``; shape (n_rows, any).

    Returns:
        Target, what was measured, and how many times the prediction it took in the median, with its rows.
    """
    if held_out.empty:
        return []
    rows = held_out[(held_out["split"] == "random cells") & held_out["predicted"].notna()]
    if rows.empty:
        return []
    ratio = np.maximum(rows["measured"], rows["smallest"]) / np.maximum(rows["predicted"], rows["smallest"])
    rows = rows.assign(error=np.log(ratio))
    usual = rows["error"].abs().groupby(rows["target"]).median()
    groups = rows.groupby(_BY, sort=True)["error"].agg(["median", "size"]).reset_index()
    groups["size_of"] = groups["median"].abs()
    beyond = np.maximum(_CLEAR * groups["target"].map(usual), _LEAST)
    groups = groups[groups["size_of"] > beyond].sort_values("size_of", ascending=False, kind="stable")
    return [
        (target, f"{engine} {device}, {model}", f"{np.exp(median):.2f} times", f"({size} rows)")
        for target, engine, device, model, median, size, _ in groups.head(_SHOWN).to_numpy().tolist()
    ]


def largest_errors_table(held_out: pd.DataFrame) -> list[ReportTable]:
    """The same as a table; none where nothing stands out."""
    rows = tuple(largest_errors(held_out))
    note = (
        "Held-out random cells of one target, device and model whose median is off by more than twice the "
        "target's median error, worst first. One that stands alone beside its like says to measure it again; "
        "several of one device or model say that physics lacks a term for it, or data to calibrate one."
    )
    columns = ("target", "of", "measured over predicted, median", "rows")
    return [ReportTable("Largest errors", columns, rows, note)] if rows else []
