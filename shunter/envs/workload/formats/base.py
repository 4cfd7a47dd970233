"""What every format of traces keeps: how it is recognised, read and written."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd

from shunter.envs.workload.formats.tables import Table
from shunter.errors import InputError
from shunter.files import open_text
from shunter.sinks import csv_frame

__all__ = ["TimeUnit"]

TimeUnit = Literal["s", "ms", "us", "ns"]

SECONDS: Mapping[TimeUnit, float] = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
"""Seconds of a unit of time."""

MAX_ARRIVAL_S = 10_000_000_000
"""Later arrivals, in the year 2286 if they count from 1970, are taken for damage or a wrong unit."""

_ABSURD = 1e30
"""What is larger is no time, in any unit, and no number of tokens."""

TOKENS = ("prompt_tokens", "decode_tokens")
NAMES = ("model", "session")


@dataclass(frozen=True)
class Reading:
    """What a format makes of a table, before any value is checked.

    Attributes:
        frame: ``prompt_tokens`` and ``decode_tokens`` and, where the file has them, ``arrival_s`` (numbers in
            ``unit``), ``model`` and ``session``: values as they stand, a row for each request that counts.
        unit: Unit of the arrivals; None: neither the file nor who publishes such files says.
        unread: What else the file says of each row, by its own names.
        notes: What was left out on the way, a line each.
    """

    frame: pd.DataFrame
    unit: TimeUnit | None = "s"
    unread: pd.DataFrame = field(default_factory=pd.DataFrame)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TraceFormat:
    """A format whose rows are requests and whose columns have names of their own.

    Attributes:
        source: Who publishes traces in it.
        columns: The format's own names of ``arrival_s``, ``prompt_tokens``, ``decode_tokens`` and, where it
            has them, ``model`` and ``session``.
        keys: Columns besides the three that a file has if it is of this format.
        unit: Unit of its arrivals.
        says_unit: Whether the file itself says it: a date, a name with a unit, a clock of the program that
            wrote it. Otherwise it can be told otherwise, and an implausible rate is asked about.
        has_fractions: Whether who publishes it writes parts of its unit: of a file of whole numbers alone
            nobody knows the unit.
        is_sorted: Whether rows are in order of arrival; those of logs are in the order of their ends.
        is_written: Whether traces can be written in it.
    """

    source: str
    columns: Mapping[str, str]
    keys: frozenset[str] = frozenset()
    unit: TimeUnit = "s"
    says_unit: bool = False
    has_fractions: bool = False
    is_sorted: bool = True
    is_written: bool = False

    @property
    def needed(self) -> tuple[str, ...]:
        """The format's names of what every row has."""
        return tuple(self.columns[ours] for ours in ("arrival_s", *TOKENS) if ours in self.columns)

    def matches(self, table: Table) -> bool:
        """Whether a table is of this format, by all its columns."""
        return table.keys >= {*self.needed, *self.keys}

    def nearly_matches(self, table: Table) -> bool:
        """Whether but one of the three columns is there: the error then names that one."""
        return len(self.needed) == 3 and len(table.keys & set(self.needed)) == 2

    def read(self, table: Table) -> Reading:
        """What a table says, values as they stand.

        Raises:
            BrokenFileError: The file is truncated or not of this format.
            InputError: A column is missing, or a row is no request that arrives at a time.
        """
        rows = table.rows
        for name in (*self.needed, *sorted(self.keys)):
            if name not in rows:
                raise InputError(f"{table.path}: columns", f"hold {name!r}", sorted(table.keys))
        held = {ours: name for ours, name in self.columns.items() if name in rows}
        frame = pd.DataFrame({ours: rows[name] for ours, name in held.items()})
        return Reading(frame, self.unit, rows.drop(columns=list(held.values())))

    def write(self, frame: pd.DataFrame, path: Path, unread: pd.DataFrame) -> None:
        """Writes a checked trace.

        Args:
            frame: ``TRACE_COLUMNS``.
            path: Where to, gzipped if the name ends in ``.gz``.
            unread: Columns of the same format that a trace does not hold, to be kept; may have none.
        """
        raise NotImplementedError


def columns(arrival: str, prompt: str, decode: str, **more: str) -> dict[str, str]:
    """Names of a format's columns by ours."""
    return {"arrival_s": arrival, "prompt_tokens": prompt, "decode_tokens": decode, **more}


def write_csv(out: Mapping[str, Any], unread: pd.DataFrame, path: Path) -> None:
    """Writes columns as CSV, and beside them those that were read from the same format and not understood."""
    whole = pd.DataFrame(out)
    for name in unread.columns.difference(whole.columns, sort=False):
        whole[name] = unread[name].array
    with open_text(path, "wt") as text:
        csv_frame(whole).to_csv(text, index=False)


