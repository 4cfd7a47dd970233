"""Parquet files whose metadata name the version of their schema: stamped, and read with the same checks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pyarrow as pa

from shunter.errors import BrokenFileError, InputError, VersionError
from shunter.parquet import as_frame, read_table, typed

__all__ = ["FileKind", "read_versioned_parquet", "stamped"]


@dataclass(frozen=True)
class FileKind:
    """A kind of file.

    Attributes:
        name: What errors call it: ``event log``.
        schema: What errors call its schema: ``the event log schema``.
        key: Key of the version in the file's metadata.
        version: The version that this shunter writes.
        older: Other versions that it reads.
        columns: Types of columns that it checks, by name; lists are there in each row.
    """

    name: str
    schema: str
    key: str
    version: int
    older: tuple[int, ...] = ()
    columns: Mapping[str, pa.DataType] = field(default_factory=dict)


def stamped(table: pa.Table, kind: FileKind) -> pa.Table:
    """The table with the version in its metadata."""
    return table.replace_schema_metadata({**(table.schema.metadata or {}), kind.key: str(kind.version)})


def read_versioned_parquet(path: str | os.PathLike[str], kind: FileKind) -> tuple[pd.DataFrame, int]:
    """Reads a file that ``stamped`` marked.

    Returns:
        The table, and the version that it was written for.

    Raises:
        InputError: There is no such file.
        BrokenFileError: It is truncated, or not of this kind.
        VersionError: It was written for another version of the schema.
    """
    if not Path(path).is_file():
        raise InputError(kind.name, "be an existing Parquet file", str(path))
    table = read_table(path)
    version = (table.schema.metadata or {}).get(kind.key.encode())
    if version is None:
        raise BrokenFileError(path, f"it is no {kind.name}: its metadata name no schema version")
    said = version.decode(errors="replace")
    if said not in map(str, (kind.version, *kind.older)):
        raise VersionError(path, kind.schema, said, kind.version)
    return as_frame(path, typed(path, table, kind.columns)), int(said)
