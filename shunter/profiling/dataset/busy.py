"""Rows that were measured while other programs used the machine: predictions are of a machine like that."""

from __future__ import annotations

import pandas as pd

from shunter.profiling.meters.watch import BUSY_CORES

__all__ = ["busy_words"]


def busy_words(frame: pd.DataFrame) -> str:
    """What other programs used of the CPU while a dataset was measured, where that is much.

    Args:
        frame: A dataset; shape (n_rows, n_columns).

    Returns:
        ``other programs used 1.7 CPU cores at the median row``; empty where they used less than
        ``BUSY_CORES``, or no row says.
    """
    known = frame["background_cores"].dropna()
    if known.empty or known.median() < BUSY_CORES:
        return ""
    return f"other programs used {known.median():.1f} CPU cores at the median row"
