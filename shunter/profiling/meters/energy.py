"""Energy, memory and state of a GPU by NVML, and energy of the CPU by RAPL."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, ClassVar

__all__ = ["Gpu", "open_gpu"]

_NAN = float("nan")
_POWERCAP = Path("/sys/class/powercap")

HARMLESS_REASONS = 0x1 | 0x2 | 0x100
"""Idle, a clock that the user set, the display's clock: nothing that slows a measurement unasked.

Source: nvml.h, nvmlClocksThrottleReason*.
"""


def difference(before: float, after: float, *, wraps_at: float = _NAN) -> float:
    """What a counter grew by.

    Args:
        before: Its earlier value; NaN: not known.
        after: Its later value.
        wraps_at: Value at which it starts again from 0; NaN: never, so that a fall gives NaN.
    """
    grown = after - before
    return grown if grown >= 0 else grown + wraps_at


class Gpu:
    """One NVIDIA GPU through NVML (``pynvml`` of nvidia-ml-py, initialised).

    The energy counter moves in steps of some ten milliseconds: for shorter operations it is a mean over many
    rows that says something.
    """

    UNKNOWN: ClassVar[dict[str, float]] = {
        "sm_clock_mhz": _NAN,
        "device_temperature_c": _NAN,
        "throttle_reasons": _NAN,
    }

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    def energy_j(self) -> float:
        """Joules since the driver was loaded; NaN on GPUs before Volta, which do not count them."""
        return self._read(lambda: self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3

    def uuid(self) -> str:
        """Its UUID, by which CUDA knows it too; empty where the driver does not say."""
        try:
            return str(self._nvml.nvmlDeviceGetUUID(self._handle))
        except self._nvml.NVMLError:
            return ""

    def memory_bytes(self) -> tuple[float, float]:
        """Bytes in use, by anybody, and in all; NaN where the driver does not say."""
        nvml, gpu = self._nvml, self._handle
        used = self._read(lambda: nvml.nvmlDeviceGetMemoryInfo(gpu).used)
        return used, self._read(lambda: nvml.nvmlDeviceGetMemoryInfo(gpu).total)

    def process_bytes(self, pids: Collection[int]) -> float:
        """Bytes that these processes have on it; NaN where the driver does not say, as in some containers."""

        def ask() -> float:
            there = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
            known = [each.usedGpuMemory for each in there if each.pid in pids and each.usedGpuMemory]
            return sum(known) if known or not there else _NAN

        return self._read(ask)

    def state(self) -> dict[str, float]:
        """The dataset's columns of its clock, temperature and what holds its clock back."""
        nvml, gpu = self._nvml, self._handle
        reasons = self._read(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu))
        return {
            "sm_clock_mhz": self._read(lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM)),
            "device_temperature_c": self._read(
                lambda: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)
            ),
            "throttle_reasons": reasons if reasons != reasons else float(int(reasons) & ~HARMLESS_REASONS),
        }

    def _read(self, ask: Callable[[], Any]) -> float:
        try:
            return float(ask())
        except self._nvml.NVMLError:  # not supported on this GPU, or the GPU is gone: the engine will say so
            return _NAN


def open_gpu(index: int, nvml: Any = None, *, address: str = "") -> Gpu | None:
    """Opens a GPU for reading.

    Args:
        index: As CUDA counts, after ``CUDA_VISIBLE_DEVICES``; without it NVML's order is taken for CUDA's,
            which holds where all GPUs are alike or ``CUDA_DEVICE_ORDER`` is ``PCI_BUS_ID``.
        nvml: The ``pynvml`` module; None: the installed one.
        address: UUID or PCI address of the GPU, in place of its index; empty: by index.

    Returns:
        None where NVML, the driver or the GPU is missing.
    """
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            return None
    try:
        nvml.nvmlInit()
        visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
        name = address or (visible[index] if index < len(visible) and visible[index] else str(index))
        if ":" in name:
            handle = nvml.nvmlDeviceGetHandleByPciBusId(name)
        elif name.isdigit():
            handle = nvml.nvmlDeviceGetHandleByIndex(int(name))
        else:
            handle = nvml.nvmlDeviceGetHandleByUUID(name)
    except nvml.NVMLError:
        return None
    return Gpu(nvml, handle)


class Rapl:
    """The CPU packages' energy counters, where this user may read them.

    Args:
        root: The folder of the kernel's powercap zones.

    Attributes:
        range_j: Where the counters' sum starts again if one package does; NaN with several packages, where
            nobody could tell which of them did.

    Source: Linux, Documentation/power/powercap/powercap.rst.
    """

    def __init__(self, root: Path = _POWERCAP) -> None:
        packages = sorted(root.glob("intel-rapl:[0-9]*")) if root.is_dir() else []
        self._files = [zone / "energy_uj" for zone in packages if zone.name.count(":") == 1]
        if not self._files or not all(os.access(file, os.R_OK) for file in self._files):
            self._files = []
        self.range_j = _NAN
        if len(self._files) == 1:
            self.range_j = _microjoules(self._files[0].with_name("max_energy_range_uj"))

    def energy_j(self) -> float:
        """Joules of all packages; NaN where they cannot be read."""
        return sum(map(_microjoules, self._files)) if self._files else _NAN


def _microjoules(file: Path) -> float:
    try:
        return int(file.read_text(encoding="ascii")) / 1e6
    except OSError:
        return _NAN
