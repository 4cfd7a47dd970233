"""Profile datasets as Parquet or CSV files: read, written and grown without ever leaving half a file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from shunter.errors import BrokenFileError, InputError, ShunterError, VersionError
from shunter.profiling.dataset_csv import read_csv, write_csv
from shunter.profiling.schema import SCHEMA_VERSION, empty_frame, frame_of, validate

__all__ = ["append_rows", "read_dataset", "remove_leftovers", "unwritable", "write_dataset"]

_VERSION_KEY = b"shunter_profile_schema"


def read_dataset(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Reads and checks a dataset; a name that ends in ``.csv`` is read as CSV, any other as Parquet.

    Raises:
        InputError: There is no such file, or a row breaks the schema.
        BrokenFileError: It is truncated, or no profile dataset.
        VersionError: It was written for another schema version.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("dataset", "be an existing Parquet file or .csv file", str(path))
    return validate(read_csv(path) if path.suffix == ".csv" else _read_parquet(path), path)


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise BrokenFileError(path, str(error).splitlines()[0]) from error
    version = (table.schema.metadata or {}).get(_VERSION_KEY)
    if version is None:
        raise BrokenFileError(path, "it is no profile dataset: its metadata name no schema version")
    if version.decode() != str(SCHEMA_VERSION):
        raise VersionError(path, "the dataset schema", version.decode(), SCHEMA_VERSION)
    frame: pd.DataFrame = table.to_pandas()
    return frame


def write_dataset(frame: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Writes a dataset, as CSV if the name ends in ``.csv``; readers see the old file or the new one.

    The file is on the disk when this returns.

    Raises:
        InputError: A row breaks the schema; nothing is written.
        ShunterError: The disk is full or the place cannot be written to; nothing is changed.
    """
    path = Path(path)
    checked = validate(frame, path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if path.suffix == ".csv":
                write_csv(checked, temporary)
            else:
                _write_parquet(checked, temporary)
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error


def _write_parquet(checked: pd.DataFrame, path: Path) -> None:
    table = pa.Table.from_pandas(checked, preserve_index=False)
    metadata = {**(table.schema.metadata or {}), _VERSION_KEY: str(SCHEMA_VERSION).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def append_rows(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Adds rows to a dataset, which need not exist yet; rows it already has (by row_id) are left out.

    Returns:
        The whole dataset.

    Raises:
        ShunterError: As ``write_dataset``; the dataset is as it was.
    """
    path = Path(path)
    known = read_dataset(path) if path.exists() else empty_frame()
    fresh = frame_of(rows)
    fresh = fresh[~fresh["row_id"].isin(known["row_id"])]
    both = pd.concat([known, fresh], ignore_index=True) if len(known) else fresh.reset_index(drop=True)
    write_dataset(both, path)
    return both


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Removes half-written files that killed processes left beside a dataset."""
    path = Path(path)
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        pid = leftover.name.split(".")[-2]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            with contextlib.suppress(FileNotFoundError):  # somebody else removed it
                leftover.unlink()


def unwritable(path: str | os.PathLike[str], error: OSError, then: str = "") -> ShunterError:
    """The one-line error for a full disk, a missing permission and the like.

    Args:
        path: What could not be written.
        error: What the system said.
        then: What the user can do about it.
    """
    why = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
    return ShunterError(f"{path}: cannot be written: {why}" + (f"; {then}" if then else ""))
