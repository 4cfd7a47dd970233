"""Request traces in one form, whoever recorded them: read, checked, and written."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shunter.envs.workload.trace_formats import FORMATS, detect_format, trace_file
from shunter.errors import InputError, UnknownNameError
from shunter.files import replaced

__all__ = ["Trace", "read_trace", "write_trace"]

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


@dataclass(frozen=True)
class Trace:
    """Requests in order of arrival.

    Attributes:
        frame: ``TRACE_COLUMNS``; arrivals start at 0 or later, every length is at least 1.
        format: Name in ``FORMATS`` that it was read as.
        notes: What was mended, one line each.
    """

    frame: pd.DataFrame
    format: str
    notes: tuple[str, ...] = ()


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


def read_trace(path: str | os.PathLike[str], *, format: str | None = None, mend: bool = False) -> Trace:
    """Reads a trace of any known format, gzipped or not.

    Args:
        path: The file, or the folder of a gateway's record.
        format: Name in ``FORMATS``; None: as its ending and header show.
        mend: Leave bad rows out and put the others in order, and say so in ``notes``, instead of refusing:
            published traces hold failed requests without tokens.

    Raises:
        InputError: There is no such file, a column is missing, or a row breaks a rule; names the row, counted
            from 1 without the header.
        BrokenFileError: It is truncated or not of its format.
        UnknownNameError: No such format.
    """
    path = trace_file(Path(path))
    name = format or detect_format(path)
    if name not in FORMATS:
        raise UnknownNameError("--format", name, FORMATS)
    if not path.is_file():
        raise InputError("trace", "be an existing file", str(path))
    known = FORMATS[name]
    frame = known.read(path)
    for column in ("arrival_s", "prompt_tokens", "decode_tokens"):
        frame[column] = pd.to_numeric(frame[column], errors="coerce")
    notes: list[str] = list(frame.attrs.get("notes", ()))
    for rule in _RULES:
        holds = rule.holds(frame).to_numpy()
        if not holds.all():
            where = f"{path}: column {known.columns[rule.column]}"
            frame = _mend(frame, rule, holds, where, notes if mend else None)
    if frame.empty:
        raise InputError(str(path), "hold requests", "none")
    for column in ("model", "session"):
        frame[column] = frame[column].fillna("") if column in frame else ""
    typed = frame.reset_index(drop=True).astype(TRACE_COLUMNS)[list(TRACE_COLUMNS)]
    return Trace(typed, name, tuple(notes))


def write_trace(frame: pd.DataFrame, path: str | os.PathLike[str], *, format: str | None = None) -> None:
    """Writes a trace; readers see the old file or the new one.

    Args:
        frame: ``TRACE_COLUMNS``.
        path: The file; ``.gz`` compresses all but Parquet.
        format: Name in ``FORMATS``; None: ``shunter`` for ``.parquet``, ``mooncake`` for ``.jsonl``.

    Raises:
        InputError: The ending names no format and none was given.
        UnknownNameError: No such format.
    """
    path = Path(path)
    by_ending: dict[str, str] = {".parquet": "shunter", ".jsonl": "mooncake"}
    name = format or by_ending.get(Path(path.name.removesuffix(".gz")).suffix)
    if name is None:
        raise InputError("--format", f"be given for a file named like this: {', '.join(FORMATS)}", path.name)
    if name not in FORMATS:
        raise UnknownNameError("--format", name, FORMATS)
    with replaced(path) as temporary:
        FORMATS[name].write(frame, temporary)


def _is_whole(values: pd.Series[Any]) -> pd.Series[bool]:
    return values.mod(1.0).eq(0.0)


def _mend(frame: pd.DataFrame, rule: _Rule, holds: Any, where: str, notes: list[str] | None) -> pd.DataFrame:
    if notes is None:
        position = int((~holds).argmax())
        value = frame[rule.column].iloc[position]
        shown = "nothing readable" if pd.isna(value) else value
        raise InputError(f"{where}, row {position + 1}", f"{rule.text} (--mend repairs this)", shown)
    notes.append(f"{where} must {rule.text}: {int((~holds).sum())} rows {rule.mended}")
    if rule.mended == "put in order":
        return frame.sort_values("arrival_s", kind="stable").reset_index(drop=True)
    kept: pd.DataFrame = frame.loc[holds]
    return kept.reset_index(drop=True)
