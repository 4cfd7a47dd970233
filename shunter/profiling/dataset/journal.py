"""The journal beside a dataset: each row is on disk as soon as it was measured.

A JSON-lines file whose first line is a header. A crash can tear only the last line, which is cut off when
the journal is opened again; so is, at once, a line for which the disk had no room. Each line holds a digest
of what it says (``shunter/seals.py``); those of before have none. The file is locked while a sweep writes it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from shunter.errors import BrokenFileError, InputError, ShunterError
from shunter.files import finite, unwritable
from shunter.profiling.dataset.schema import (
    COLUMNS,
    READABLE_VERSIONS,
    SCHEMA_VERSION,
    frame_of,
    readable_version,
    upgraded_row,
    validate,
)
from shunter.profiling.dataset.table import append_rows
from shunter.reading import from_json, reading
from shunter.seals import sealed, unsealed

__all__ = ["Journal", "journal_path"]

_COLUMNS = {column.name for column in COLUMNS}


def journal_path(dataset: str | os.PathLike[str]) -> Path:
    """Where the journal of a dataset is; of one that is a link, beside the file that it leads to."""
    dataset = Path(dataset)
    dataset = dataset.resolve() if dataset.is_symlink() else dataset
    return dataset.with_name(dataset.name + ".journal.jsonl")


class Journal:
    """Rows measured but not yet in the dataset; holds an exclusive lock until closed.

    Args:
        dataset: The dataset that the rows are for.
        plan_id: Fingerprint of the plan.
        session_id: The sweep that writes.

    Attributes:
        path: The journal's file.
        rows: Every row in it, in order.

    Raises:
        InputError: Another sweep is writing this dataset.
        BrokenFileError: A line other than the last is damaged, or was changed since it was written.
        VersionError: It was written for another schema version.
        ShunterError: The place cannot be written to.
    """

    def __init__(self, dataset: str | os.PathLike[str], *, plan_id: str, session_id: str) -> None:
        self.dataset = Path(dataset)
        self.path = journal_path(dataset)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: what a full disk refused must not be tried again when the file is closed.
            self._file = self.path.open("a+b", buffering=0)
        except OSError as error:
            raise unwritable(self.path, error) from error
        try:
            self._lock()
            self.rows = self._recover()
            if self._file.tell() == 0:
                header = {"schema_version": SCHEMA_VERSION, "plan_id": plan_id, "session_id": session_id}
                self._write({"header": header})
        except BaseException:
            self._file.close()
            raise

    def append(self, row: Mapping[str, Any]) -> None:
        """Writes one row through to the disk; NaN becomes null.

        Raises:
            ShunterError: The disk is full or gone; the journal holds what it held before.
        """
        clean = finite(row)
        self._write(clean)
        self.rows.append(clean)

    def merge(self) -> None:
        """Moves all rows into the dataset, then removes the journal.

        The journal goes only after the dataset is in place; after a crash in between, row ids tell which rows
        are there already.

        Raises:
            ShunterError: The dataset cannot be written; the journal keeps its rows.
        """
        if self.rows:
            try:
                append_rows(self.dataset, self.rows)
            except InputError:  # it says what is wrong with the dataset that is there
                raise
            except ShunterError as error:
                kept = f"{len(self.rows)} measured rows are kept in {self.path}: make room, then --resume"
                raise ShunterError(f"{error}; {kept}") from error
        self.path.unlink()
        self.rows = []

    def close(self) -> None:
        """Gives the lock back."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self) -> None:
        rule = "not be written by another sweep at the same time"
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError("dataset", rule, str(self.dataset)) from error
        # The sweep that held the lock may have ended and removed the file since it was opened here.
        if not self.path.exists() or os.fstat(self._file.fileno()).st_ino != self.path.stat().st_ino:
            raise InputError("dataset", rule, str(self.dataset))

    def _recover(self) -> list[dict[str, Any]]:
        self._file.seek(0)
        content = self._file.read()
        end = content.rfind(b"\n") + 1
        self._file.truncate(end)
        self._file.seek(end)
        if not end:
            return []
        records = [self._parse(number, line) for number, line in enumerate(content[:end].splitlines(), 1)]
        header = records[0].get("header")
        if not isinstance(header, dict):
            raise BrokenFileError(self.path, "line 1 is no journal header")
        readable_version(header.get("schema_version"), self.path)
        return [self._row(number, record) for number, record in enumerate(records[1:], 2)]

    def _row(self, number: int, record: dict[str, Any]) -> dict[str, Any]:
        """A row of this schema version, also in a journal that an older shunter began."""
        version = record.get("schema_version")
        row: dict[str, Any] = record
        if version in READABLE_VERSIONS:
            row = finite(upgraded_row(record, version))
        if set(row) != _COLUMNS:
            raise BrokenFileError(self.path, f"line {number} is no row of schema version {SCHEMA_VERSION}")
        with reading(self.path, f"line {number}: "):
            validate(frame_of([row]), f"{self.path}: line {number}")
        return row

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        with reading(self.path, f"line {number} is no JSON: "):
            record = from_json(line)
        if not isinstance(record, dict):
            raise BrokenFileError(self.path, f"line {number} is no row")
        return unsealed(self.path, record, f"line {number}: ")[0]

    def _write(self, record: Mapping[str, Any]) -> None:
        left = memoryview(json.dumps(sealed(record), allow_nan=False).encode() + b"\n")
        end = os.fstat(self._file.fileno()).st_size
        try:
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except BaseException as error:
            self._file.truncate(end)
            if isinstance(error, OSError):
                raise unwritable(self.path, error, "make room, then go on with --resume") from error
            raise
