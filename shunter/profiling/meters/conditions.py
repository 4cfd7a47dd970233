"""The conditions of a measurement: what else the machine did, its clocks, and the energy it used.

What a machine does not report is missing (NaN), also when a reading fails in the middle of a sweep.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import psutil

from shunter.catalog.devices import DeviceSpec
from shunter.profiling.meters.energy import Gpu, Rapl, difference, open_gpu

__all__ = ["Sensors"]

_LEAST_WINDOW_S = 0.25
"""CPU times tick every 10 ms: over a shorter window the number of busy cores says little."""

_CLOCK_EVERY_S = 1.0
_PROC = Path("/proc")
_NAN = float("nan")


@dataclass(frozen=True)
class Sample:
    """Counters at one moment; two of them make the conditions between.

    Attributes:
        at_s: Monotonic time.
        busy_s: CPU time that all processes used, and that other machines took of this one.
        own_s: CPU time of this process and all that it started.
        swapped_bytes: Moved from and to swap since the system started; NaN: not known.
        stall_s: Time in which all tasks waited for memory at once (PSI full); NaN: not known.
        stolen_s: CPU time of ``busy_s`` that other machines took of this one (steal); NaN: not known.
        queued_s: Time in which some task waited for a CPU (PSI some); NaN: not known.
    """

    at_s: float
    busy_s: float
    own_s: float
    swapped_bytes: float
    stall_s: float
    stolen_s: float = _NAN
    queued_s: float = _NAN


class Sensors:
    """Reads a machine's counters, and those of the device if it is a GPU."""

    def __init__(self, device: DeviceSpec) -> None:
        self._gpu = open_gpu(device.index) if device.kind == "cuda" else None
        self._rapl = Rapl()
        self._own: list[psutil.Process] = []
        self._samples: deque[Sample] = deque(maxlen=64)
        self._clock = (float("-inf"), _NAN)
        self.find_processes()

    def find_processes(self) -> None:
        """Looks for the processes that this one started; a load may start some."""
        own = psutil.Process()
        self._own = [own, *own.children(recursive=True)]

    def sample(self) -> Sample:
        """Reads the counters now."""
        times = psutil.cpu_times()._asdict()
        # What a guest uses is counted in user and nice already.
        idle = ("idle", "iowait", "guest", "guest_nice")
        busy_s = sum(seconds for name, seconds in times.items() if name not in idle)
        swapped_bytes, stall_s = pressure()
        taken = Sample(
            time.monotonic(),
            busy_s,
            sum(map(_cpu_s, self._own)),
            swapped_bytes,
            stall_s,
            stolen_s=times.get("steal", _NAN),
            queued_s=_pressure_s(_PROC / "pressure" / "cpu", "some"),
        )
        self._samples.append(taken)
        return taken

    def conditions(self, start: Sample, end: Sample) -> dict[str, float]:
        """The dataset's columns that say what happened between two samples.

        Over less than a quarter of a second the background load is that since the last sample before it.
        """
        return {
            "background_cores": self._background_cores(start, end),
            "cpu_clock_mhz": self.cpu_clock_mhz(end.at_s),
            "swapped_bytes": end.swapped_bytes - start.swapped_bytes,
            "memory_stall_s": end.stall_s - start.stall_s,
        }

    def energy(self) -> dict[str, float]:
        """Energy counters in joules, by column of the dataset."""
        device_j = self._gpu.energy_j() if self._gpu else _NAN
        return {"cpu_energy_j": self._rapl.energy_j(), "device_energy_j": device_j}

    def after(self, before: dict[str, float]) -> dict[str, float]:
        """The dataset's columns of an operation that just ended, with ``energy()`` just before it."""
        now = self.energy()
        used_j = {
            "cpu_energy_j": difference(
                before["cpu_energy_j"], now["cpu_energy_j"], wraps_at=self._rapl.range_j
            ),
            "device_energy_j": difference(before["device_energy_j"], now["device_energy_j"]),
        }
        return {**used_j, **(self._gpu.state() if self._gpu else Gpu.UNKNOWN)}

    def _background_cores(self, start: Sample, end: Sample) -> float:
        wide = [s for s in self._samples if end.at_s - s.at_s >= _LEAST_WINDOW_S and s.at_s <= start.at_s]
        since = wide[-1] if wide else self._samples[0]
        window_s = end.at_s - since.at_s
        if window_s < _LEAST_WINDOW_S:
            return _NAN
        others_s = (end.busy_s - since.busy_s) - (end.own_s - since.own_s)
        return max(0.0, others_s / window_s)

    def cpu_clock_mhz(self, now_s: float) -> float:
        """Mean clock of all cores, at most a second old; NaN: not known."""
        # Some kernels wake every core up to read its clock, so it is read now and then only.
        if now_s - self._clock[0] >= _CLOCK_EVERY_S:
            clock = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
            self._clock = (now_s, clock.current if clock else _NAN)
        return self._clock[1]


def pressure(proc: Path = _PROC) -> tuple[float, float]:
    """Bytes swapped and seconds stalled for memory since the system started, by anybody; NaN: not reported.

    Source: Linux, Documentation/accounting/psi.rst; ``pswpin`` and ``pswpout`` of /proc/vmstat count pages.
    """
    return _swapped_bytes(proc / "vmstat"), _pressure_s(proc / "pressure" / "memory", "full")


def _swapped_bytes(vmstat: Path) -> float:
    try:
        lines = vmstat.read_text(encoding="ascii").splitlines()
    except OSError:
        return _NAN
    pages = [int(line.split()[1]) for line in lines if line.startswith(("pswpin ", "pswpout "))]
    return float(sum(pages)) * os.sysconf("SC_PAGE_SIZE") if pages else _NAN


def _pressure_s(pressure_file: Path, kind: str) -> float:
    try:
        lines = pressure_file.read_text(encoding="ascii").splitlines()
    except OSError:  # a kernel without PSI has no such file, or refuses to read it
        return _NAN
    totals = [line.rpartition("total=")[2] for line in lines if line.startswith(f"{kind} ")]
    return int(totals[0]) / 1e6 if totals else _NAN


def _cpu_s(process: psutil.Process) -> float:
    """CPU time of a process and of those of its children that it has reaped; 0 once it has ended."""
    with contextlib.suppress(psutil.Error):
        return float(sum(process.cpu_times()[:4]))
    return 0.0
