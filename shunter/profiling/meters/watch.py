"""What other programs do to this machine while engines run: a thread that looks once a second.

A look costs some milliseconds of one core, most of them for finding the processes that are our own.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import psutil

from shunter.catalog.devices import parse_device
from shunter.profiling.meters.conditions import Sample, Sensors

__all__ = ["BUSY_CORES", "MachineWatch", "core_count", "others_cores"]

EVERY_S = 1.0

BUSY_CORES = 0.25
"""Cores that others may use on a machine that is called quiet. Engineering choice: a desktop at rest uses
less."""

_THROTTLE = "devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count"


@dataclass(frozen=True)
class Look:
    """The machine between two looks; NaN where it does not say.

    Attributes:
        start_s: Monotonic time of the look before.
        end_s: Monotonic time of this look.
        others_cores: CPU cores that programs of others used.
        stolen_cores: CPU cores' worth of time that other machines took of this one (steal).
        queued_share: Share of the time in which some task waited for a CPU (pressure stall information).
        clock_mhz: Mean clock of the CPU's cores.
        throttled: Times that cores were throttled for heat.
    """

    start_s: float
    end_s: float
    others_cores: float
    stolen_cores: float
    queued_share: float
    clock_mhz: float
    throttled: float


class MachineWatch:
    """Looks at the machine from when it is entered until it is left.

    Attributes:
        looks: Those so far, in order.
    """

    def __init__(self, every_s: float = EVERY_S, sys_folder: Path = Path("/sys")) -> None:
        self.looks: list[Look] = []
        self._every_s, self._sys = every_s, sys_folder
        self._sensors = Sensors(parse_device("cpu"))
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="machine-watch", daemon=True)
        self._last = self._sensors.sample()
        self._throttled = self._throttle_count()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self.look()

    def look(self) -> None:
        """Looks now."""
        self._sensors.find_processes()
        before, now = self._last, self._sensors.sample()
        throttled = self._throttle_count()
        if now.at_s > before.at_s:
            self.looks.append(
                _look(before, now, self._sensors.cpu_clock_mhz(now.at_s), throttled - self._throttled)
            )
            self._last, self._throttled = now, throttled

    def between(self, start_s: float, end_s: float) -> Look:
        """The machine over a stretch of monotonic time: what looks saw, by how long each overlaps it."""
        looks = list(self.looks)
        overlap_s = np.array([min(end_s, one.end_s) - max(start_s, one.start_s) for one in looks])
        kept = [(one, s) for one, s in zip(looks, overlap_s, strict=True) if s > 0]

        def mean(name: str) -> float:
            known = [(getattr(one, name), s) for one, s in kept if not np.isnan(getattr(one, name))]
            total_s = sum(s for _, s in known)
            return sum(value * s for value, s in known) / total_s if known else float("nan")

        names = ("others_cores", "stolen_cores", "queued_share", "clock_mhz", "throttled")
        return Look(start_s, end_s, *map(mean, names))

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            self.look()

    def _throttle_count(self) -> float:
        try:
            counts = [int(path.read_text(encoding="ascii")) for path in self._sys.glob(_THROTTLE)]
        except (OSError, ValueError):
            return float("nan")
        return float(sum(counts)) if counts else float("nan")


def _look(before: Sample, now: Sample, clock_mhz: float, throttled: float) -> Look:
    took_s = now.at_s - before.at_s
    stolen_s = now.stolen_s - before.stolen_s
    known_stolen_s = 0.0 if np.isnan(stolen_s) else stolen_s
    others_s = (now.busy_s - before.busy_s) - known_stolen_s - (now.own_s - before.own_s)
    return Look(
        before.at_s,
        now.at_s,
        max(0.0, others_s / took_s),
        stolen_s / took_s,
        (now.queued_s - before.queued_s) / took_s,
        clock_mhz,
        throttled,
    )


def others_cores(seconds: float = 2.0) -> float:
    """CPU cores that programs of others and other machines use over the next seconds.

    Args:
        seconds: How long to look.
    """
    sensors, pause = Sensors(parse_device("cpu")), threading.Event()
    before = sensors.sample()
    pause.wait(seconds)
    sensors.find_processes()
    now = sensors.sample()
    return max(0.0, (now.busy_s - before.busy_s - now.own_s + before.own_s) / (now.at_s - before.at_s))


def core_count() -> int:
    """Logical cores of this machine."""
    return psutil.cpu_count() or 1
