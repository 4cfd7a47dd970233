"""Profile datasets as Parquet files: read, written and grown without ever leaving half a file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from shunter.errors import BrokenFileError, InputError, VersionError
from shunter.profiling.schema import SCHEMA_VERSION, empty_frame, frame_of, validate

__all__ = ["append_rows", "read_dataset", "write_dataset"]

_VERSION_KEY = b"shunter_profile_schema"


def read_dataset(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Reads and checks a dataset.

    Raises:
        InputError: There is no such file, or a row breaks the schema.
        BrokenFileError: It is truncated, or no profile dataset.
        VersionError: It was written for another schema version.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("dataset", "be an existing Parquet file", str(path))
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise BrokenFileError(path, str(error).splitlines()[0]) from error
    version = (table.schema.metadata or {}).get(_VERSION_KEY)
    if version is None:
        raise BrokenFileError(path, "it is no profile dataset: its metadata name no schema version")
    if version.decode() != str(SCHEMA_VERSION):
        raise VersionError(path, "the dataset schema", version.decode(), SCHEMA_VERSION)
    return validate(table.to_pandas(), path)


def write_dataset(frame: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Writes a dataset; readers see the old file or the new one, never a part.

    Raises:
        InputError: A row breaks the schema; nothing is written.
    """
    path = Path(path)
    table = pa.Table.from_pandas(validate(frame, path), preserve_index=False)
    metadata = {**(table.schema.metadata or {}), _VERSION_KEY: str(SCHEMA_VERSION).encode()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        pq.write_table(table.replace_schema_metadata(metadata), temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def append_rows(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Adds rows to a dataset, which need not exist yet; rows it already has (by row_id) are left out.

    Returns:
        The whole dataset.
    """
    path = Path(path)
    known = read_dataset(path) if path.exists() else empty_frame()
    fresh = frame_of(rows)
    fresh = fresh[~fresh["row_id"].isin(known["row_id"])]
    both = pd.concat([known, fresh], ignore_index=True) if len(known) else fresh.reset_index(drop=True)
    write_dataset(both, path)
    return both
