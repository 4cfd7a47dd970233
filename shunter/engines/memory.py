"""Memory of processes and devices: what is in use, giving it back, and the rules of budgets."""

from __future__ import annotations

import ctypes
import os

from .base import DeviceMemoryError, EngineError

_TOLERATED = 0.1
_TOLERATED_BYTES = 8_000_000
"""Noise of a process's memory."""


def resident_bytes(pid: int | None = None) -> int:
    """Memory in RAM of a process of this machine; None: of this one."""
    with open(f"/proc/{'self' if pid is None else pid}/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def trim_heap() -> None:
    """Gives freed memory of this process back to the system, where the C library can.

    glibc keeps freed blocks otherwise, and a second model finds no room.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def check_fits(
    model: str, device: str, *, needed_bytes: int, taken_bytes: int, budget_bytes: int | None
) -> None:
    """Refuses a load that is predicted to need more than is left of a budget; None means no limit.

    Raises:
        DeviceMemoryError: It needs more.
    """
    if budget_bytes is not None and taken_bytes + needed_bytes > budget_bytes:
        raise DeviceMemoryError(
            f"model {model!r} needs about {needed_bytes / 1e6:.0f} MB on {device}: "
            f"{taken_bytes / 1e6:.0f} of {budget_bytes / 1e6:.0f} MB are taken"
        )


def check_given_back(model: str, device: str, *, weight_bytes: int, freed_bytes: int) -> None:
    """Compares what an unload freed on the device with the weights that were there.

    Raises:
        EngineError: More than a tenth of them, and than noise, is still in use.
    """
    kept_bytes = weight_bytes - freed_bytes
    if kept_bytes > _TOLERATED * weight_bytes + _TOLERATED_BYTES:
        raise EngineError(
            f"unloading {model!r} gave back {freed_bytes / 1e6:.0f} of its {weight_bytes / 1e6:.0f} MB on "
            f"{device}: what is measured from here on would be wrong"
        )
