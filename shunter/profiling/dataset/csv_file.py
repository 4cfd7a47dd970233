"""Profile datasets as CSV, exact to the last bit: numbers are written so that they read back unchanged.

A CSV file has no metadata, so the schema's version stands in its own column, and a line that a full disk or
a careless copy cut short is found by its number of cells and by its missing line end.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from shunter.errors import BrokenFileError, InputError, VersionError
from shunter.profiling.dataset.schema import COLUMNS, SCHEMA_VERSION, Column, readable_version
from shunter.reading import check_names, read_text, reading
from shunter.sinks import csv_frame, from_csv_frame

_BOOLS = {"True": True, "False": False, "true": True, "false": False, "TRUE": True, "FALSE": False}


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Writes a validated frame; missing numbers are empty cells."""
    csv_frame(frame).to_csv(path, index=False, lineterminator="\n")


def read_csv(path: Path) -> tuple[pd.DataFrame, int]:
    """Reads a file of ``write_csv``, or one that a spreadsheet saved again; values are not validated yet.

    Returns:
        The frame, and the schema version that it was written for.

    Raises:
        BrokenFileError: It is no text, or a line is cut short.
        VersionError: It was written for another schema version.
        InputError: A cell does not hold a value of its column's type.
    """
    lines = _lines(path)
    header, body = lines[0], lines[1:]
    check_names(path, header)
    frame = from_csv_frame(pd.DataFrame(body, columns=header, dtype="str"))
    if "schema_version" not in frame:
        raise BrokenFileError(path, "it is no profile dataset: it has no column schema_version")
    versions = set(frame["schema_version"]) or {str(SCHEMA_VERSION)}
    if len(versions) > 1:
        raise VersionError(path, "the dataset schema", min(versions), SCHEMA_VERSION)
    version = readable_version(versions.pop(), path)
    for column in COLUMNS:
        if column.name in frame and column.dtype != "str":
            values = [_value(text, column, i, path) for i, text in enumerate(frame[column.name])]
            frame[column.name] = pd.Series(values, index=frame.index, dtype=column.dtype)
    return frame, version


def _lines(path: Path) -> Sequence[list[str]]:
    text = read_text(path)
    with reading(path):
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    if not lines:
        raise BrokenFileError(path, "it is empty")
    if not text.endswith("\n"):
        raise BrokenFileError(path, "its last line has no end: it was cut short")
    for number, line in enumerate(lines, 1):
        if len(line) != len(lines[0]):
            raise BrokenFileError(path, f"row {number} has {len(line)} cells, the first {len(lines[0])}")
    return lines


def _value(text: str, column: Column, row: int, path: Path) -> Any:
    field = f"{path}: row {row}, column {column.name}"
    if column.dtype == "bool":
        if text not in _BOOLS:
            raise InputError(field, "be True or False", text)
        return _BOOLS[text]
    if column.dtype == "float64" and text == "":
        return float("nan")
    try:
        return float(text) if column.dtype == "float64" else int(text)
    except ValueError as error:
        kind = "number" if column.dtype == "float64" else "whole number"
        raise InputError(field, f"be a {kind}", text) from error
