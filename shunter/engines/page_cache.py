"""The system's cache of a file's pages: dropping it without root, and counting what is left."""

from __future__ import annotations

import ctypes
import mmap
import os

from .base import CheckpointError, EngineError

_TOLERATED = 0.02
"""Share of a file that may stay: pages that another process reads meanwhile."""
_TOLERATED_BYTES = 1 << 20


def cached_bytes(path: str) -> int:
    """Bytes of a file that are in memory now, by ``mincore``.

    Raises:
        CheckpointError: The file cannot be read.
        EngineError: The system does not tell this user about this file.
    """
    try:
        with open(path, "rb") as file:
            # For a file that is another user's, mincore calls every page resident. Source: mincore(2).
            if not (os.access(path, os.W_OK) or os.fstat(file.fileno()).st_uid == os.geteuid()):
                raise EngineError(f"{path}: the system tells only its owner what of it is cached; use a copy")
            size = os.fstat(file.fileno()).st_size
            if not size:
                return 0
            with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as pages:
                return _resident_pages(pages, size) * mmap.PAGESIZE
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error


def _resident_pages(pages: mmap.mmap, size: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    found = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    view = (ctypes.c_char * size).from_buffer(pages)
    try:
        if libc.mincore(ctypes.c_void_p(ctypes.addressof(view)), ctypes.c_size_t(size), found):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        del view
    return bytes(found).count(1)


def drop_cached(path: str) -> None:
    """Drops a file from the page cache and makes sure that it is gone.

    Raises:
        CheckpointError: The file cannot be read.
        EngineError: Its pages stay, so that no load of it can be cold.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    try:
        os.fsync(descriptor)  # dirty pages cannot be dropped
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        size = os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
    left = cached_bytes(path)
    if left > max(_TOLERATED_BYTES, _TOLERATED * size):
        raise EngineError(
            f"{path}: {left / 1e6:.0f} of {size / 1e6:.0f} MB stay in the page cache, so its loads cannot be "
            "cold here: its file system keeps them (tmpfs does), or a process has it mapped"
        )
