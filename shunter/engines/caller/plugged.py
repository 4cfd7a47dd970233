"""The caller's side of a worker whose engine is a third party's."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path

from shunter.catalog.devices import DeviceSpec
from shunter.engines.caller.client import WorkerEngine, _environment
from shunter.engines.caller.process import WorkerProcess
from shunter.engines.registry import EngineEntry

_BOOT = Path(__file__).parents[1] / "worker" / "boot_plugged.py"


class PluggedWorker(WorkerEngine):
    """A third party's engine on one device, in a worker process; otherwise as ``WorkerEngine``.

    The worker imports the entry's module, so the package must be installed there too.

    Raises:
        EngineUnavailableError: The interpreter or the device cannot run it.
        WorkerDiedError: The process was killed while it started.
        WorkerTimeoutError: It did not say hello in time.
    """

    def __init__(
        self,
        name: str,
        entry: EngineEntry,
        device: DeviceSpec,
        *,
        python: str | None = None,
        timeout_s: float = 600.0,
        start_timeout_s: float = 180.0,
    ) -> None:
        self.name = name
        self.device = device
        self.python = python or sys.executable
        self.timeout_s = timeout_s
        self._lock = threading.RLock()
        arguments = ["--engine", name, "--device", json.dumps(asdict(device))]
        environment = {**_environment(device), "SHUNTER_ENGINE_ENTRY": json.dumps(asdict(entry))}
        self._process = _PluggedProcess(name, self.python, arguments, environment)
        hello = self._greet(start_timeout_s)
        self.engine_version: str = hello["engine_version"]
        self.python_version: str = hello["python"]


class _PluggedProcess(WorkerProcess):
    """A worker process that begins with ``boot_plugged.py``."""

    def _start(
        self, command: list[str], wire_fd: int, environment: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        python, _, *arguments = command
        return super()._start([python, str(_BOOT), *arguments], wire_fd, environment)
