"""Rows that were measured while their GPU was held back: a fit takes them for what it is like."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pandas as pd

from shunter.profiling.meters.energy import HARMLESS_REASONS

__all__ = ["throttled", "throttled_words"]

_REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "heat",
    0x40: "heat (hardware)",
    0x80: "power brake",
}
"""Source: nvml.h, nvmlClocksThrottleReason*."""

_LEAST_CLOCK_SHARE = 0.7
"""Boost clocks sink by some per cent as a GPU warms up; one that lost so much more was held back."""


def throttled(frame: pd.DataFrame) -> pd.Series[bool]:
    """Marks rows with a reason in ``throttle_reasons``, or an SM clock under 70 % of that GPU's highest.

    What a machine did not report marks nothing.

    Args:
        frame: A dataset; shape (n_rows, n_columns).

    Returns:
        Shape (n_rows,), the frame's index.
    """
    return _slow(frame) | (_reasons(frame) > 0)


def throttled_words(frame: pd.DataFrame) -> str:
    """How many rows of a dataset are throttled, and why: ``3 of 40 rows (power cap 2, low clock 1)``.

    Returns:
        Empty if none is.
    """
    bad = throttled(frame)
    if not bad.any():
        return ""
    reasons, slow = _reasons(frame), _slow(frame)
    known = np.bitwise_or.reduce(list(_REASONS))
    why = Counter({name: int(((reasons & bit) > 0).sum()) for bit, name in _REASONS.items()})
    why["other reasons"] = int(((reasons & ~known) > 0).sum())
    why["low clock"] = int(slow.sum())
    counts = ", ".join(f"{name} {count}" for name, count in why.items() if count)
    return f"{int(bad.sum())} of {len(frame)} rows ({counts})"


def _reasons(frame: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Reasons that slow a measurement: a dataset from elsewhere may hold the harmless ones too."""
    return frame["throttle_reasons"].fillna(0).clip(0, 2**53).to_numpy().astype(np.int64) & ~HARMLESS_REASONS


def _slow(frame: pd.DataFrame) -> pd.Series[bool]:
    clock = frame["sm_clock_mhz"]
    highest = clock.groupby([frame["hardware_id"], frame["device"]]).transform("max")
    slow: pd.Series[bool] = clock < _LEAST_CLOCK_SHARE * highest
    return slow
