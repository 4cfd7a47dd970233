"""Memory of a torch device: how much is free, and giving it back."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

import torch

from ..base import DeviceMemoryError
from ..memory import trim_heap


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
    trim_heap()


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
