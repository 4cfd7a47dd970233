"""The containers that traces come in, as tables: CSV, TSV, JSON, JSON lines and Parquet, gzipped or not."""

from __future__ import annotations

import codecs
import csv
import io
import re
import zlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import csv as arrow_csv

from shunter.errors import BrokenFileError, InputError
from shunter.parquet import as_frame, read_table
from shunter.reading import first_line, from_json, gunzipped, read_bytes
from shunter.sinks import from_csv_frame

_PARQUET = b"PAR1"
_DAMAGE = (OSError, EOFError, ValueError, RecursionError, zlib.error, csv.Error, pa.ArrowException)
_MAX_BLOCK_BYTES = 2**31 - 1
_MOST_BYTES = 2**31
"""Of a trace: a week of a whole region's requests has two thirds."""


class Table:
    """A file's rows as they stand, opened when they are asked for.

    Args:
        path: The file; what it is, its first bytes say, not its name.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def text(self) -> str:
        """The file's text, without a byte-order mark.

        Raises:
            BrokenFileError: It cannot be read, or is no text.
        """
        try:
            data = self._bytes
            wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
            return data.decode("utf-16" if wide else "utf-8-sig")
        except _DAMAGE as error:
            raise BrokenFileError(self.path, first_line(error)) from None

    @cached_property
    def lines(self) -> list[tuple[int, str]]:
        """The lines of the text that hold something, with their numbers from 1."""
        return [(n, line) for n, line in enumerate(self.text.split("\n"), 1) if line.strip()]

    @property
    def is_text(self) -> bool:
        """Whether it is anything but Parquet."""
        return self.path.suffix != ".parquet" and not self._bytes.startswith(_PARQUET)

    @property
    def is_json(self) -> bool:
        """Whether values have types of their own."""
        return self.is_text and self.text.lstrip()[:1] in ("{", "[")

    @cached_property
    def rows(self) -> pd.DataFrame:
        """A row per request, columns by the file's own names, values as they stand.

        Raises:
            BrokenFileError: The file is truncated or damaged.
            InputError: Two columns have one name.
        """
        try:
            rows = self._parquet() if not self.is_text else self._json() if self.is_json else self._csv()
        except _DAMAGE as error:
            raise BrokenFileError(self.path, first_line(error)) from None
        return rows.reset_index(drop=True)

    @cached_property
    def keys(self) -> frozenset[str]:
        """Names of the columns."""
        return frozenset(self.rows.columns)

    @cached_property
    def envelope(self) -> Mapping[str, Any]:
        """What a JSON object says besides the rows in its field ``data``; empty where there are none."""
        if not self.is_json:
            return {}
        whole = self._objects
        is_page = len(whole) == 1 and isinstance(whole[0].get("data"), list)
        return {key: value for key, value in whole[0].items() if key != "data"} if is_page else {}

    @cached_property
    def _bytes(self) -> bytes:
        data = read_bytes(self.path, _MOST_BYTES)
        try:
            return gunzipped(data)
        except _DAMAGE as error:
            raise BrokenFileError(self.path, first_line(error)) from None

    @cached_property
    def _objects(self) -> list[dict[str, Any]]:
        first = json_or_none(self.lines[0][1])
        if first is None or isinstance(first, list):
            whole = self._whole()
            items = whole if isinstance(whole, list) else [whole]
            return [self._object(item, f"item {n}") for n, item in enumerate(items, 1)]
        found = []
        for number, line in self.lines:
            try:
                found.append(self._object(from_json(line), f"line {number}"))
            except ValueError as error:
                raise BrokenFileError(self.path, f"line {number} is no JSON: {_json_fault(error)}") from None
        return found

    def _whole(self) -> Any:
        """The text as one JSON value; where it is none, what is wrong is said of the first line."""
        try:
            return from_json(self.text)
        except ValueError as error:
            line = getattr(error, "lineno", 1)
            raise BrokenFileError(self.path, f"line {line} is no JSON: {_json_fault(error)}") from None

    def _object(self, value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise BrokenFileError(self.path, f"{where} is no JSON object")
        return value

    def _json(self) -> pd.DataFrame:
        rows = self._objects
        if self.envelope:
            rows = [self._object(row, f"item {n} of data") for n, row in enumerate(rows[0]["data"], 1)]
        return pd.DataFrame(rows, dtype=object)

    def _csv(self) -> pd.DataFrame:
        text = re.sub(r"(?m)^ +\r?$", "", self.text).strip("\r\n")
        if not text:
            raise BrokenFileError(self.path, "it is empty")
        header, *rest = re.split("\r\n|\n|\r", text, maxsplit=1)
        delimiter = "\t" if "\t" in header and "," not in header else ","
        names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter))]
        self._check_names(names)
        if not rest:
            return pd.DataFrame(columns=names, dtype=object)
        data = text.encode()
        read = arrow_csv.ReadOptions(column_names=names, skip_rows=1, use_threads=False)
        read.block_size = min(len(data), _MAX_BLOCK_BYTES)  # a row must not reach over two blocks
        types = dict.fromkeys(names, pa.string())
        table = arrow_csv.read_csv(
            io.BytesIO(data),
            read,
            arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            arrow_csv.ConvertOptions(column_types=types, strings_can_be_null=False),
        )
        frame = pd.DataFrame(table.to_pandas())
        return from_csv_frame(frame) if "'" in text else frame

    def _parquet(self) -> pd.DataFrame:
        table = read_table(self.path, self._bytes)
        self._check_names(table.column_names)
        return as_frame(self.path, table.replace_schema_metadata(None))

    def _check_names(self, names: list[str]) -> None:
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"{self.path}: header", "name every column once", twice)


def json_or_none(text: str) -> Any:
    """The value that a text of JSON is; None where it is none."""
    try:
        return from_json(text)
    except ValueError:
        return None


def _json_fault(error: BaseException) -> str:
    return getattr(error, "msg", "") or first_line(error)
