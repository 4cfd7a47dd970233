"""Dropping files from the page cache, and seeing that it worked."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from shunter.engines.base import CheckpointError, EngineError
from shunter.engines.page_cache import cached_bytes, drop_cached

SIZE_BYTES = 8 << 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(os.urandom(SIZE_BYTES))
    return path


def test_a_dropped_file_is_not_in_memory_until_it_is_read(file: Path) -> None:
    assert cached_bytes(str(file)) == SIZE_BYTES
    try:
        drop_cached(str(file))
    except EngineError:
        pytest.skip("this file system keeps its pages")
    assert cached_bytes(str(file)) == 0
    file.read_bytes()
    assert cached_bytes(str(file)) == SIZE_BYTES


def test_pages_that_stay_are_not_called_cold(file: Path) -> None:
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as pages:
        assert len(bytes(pages)) == SIZE_BYTES
        with pytest.raises(EngineError, match=r"weights\.bin: 8 of 8 MB stay in the page cache"):
            drop_cached(str(file))


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there is no file system in memory")
def test_a_file_system_in_memory_is_never_cold() -> None:
    path = Path(f"/dev/shm/shunter-test-{os.getpid()}")
    try:
        path.write_bytes(bytes(SIZE_BYTES))
        with pytest.raises(EngineError, match="cannot be cold here"):
            drop_cached(str(path))
    finally:
        path.unlink(missing_ok=True)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for call in (drop_cached, cached_bytes):
        with pytest.raises(CheckpointError, match="none"):
            call(str(tmp_path / "none"))


def test_an_empty_file_takes_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    drop_cached(str(tmp_path / "empty"))
    assert cached_bytes(str(tmp_path / "empty")) == 0
