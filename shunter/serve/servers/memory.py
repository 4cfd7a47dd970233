"""Memory that a server takes, as the system and the driver measure it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import psutil

from shunter.profiling.meters.energy import Gpu


def host_bytes(pids: Sequence[int]) -> int:
    """Memory in RAM of these processes together; pages that they share count once."""
    total_bytes = 0
    for pid in pids:
        with contextlib.suppress(OSError, psutil.Error):  # it has ended meanwhile
            alone = len(pids) == 1
            total_bytes += psutil.Process(pid).memory_info().rss if alone else _proportional_bytes(pid)
    return total_bytes


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
    which counts what others took or gave back meanwhile.
    """

    def __init__(self, gpu: Gpu | None) -> None:
        self._gpu = gpu
        self._before_bytes = gpu.memory_bytes()[0] if gpu else 0.0

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