def write_json_lines(rows: Iterable[Mapping[str, Any]], unread: pd.DataFrame, path: Path) -> None:
    """Writes a JSON object a row, with what was read from the same format and not understood."""
    beside = records(unread) if len(unread.columns) else None
    with open_text(path, "wt") as text:
        for n, row in enumerate(rows):
            kept = {key: value for key, value in beside[n].items() if not is_blank(value)} if beside else {}
            text.write(json.dumps({**kept, **row}, default=_plain) + "\n")


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A frame's rows, columns by name."""
    return cast(list[dict[str, Any]], frame.to_dict("records"))


def is_blank(value: Any) -> bool:
    """Whether a value stands for nothing: None, not a number, an empty text, list or object."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or value is pd.NA or (hasattr(value, "__len__") and len(value) == 0)


def numbers(values: pd.Series[Any]) -> pd.Series[float]:
    """Values as numbers; not a number where one is a truth, a date, a list or anything else, or is absurd."""
    kind = values.dtype.kind if isinstance(values.dtype, np.dtype) else ""
    if kind and kind in "iu":
        return values
    if kind == "f":
        found = values
    elif pd.api.types.is_bool_dtype(values) or pd.api.types.is_datetime64_any_dtype(values):
        return pd.Series(np.nan, values.index)
    else:
        texts = values.map(lambda value: value if _is_number_or_text(value) else None)
        found = pd.to_numeric(texts, errors="coerce")
    plain = pd.Series(found.to_numpy(dtype=np.float64, na_value=np.nan), values.index)
    return plain.where(plain.abs() < _ABSURD) if plain.abs().max() >= _ABSURD else plain


def names(values: pd.Series[Any], where: str) -> pd.Series[str]:
    """Values as names, empty where there is none; spaces around one are no part of it.

    Args:
        values: Texts and numbers; their index says in which row of the file each is, from 0.
        where: What an error calls them.

    Raises:
        InputError: One is neither text nor number.
    """
    rows = zip(values, values.index.to_numpy() + 1, strict=True)
    found = [_name(value, f"{where}, row {row}") for value, row in rows]
    return pd.Series(found, values.index, dtype=object)


def are_written_whole(values: pd.Series[Any]) -> bool:
    """Whether values, which are not all one, are all written without a decimal point."""
    if isinstance(values.dtype, np.dtype) and values.dtype.kind in "iuf":
        return values.dtype.kind != "f" and values.nunique() > 1
    texts = values.map(lambda value: str(value).strip() if isinstance(value, int | str) else "0.5")
    return bool(texts.str.fullmatch(r"-?\d*").all() and texts.nunique() > 1)


def since_first(times: pd.Series[Any]) -> pd.Series[float]:
    """Seconds from the first of some dates, ISO 8601, with or without a fraction or an offset.

    Returns:
        Not a number where a value is no date.
    """
    if not pd.api.types.is_datetime64_any_dtype(times):
        # A year alone, or seconds since some time, would be taken for dates.
        times = times.map(
            lambda value: value if isinstance(value, str) and value.strip()[4:5] == "-" else None
        )
    parsed = pd.to_datetime(times, format="ISO8601", errors="coerce", utc=True)
    return pd.Series((parsed - parsed.min()).dt.total_seconds())


def are_dates(times: pd.Series[Any]) -> bool:
    """Whether times are dates and not numbers, broken ones aside."""
    return bool(numbers(times).isna().all() and since_first(times).notna().any())


def dates_or_seconds(times: pd.Series[Any], where: str) -> pd.Series[float]:
    """Seconds from the first of some times that are all dates, or all seconds since 1970.

    Args:
        times: As they stand.
        where: What an error calls them.

    Raises:
        InputError: One is a number that must count something shorter than seconds.
    """
    if are_dates(times):
        return since_first(times)
    since_1970 = numbers(times)
    late = np.flatnonzero(since_1970 > MAX_ARRIVAL_S)
    if len(late):
        rule = "be a date, or seconds since 1970 and not a shorter unit"
        raise InputError(f"{where}, row {late[0] + 1}", rule, times.iloc[late[0]])
    return since_1970


def _name(value: Any, where: str) -> str:
    if is_blank(value):
        return ""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    if isinstance(value, bool | np.bool_) or not isinstance(value, str | int | float | np.number):
        raise InputError(where, "be a name", value)
    return str(value).strip()


def _is_number_or_text(value: Any) -> bool:
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) < _ABSURD
    return isinstance(value, float | str | np.number) and not isinstance(value, np.bool_)


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
