"""Request traces in one form, whoever recorded them: read, checked, and written."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shunter.envs.workload.formats.base import (
    MAX_ARRIVAL_S,
    NAMES,
    SECONDS,
    TOKENS,
    Reading,
    TimeUnit,
    TraceFormat,
    are_dates,
    are_written_whole,
    is_blank,
    names,
    numbers,
    since_first,
)
from shunter.envs.workload.formats.tables import Table
from shunter.envs.workload.trace_formats import FORMATS, WRITTEN, detect_format, trace_file
from shunter.errors import InputError, UnknownNameError
from shunter.files import replaced

__all__ = ["Trace", "convert_trace", "read_trace", "write_trace"]

TRACE_COLUMNS = {
    "arrival_s": "float64",
    "prompt_tokens": "int64",
    "decode_tokens": "int64",
    "model": "str",
    "session": "str",
}
"""Columns of a trace and their types; ``model`` and ``session`` are empty where the source names none."""

MAX_TOKENS = 10_000_000
"""Longer prompts and answers are taken for damage."""

SHORTEST_GAP_S, LONGEST_GAP_S = 1e-3, 60.0
FEW, MANY = 10, 100
"""So few with a mean gap beyond these, or all within a second, are asked about: their unit may be another.

So many at the very same time are asked about too.
"""

EPOCH_S = (1e9, 1e10)
"""Numbers between these are seconds since 1970, from 2001 on, and no milliseconds since a trace began."""

_ROW = "row of the file"
_TARGET = "--to (format of write_trace)"
_UNIT = "--time-unit (time_unit of a replay)"


@dataclass(frozen=True)
class Trace:
    """Requests in order of arrival.

    Attributes:
        frame: ``TRACE_COLUMNS``; arrivals start at 0 or later, every length is at least 1.
        format: Name in ``FORMATS`` that it was read as.
        notes: What was mended, one line each.
        unread: What else the file says of each request, by the file's own names, where it says anything.
    """

    frame: pd.DataFrame
    format: str
    notes: tuple[str, ...] = ()
    unread: pd.DataFrame = field(default_factory=pd.DataFrame)


@dataclass(frozen=True)
class _Rule:
    """What every row must satisfy, and what mending does about rows that do not."""

    column: str
    text: str
    holds: Callable[[pd.DataFrame], pd.Series[bool]]
    mended: str


_RULES = (
    _Rule("arrival_s", "be a time", lambda f: np.isfinite(f["arrival_s"]), "left out"),
    _Rule("prompt_tokens", "be a whole number", lambda f: _is_whole(f["prompt_tokens"]), "left out"),
    _Rule("decode_tokens", "be a whole number", lambda f: _is_whole(f["decode_tokens"]), "left out"),
    _Rule("arrival_s", "not be negative", lambda f: f["arrival_s"] >= 0, "left out"),
    _Rule(
        "arrival_s",
        f"be at most {MAX_ARRIVAL_S:,} s",
        lambda f: f["arrival_s"] <= MAX_ARRIVAL_S,
        "left out",
    ),
    _Rule("prompt_tokens", "be at least 1", lambda f: f["prompt_tokens"] >= 1, "left out"),
    _Rule("decode_tokens", "be at least 1", lambda f: f["decode_tokens"] >= 1, "left out"),
    _Rule(
        "prompt_tokens",
        f"be at most {MAX_TOKENS:,}",
        lambda f: f["prompt_tokens"] <= MAX_TOKENS,
        "left out",
    ),
    _Rule(
        "decode_tokens",
        f"be at most {MAX_TOKENS:,}",
        lambda f: f["decode_tokens"] <= MAX_TOKENS,
        "left out",
    ),
    _Rule(
        "arrival_s",
        "not be earlier than the row before",
        lambda f: f["arrival_s"].diff().fillna(0.0) >= 0,
        "put in order",
    ),
)


def read_trace(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    mend: bool = False,
    time_unit: TimeUnit | None = None,
    needs_arrivals: bool = True,
) -> Trace:
    """Reads a trace of any known format, gzipped or not.

    Args:
        path: The file, or the folder of a gateway's record.
        format: Name in ``FORMATS``; None: as all its columns show.
        mend: Leave bad rows out and put the others in order, and say so in ``notes``, instead of refusing:
            published traces hold failed requests without tokens.
        time_unit: Unit of the file's arrivals; None: that of its format.
        needs_arrivals: Whether arrivals matter. If not, files without any are read, all at 0, and nobody asks
            for a unit.

    Raises:
        InputError: There is no such file, a column is missing, a row breaks a rule, or the unit of time is
            open; names the row, counted from 1 without the header.
        BrokenFileError: It is truncated or not of its format.
        UnknownNameError: No such format.
    """
    if format is not None and format not in FORMATS:
        raise UnknownNameError("--format", format, FORMATS)
    is_record, path = Path(path).is_dir(), trace_file(Path(path))
    if not path.is_file():
        raise InputError("trace", "be an existing file", str(path))
    table = Table(path)
    name = format or ("gateway" if is_record else detect_format(table))
    known = FORMATS[name]
    reading, says_unit = _dated(known.read(table), known)
    if time_unit is not None and says_unit:
        raise InputError(_UNIT, f"be left out for {path}, which says its unit itself", time_unit)
    unit = time_unit or reading.unit or (None if needs_arrivals else "s")
    notes = list(reading.notes)
    frame = _valued(reading, needs_arrivals, path)
    is_time = np.isfinite(frame["arrival_s"]).to_numpy()
    if unit is None and not mend and is_time.any() and not is_time.all():
        # A row's fault is told before the unit is asked for.
        _mend(frame, _RULES[0], is_time, _column(path, known, "arrival_s"), None, table)
    if unit is None:
        raise InputError(_UNIT, f"be given: nothing says what unit the arrivals of {path} are in", None)
    frame["arrival_s"] *= SECONDS[unit]
    frame = _ordered(frame, known)
    first_s = frame["arrival_s"].min()
    if needs_arrivals and time_unit is None and not says_unit and MAX_ARRIVAL_S < first_s < np.inf:
        why = f"in {unit} all arrivals of {path} are after the year 2286"
        raise InputError(_UNIT, f"be a shorter one (ms, us, ns): {why}", None)
    for rule in _RULES:
        holds = rule.holds(frame).to_numpy()
        if not holds.all():
            where = _column(path, known, rule.column)
            frame = _mend(frame, rule, holds, where, notes if mend else None, table)
    if frame.empty:
        raise InputError(str(path), "hold requests", "none")
    if needs_arrivals and time_unit is None and not says_unit:
        _check_unit(path, frame["arrival_s"].to_numpy(), unit)
        if known.has_fractions and are_written_whole(reading.frame["arrival_s"]):
            why = f"all arrivals of {path} are whole numbers, where {name} has parts of a {unit}"
            raise InputError(_UNIT, f"be given: {why}", None)
    for column in NAMES:
        where = _column(path, known, column)
        frame[column] = names(frame.set_index(_ROW)[column], where).array if column in frame else ""
    unread = reading.unread.reindex(frame[_ROW]).reset_index(drop=True)
    kept = [column for column in unread if not unread[column].map(is_blank).all()]
    typed = frame.reset_index(drop=True).astype(TRACE_COLUMNS)[list(TRACE_COLUMNS)]
    return Trace(typed, name, tuple(notes), unread[kept])


def write_trace(
    frame: pd.DataFrame,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    unread: pd.DataFrame | None = None,
) -> None:
    """Writes a trace; readers see the old file or the new one.

    Args:
        frame: ``TRACE_COLUMNS``.
        path: The file; ``.gz`` compresses all but Parquet.
        format: Name in ``FORMATS``; None: ``shunter`` for ``.parquet``, ``mooncake`` for ``.jsonl``.
        unread: What else to keep, by the format's own names: ``Trace.unread`` of one read in it.

    Raises:
        InputError: The ending names no format and none was given, or traces are only read in it.
        UnknownNameError: No such format.
    """
    path = Path(path)
    name = _format_to_write(path, format)
    with replaced(path) as temporary:
        FORMATS[name].write(frame, temporary, pd.DataFrame(index=frame.index) if unread is None else unread)


def convert_trace(trace: Trace, path: str | os.PathLike[str], *, format: str | None = None) -> list[str]:
    """Writes a trace as ``write_trace`` does; in the format that it was read in, with all that it said.

    Args:
        trace: As read.
        path: The file.
        format: As of ``write_trace``.

    Returns:
        What of the trace the file does not hold, a line each.

    Raises:
        InputError: As ``write_trace``.
        UnknownNameError: As ``write_trace``.
    """
    name = _format_to_write(Path(path), format)
    is_same = name == trace.format
    write_trace(trace.frame, path, format=name, unread=trace.unread if is_same else None)
    lost = [] if is_same else list(map(str, trace.unread))
    for column in NAMES:
        named = trace.frame[column][trace.frame[column].ne("")]
        if len(named) and column not in FORMATS[name].columns:
            lost.append(f"{column} ({named.nunique()} in {len(named)} requests)")
    notes = [f"{path}: {name} cannot hold what {trace.format} says: {', '.join(lost)}"] if lost else []
    millis = trace.frame["arrival_s"] * 1e3
    if FORMATS[name].unit == "ms" and not np.allclose(millis, millis.round(), rtol=0, atol=1e-6):
        notes.append(f"{path}: arrivals rounded to milliseconds")
    return notes


def _format_to_write(path: Path, format: str | None) -> str:
    by_ending: dict[str, str] = {".parquet": "shunter", ".jsonl": "mooncake"}
    name = format or by_ending.get(Path(path.name.removesuffix(".gz")).suffix)
    if name is None:
        raise InputError(_TARGET, f"be given for a file named like this: {', '.join(WRITTEN)}", path.name)
    if name not in FORMATS:
        raise UnknownNameError(_TARGET, name, WRITTEN)
    if name not in WRITTEN:
        raise InputError(_TARGET, f"be one that traces are written in: {', '.join(WRITTEN)}", name)
    return name


def _dated(reading: Reading, known: TraceFormat) -> tuple[Reading, bool]:
    """A reading whose arrivals are numbers, be they dates in the file; and whether that says their unit."""
    if known.says_unit or "arrival_s" not in reading.frame or not are_dates(reading.frame["arrival_s"]):
        return reading, known.says_unit
    frame = reading.frame.assign(arrival_s=since_first(reading.frame["arrival_s"]))
    return replace(reading, frame=frame, unit="s"), True


def _valued(reading: Reading, needs_arrivals: bool, path: Path) -> pd.DataFrame:
    """A reading's rows with numbers for what are numbers, arrivals in their unit, and which row each was.

    Raises:
        InputError: There are no arrivals though needed.
    """
    frame = reading.frame.reset_index(names=_ROW)
    if "arrival_s" not in frame:
        if needs_arrivals:
            raise InputError(str(path), "hold arrivals: lengths alone serve as workload.lengths", "none")
        frame["arrival_s"] = 0.0
    for column in ("arrival_s", *TOKENS):
        frame[column] = numbers(frame[column])
    return frame


def _ordered(frame: pd.DataFrame, known: TraceFormat) -> pd.DataFrame:
    return frame if known.is_sorted else frame.sort_values("arrival_s", kind="stable", ignore_index=True)


def _check_unit(path: Path, arrivals_s: np.ndarray, unit: TimeUnit | None) -> None:
    """Refuses what is far more probably a wrong unit than traffic.

    Raises:
        InputError: So many requests in so short, or so long, a time; or they begin at a date in seconds.
    """
    first = float(arrivals_s[0] / SECONDS[unit]) if unit else 0.0
    if unit != "s" and EPOCH_S[0] <= first < EPOCH_S[1]:
        rule = f"say s, ms, us or ns: {path} begins at {first:.0f}, which could be seconds since 1970"
        raise InputError(_UNIT, rule, None)
    count, span_s = len(arrivals_s), float(np.ptp(arrivals_s))
    gap_s = span_s / max(1, count - 1)
    is_odd = 0 < span_s < 1 or 0 < gap_s < SHORTEST_GAP_S or gap_s > LONGEST_GAP_S
    if (count >= FEW and is_odd) or (count >= MANY and span_s < 1):
        rule = f"say s, ms, us or ns: {path} in {unit} would be {count} requests in {span_s:.3g} s"
        raise InputError(_UNIT, rule, None)


def _column(path: Path, known: TraceFormat, column: str) -> str:
    """What errors call a column: by the file's own name."""
    return f"{path}: column {known.columns.get(column, column)}"


def _is_whole(values: pd.Series[Any]) -> pd.Series[bool]:
    return values.mod(1.0).eq(0.0)


def _mend(
    frame: pd.DataFrame, rule: _Rule, holds: Any, where: str, notes: list[str] | None, table: Table
) -> pd.DataFrame:
    if notes is None:
        position = int((~holds).argmax())
        value, row = frame[rule.column].iloc[position], frame[_ROW].iloc[position]
        shown = _as_written(table, where, row) if pd.isna(value) else value
        raise InputError(f"{where}, row {row + 1}", f"{rule.text} (--mend repairs this)", shown)
    notes.append(f"{where} must {rule.text}: {int((~holds).sum())} rows {rule.mended}")
    if rule.mended == "put in order":
        return frame.sort_values("arrival_s", kind="stable").reset_index(drop=True)
    kept: pd.DataFrame = frame.loc[holds]
    return kept.reset_index(drop=True)


def _as_written(table: Table, where: str, row: int) -> Any:
    """What a file has where nothing readable was found, if that is a cell of its own."""
    column = where.removeprefix(f"{table.path}: column ")
    value = table.rows[column].iloc[row] if column in table.keys else None
    return "nothing readable" if is_blank(value) else value
