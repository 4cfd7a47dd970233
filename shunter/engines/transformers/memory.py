"""Memory of this process and of a torch device: how much is in use, how much is free, and giving it back."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from collections.abc import Iterator

import torch

from ..base import DeviceMemoryError

__all__ = ["free_bytes", "give_back", "memory_errors", "resident_bytes"]


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def free_bytes(device: torch.device) -> int:
    """Memory that the device reports as available."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    with open("/proc/meminfo", encoding="ascii") as meminfo:
        return next(int(line.split()[1]) * 1024 for line in meminfo if line.startswith("MemAvailable"))


def give_back() -> None:
    """Returns memory that nothing refers to any more to the system."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)  # glibc keeps freed blocks otherwise, and a second model finds no room


@contextlib.contextmanager
def memory_errors(device_name: str) -> Iterator[None]:
    """Turns torch's error into ours.

    Raises:
        DeviceMemoryError: torch found no room on the device.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryError(f"{device_name} ran out of memory: {error}") from error
