"""Profile datasets as Parquet or CSV files: read, written and grown without ever leaving half a file.

Outliers are flagged anew over the whole dataset whenever it is written, so that the flags of a file always
fit the rows beside them. Files of older schema versions are read as ``schema.upgraded`` says.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from shunter.errors import InputError
from shunter.files import replaced
from shunter.outputs import held
from shunter.parquet import write_table
from shunter.profiling.dataset.csv_file import read_csv, write_csv
from shunter.profiling.dataset.outliers import flag_outliers
from shunter.profiling.dataset.schema import (
    READABLE_VERSIONS,
    SCHEMA_VERSION,
    empty_frame,
    frame_of,
    upgraded,
    validate,
)
from shunter.profiling.dataset.versioned_parquet import FileKind, read_versioned_parquet, stamped

__all__ = ["append_rows", "read_dataset", "write_dataset"]

_KIND = FileKind(
    "profile dataset",
    "the dataset schema",
    "shunter_profile_schema",
    SCHEMA_VERSION,
    tuple(version for version in READABLE_VERSIONS if version != SCHEMA_VERSION),
)


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
    frame, version = read_csv(path) if path.suffix == ".csv" else read_versioned_parquet(path, _KIND)
    checked = validate(upgraded(frame, version), path)
    return checked if version == SCHEMA_VERSION else checked.assign(is_outlier=flag_outliers(checked))


def write_dataset(frame: pd.DataFrame, path: str | os.PathLike[str]) -> pd.DataFrame:
    """Writes a dataset, as CSV if the name ends in ``.csv``; readers see the old file or the new one.

    Outliers are flagged anew. The file is on the disk when this returns.

    Returns:
        The dataset as it was written.

    Raises:
        InputError: A row breaks the schema; nothing is written.
        ShunterError: The disk is full or the place cannot be written to; nothing is changed.
    """
    path = Path(path)
    checked = validate(frame, path)
    checked = checked.assign(is_outlier=flag_outliers(checked))
    with replaced(path) as temporary:
        if path.suffix == ".csv":
            write_csv(checked, temporary)
        else:
            _write_parquet(checked, temporary)
    return checked


def _write_parquet(checked: pd.DataFrame, path: Path) -> None:
    table = pa.Table.from_pandas(checked, preserve_index=False)
    write_table(stamped(table, _KIND), path)


def append_rows(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Adds rows to a dataset, which need not exist yet; rows it already has (by row_id) are left out.

    Returns:
        The whole dataset, as it was written.

    Raises:
        InputError: Another command adds to it at this moment.
        ShunterError: As ``write_dataset``; the dataset is as it was.
    """
    path = Path(path)
    with held("dataset", path):
        known = read_dataset(path) if path.exists() else empty_frame()
        fresh = frame_of(rows)
        fresh = fresh[~fresh["row_id"].isin(known["row_id"])]
        both = pd.concat([known, fresh], ignore_index=True) if len(known) else fresh.reset_index(drop=True)
        return write_dataset(both, path)
