"""Which measurements lie far from their configuration's median; they are flagged, never dropped."""

from __future__ import annotations

import numpy as np
import pandas as pd

LEAST_REPEATS = 5
"""Configurations with fewer rows flag nothing: their median absolute deviation says too little."""

_MOST_Z = 3.5
_LEAST_MAD = 0.01
_OF_A_CONFIGURATION = ["hardware_id", "engine_version", "cell_id"]


def flag_outliers(frame: pd.DataFrame) -> pd.Series[bool]:
    """Flags rows whose duration is far from the others of their configuration, hardware and engine.

    The modified z-score 0.6745 |x - median| / MAD of x = log(duration) is over 3.5. The logarithm makes twice
    as long and half as long equally far. The median absolute deviation counts as at least 0.01, so that in a
    configuration of nearly equal values nothing within 5 % of the median is flagged.

    Source: Iglewicz and Hoaglin, How to Detect and Handle Outliers, ASQC 1993, page 11: the score and its
    limit of 3.5.

    Args:
        frame: A dataset; shape (n_rows, n_columns).

    Returns:
        Shape (n_rows,), the frame's index.
    """
    if frame.empty:
        return pd.Series(False, index=frame.index)
    keys = [frame[name] for name in _OF_A_CONFIGURATION]
    logs = pd.Series(np.log(frame["duration_s"].to_numpy().clip(min=1e-9)), index=frame.index)
    away = (logs - logs.groupby(keys).transform("median")).abs()
    mad = away.groupby(keys).transform("median").clip(lower=_LEAST_MAD)
    count = logs.groupby(keys).transform("size")
    far = (0.6745 * away / mad).to_numpy() > _MOST_Z
    flags: pd.Series[bool] = count.ge(LEAST_REPEATS) & far
    return flags
