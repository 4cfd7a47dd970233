"""Whether what a file says of requests and operations can be: numbers, not negative, in order of time."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pandas as pd

from shunter.errors import BrokenFileError, InputError
from shunter.reading import reading

MOST_S = 1e10
"""Times beyond it are damage: seconds since 1970 stay below it until 2286."""
MOST = 1e15
"""Tokens and bytes beyond it are."""
_ROUNDING_S = 1e-6


def check_range(path: str | os.PathLike[str], frame: pd.DataFrame, names: Iterable[str]) -> None:
    """Checks columns of numbers, or of lists of numbers; missing ones say nothing.

    Args:
        path: The file, which the error names.
        frame: Its rows.
        names: Columns; those that end in ``_s`` hold times.

    Raises:
        BrokenFileError: A column holds something else than numbers.
        InputError: A number is not finite, negative or beyond all reason; names row, column and value.
    """
    for name in names:
        most = MOST_S if name.endswith("_s") else MOST
        with reading(path, f"column {name} holds no numbers: "):
            one = frame[name].explode()
            if pd.api.types.is_bool_dtype(one) or pd.api.types.is_datetime64_any_dtype(one):
                raise BrokenFileError(path, f"column {name} holds no numbers")
            values = pd.to_numeric(one).to_numpy(np.float64, na_value=np.nan)
        bad = ~(np.isnan(values) | ((values >= 0) & (values <= most)))
        if bad.any():
            first = int(bad.argmax())
            row = f"{path}: row {one.index[first]}, column {name}"
            raise InputError(row, f"be a number from 0 to {most:g}", float(values[first]))


def check_given(path: str | os.PathLike[str], frame: pd.DataFrame, names: Iterable[str]) -> None:
    """Checks that columns have a value in every row.

    Raises:
        BrokenFileError: One lacks it; names the row and the column.
    """
    for name in names:
        missing = frame[name].isna().to_numpy()
        if missing.any():
            raise BrokenFileError(path, f"row {frame.index[int(missing.argmax())]} lacks {name}")


def check_order(
    path: str | os.PathLike[str], frame: pd.DataFrame, names: Iterable[str], within_s: float = _ROUNDING_S
) -> None:
    """Checks that columns of times follow one another in every row, where both are known.

    Args:
        path: The file, which errors name.
        frame: Its rows.
        names: Columns, in the order of their times.
        within_s: Seconds by which a time may come too early.

    Raises:
        InputError: One does not; names row, column and value.
    """
    names = list(names)
    times = [pd.to_numeric(frame[name]).to_numpy(np.float64, na_value=np.nan) for name in names]
    for i, (earlier, later) in enumerate(pairwise(times)):
        bad = later < earlier - within_s
        if bad.any():
            first = int(bad.argmax())
            row = f"{path}: row {frame.index[first]}, column {names[i + 1]}"
            rule = f"not be before {names[i]}, {earlier[first]:g}"
            raise InputError(row, rule, float(later[first]))


def check_lengths(path: str | os.PathLike[str], frame: pd.DataFrame, names: Iterable[str]) -> None:
    """Checks that columns of lists hold lists of one length in every row.

    Raises:
        BrokenFileError: They do not; names the row and the columns.
    """
    names = list(names)
    with reading(path, f"columns {', '.join(names)} hold no lists: "):
        lengths = np.column_stack([frame[name].map(len).to_numpy(np.int64) for name in names])
    uneven = (lengths != lengths[:, :1]).any(axis=1)
    if uneven.any():
        row = frame.index[int(uneven.argmax())]
        raise BrokenFileError(path, f"row {row}: {', '.join(names)} must be of one length")
