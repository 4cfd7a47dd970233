from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shunter.errors import BrokenFileError, InputError, VersionError
from shunter.profiling.dataset.versioned_parquet import FileKind, read_versioned_parquet, stamped

KIND = FileKind("letter", "the letters' schema", "letters", 3, older=(2,))
TABLE = pa.table({"a": [1, 2]})


@pytest.mark.parametrize("version", [2, 3])
def test_what_was_stamped_is_read(tmp_path: Path, version: int) -> None:
    pq.write_table(stamped(TABLE, FileKind("letter", "", "letters", version)), tmp_path / "a.parquet")
    frame, found = read_versioned_parquet(tmp_path / "a.parquet", KIND)
    assert frame["a"].tolist() == [1, 2]
    assert found == version


def test_a_stamp_keeps_other_metadata() -> None:
    assert stamped(TABLE.replace_schema_metadata({"b": "c"}), KIND).schema.metadata == {
        b"b": b"c",
        b"letters": b"3",
    }


def test_what_is_refused_and_how(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with pytest.raises(InputError, match="letter must be an existing Parquet file"):
        read_versioned_parquet(path, KIND)
    path.write_bytes(b"PAR1")
    with pytest.raises(BrokenFileError, match=r"a\.parquet: cannot be read"):
        read_versioned_parquet(path, KIND)
    pq.write_table(TABLE, path)
    with pytest.raises(BrokenFileError, match="it is no letter: its metadata name no schema version"):
        read_versioned_parquet(path, KIND)
    pq.write_table(TABLE.replace_schema_metadata({"letters": "9"}), path)
    with pytest.raises(VersionError, match=r"the letters' schema must be version 3 .* Got '9'"):
        read_versioned_parquet(path, KIND)
