"""Parquet files as shunter writes and reads them: checksums of pages, a digest of all content, bounds.

The digest is of what a table says, not of its bytes: names, types, values and the file's own metadata. It
stands in the metadata, so that other programs read the files as ever. Files without one are read: other
programs write none.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shunter.errors import BrokenFileError
from shunter.reading import check_names, most_expanded, reading
from shunter.seals import CHANGED

__all__ = ["DIGEST", "as_frame", "read_frame", "read_table", "typed", "write_frame", "write_table"]

DIGEST = b"shunter_sha256"
"""Key of the digest in a file's metadata."""

_FIXED_BYTES, _TEXT_BYTES = 8, 16


def write_table(table: pa.Table, path: str | os.PathLike[str], *, compression: str = "snappy") -> None:
    """Writes a table with checksums and its digest."""
    held = {key: value for key, value in (table.schema.metadata or {}).items() if key != DIGEST}
    whole = table.replace_schema_metadata({**held, DIGEST: content_digest(table).encode()})
    pq.write_table(whole, path, compression=compression, write_page_checksum=True)


def write_frame(frame: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Writes a frame without its index, as ``write_table``."""
    write_table(pa.Table.from_pandas(frame, preserve_index=False), path)


def read_table(path: str | os.PathLike[str], data: bytes | None = None) -> pa.Table:
    """Reads a table.

    Args:
        path: The file, which errors name.
        data: Its bytes; None: they are read.

    Raises:
        BrokenFileError: It is damaged, no Parquet, stands for far more than its size, or says something else
            than when it was written.
    """
    with reading(path):
        source: Any = Path(path) if data is None else io.BytesIO(data)
        file = pq.ParquetFile(source, page_checksum_verification=True)
        size = Path(path).stat().st_size if data is None else len(data)
        _check_size(path, file, most_expanded(size), data)
        table = file.read()
        said = (table.schema.metadata or {}).get(DIGEST)
        if said is not None and said != content_digest(table).encode():
            meant = f"(if that was meant, write it without {DIGEST.decode()} in its metadata)"
            raise BrokenFileError(path, f"{CHANGED} {meant}")
    return table


def read_frame(path: str | os.PathLike[str], data: bytes | None = None) -> pd.DataFrame:
    """Reads a table as a frame; see ``read_table``."""
    return as_frame(path, read_table(path, data))


def as_frame(path: str | os.PathLike[str], table: pa.Table) -> pd.DataFrame:
    """A table as pandas holds it.

    Raises:
        BrokenFileError: Pandas cannot hold it, or two columns have one name.
    """
    check_names(path, table.column_names)
    with reading(path):
        return pd.DataFrame(table.to_pandas())


def typed(path: str | os.PathLike[str], table: pa.Table, columns: Mapping[str, pa.DataType]) -> pa.Table:
    """A table whose columns of these names are of these types; no list is missing, and no text in one.

    Raises:
        BrokenFileError: Two columns have one name, one cannot be of its type, or something is missing.
    """
    check_names(path, table.column_names)
    for name in (name for name in table.column_names if name in columns):
        if table[name].type != columns[name]:
            with reading(path, f"column {name} is of another type: "):
                column = table[name].cast(columns[name])
            table = table.set_column(table.column_names.index(name), name, column)
        if pa.types.is_list(columns[name]):
            if table[name].null_count:
                lacking = table[name].null_count
                raise BrokenFileError(path, f"column {name} lacks a list in {lacking} of its rows")
            if pa.types.is_string(columns[name].value_type) and pc.list_flatten(table[name]).null_count:
                raise BrokenFileError(path, f"column {name} lacks a text in one of its lists")
    return table


def content_digest(table: pa.Table) -> str:
    """SHA-256 of what a table says, however it is cut into chunks and pages."""
    found = hashlib.sha256()
    held = table.schema.metadata or {}
    for key in sorted(held):
        if key != DIGEST:
            _add(found, key, held[key])
    for name, column in zip(table.column_names, table.columns, strict=True):
        _add(found, name.encode(), str(len(column)).encode())
        _hash(found, column.combine_chunks())
    return found.hexdigest()


def _add(found: Any, *parts: bytes) -> None:
    for part in parts:
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)


def _hash(found: Any, array: Any) -> None:
    """Adds an array's values; what stands in memory for missing ones does not count."""
    if isinstance(array, pa.ChunkedArray):  # what no one array can hold
        for chunk in array.chunks:
            _hash(found, chunk)
        return
    kind = array.type
    if pa.types.is_dictionary(kind):
        _hash(found, array.dictionary_decode())
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        _add(found, b"list", _bytes(pc.fill_null(pc.list_value_length(array).cast(pa.int64()), -1)))
        _hash(found, array.flatten())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        lengths = pc.fill_null(pc.binary_length(array).cast(pa.int64()), -1)
        texts = "".join(text for text in array.to_pylist() if text is not None)
        _add(found, b"text", _bytes(lengths), texts.encode())
    elif pa.types.is_boolean(kind):
        _add(found, b"bool", _bytes(pc.fill_null(array.cast(pa.int8()), -1)))
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        missing = _bytes(array.is_null().cast(pa.int8()))
        _add(found, str(kind).encode(), missing, _bytes(pc.fill_null(array, 0)))
    elif pa.types.is_timestamp(kind) or pa.types.is_duration(kind):
        _add(found, str(kind).encode())
        _hash(found, array.cast(pa.int64()))
    else:
        _add(found, str(kind).encode(), repr(array.to_pylist()).encode())


def _bytes(array: Any) -> bytes:
    found: bytes = array.to_numpy(zero_copy_only=False).tobytes()
    return found


def _check_size(path: str | os.PathLike[str], file: pq.ParquetFile, most: int, data: bytes | None) -> None:
    """Refuses a file whose values take far more room than it does: a million alike take a few bytes.

    Raises:
        BrokenFileError: Such is the file.
    """
    _look_at_columns(file)
    meta = file.metadata
    wide: dict[str, int] = {}
    expanded = 0
    for group in (meta.row_group(i) for i in range(meta.num_row_groups)):
        for i in range(group.num_columns):
            chunk = group.column(i)
            is_text = chunk.physical_type == "BYTE_ARRAY"
            expanded += chunk.num_values * (_TEXT_BYTES if is_text else _FIXED_BYTES)
            if is_text:  # each of its values may be as long as all of it
                name = chunk.path_in_schema
                wide[name] = wide.get(name, 0) + chunk.num_values * max(1, chunk.total_uncompressed_size)
    if expanded <= most:
        expanded += sum(_text_bytes(path, name, most, data) for name, worst in wide.items() if worst > most)
    if expanded > most:
        raise BrokenFileError(path, f"its {meta.num_rows} rows stand for more than {most} bytes")


def _look_at_columns(file: pq.ParquetFile) -> None:
    """Reads a row of every column, which raises where a column's metadata are damaged.

    Asked for these metadata alone, Arrow 25 ends the whole process instead.
    """
    for group in range(file.num_row_groups):
        for i in range(len(file.schema)):
            path = file.schema.column(i).path
            next(file.iter_batches(batch_size=1, row_groups=[group], columns=[path], use_threads=False), None)


def _text_bytes(path: str | os.PathLike[str], name: str, most: int, data: bytes | None) -> int:
    """Bytes of a column of texts if none is kept once for many; not counted further than so many."""
    source: Any = Path(path) if data is None else io.BytesIO(data)
    file = pq.ParquetFile(source, read_dictionary=[name])
    total = 0
    for batch in file.iter_batches(columns=[name]):
        for array in batch.columns:
            while pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
                array = array.flatten()
            if pa.types.is_dictionary(array.type):
                lengths = pc.binary_length(array.dictionary)
                total += pc.sum(pc.take(lengths, array.indices)).as_py() or 0
            else:
                total += array.nbytes
        if total > most:
            break
    return total
