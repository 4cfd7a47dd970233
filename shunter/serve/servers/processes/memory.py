"""Memory that a server takes, as the system and the driver measure it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import psutil

from shunter.catalog.devices import DeviceSpec
from shunter.errors import InputError
from shunter.profiling.meters.energy import Gpu, open_gpu


def host_bytes(pids: Sequence[int]) -> int:
    """Memory in RAM of these processes together; pages that they share count once."""
    total_bytes = 0
    for pid in pids:
        with contextlib.suppress(OSError, psutil.Error):  # it has ended meanwhile
            alone = len(pids) == 1
            total_bytes += psutil.Process(pid).memory_info().rss if alone else _proportional_bytes(pid)
    return total_bytes


def visible_gpu(device: DeviceSpec) -> str:
    """A CUDA device as ``CUDA_VISIBLE_DEVICES`` names it: by UUID, or by index after what that says now.

    Raises:
        InputError: It is named by its PCI address, which CUDA does not take, and NVML does not know its UUID.
    """
    if ":" in device.address:
        gpu = open_gpu(0, address=device.address)
        uuid = gpu.uuid() if gpu else ""
        if not uuid:
            rule = "be a GPU that NVML finds by its PCI address (pip install 'shunter[nvml]'), or a UUID"
            raise InputError("device", rule, device.name)
        return uuid
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return device.address or (names[device.index] if device.index < len(names) else str(device.index))


def _proportional_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


class GpuShare:
    """The part of a GPU's memory that a server takes.

    Args:
        gpu: The GPU; None where NVML is not there: 0 is reported then.

    Where the driver does not tell processes apart, it is what the GPU's memory grew by since this was made,
    or had to ``begin`` anew, which counts what others took or gave back meanwhile.
    """

    def __init__(self, gpu: Gpu | None) -> None:
        self._gpu = gpu
        self.begin()

    def begin(self) -> None:
        """Counts from now on what the GPU's memory grows by: others have come since, while a server slept."""
        self._before_bytes = self._gpu.memory_bytes()[0] if self._gpu else 0.0

    def bytes_of(self, pids: Sequence[int]) -> int:
        """Bytes on the GPU of these processes."""
        if self._gpu is None:
            return 0
        known_bytes = self._gpu.process_bytes(pids)
        if known_bytes != known_bytes:
            known_bytes = self._gpu.memory_bytes()[0] - self._before_bytes
        return max(0, int(known_bytes)) if known_bytes == known_bytes else 0

    def holds_none_of(self, pids: Sequence[int]) -> bool:
        """Whether nothing of these processes, which have ended, is left on the GPU, where it can be told."""
        return self._gpu is None or not self._gpu.process_bytes(pids) > 0
