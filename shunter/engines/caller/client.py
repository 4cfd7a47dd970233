"""The caller's side of a worker: an Engine whose calls run in a process of their own."""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict
from types import TracebackType
from typing import Any

from shunter.catalog.devices import DeviceSpec, parse_device
from shunter.engines.base import (
    Capabilities,
    DecodeResult,
    Engine,
    EngineUnavailableError,
    KvResult,
    LoadResult,
    MemoryReport,
    PrefillResult,
    Timed,
    WorkerDiedError,
    WorkerTimeoutError,
)
from shunter.engines.caller.process import CLOSE_S, WorkerProcess
from shunter.engines.registry import ENGINES
from shunter.engines.worker import wire
from shunter.errors import UnknownNameError

__all__ = ["WorkerEngine", "start_engine"]

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


class WorkerEngine(Engine):
    """One engine on one device, in a worker process.

    Every call may also raise ``WorkerDiedError`` (the process ended; every later call raises it too) and
    ``WorkerTimeoutError`` (no answer in time; the process was killed, with all that it started). Calls from
    several threads take turns. Usable as a context manager.

    Args:
        name: Key of ``ENGINES``.
        device: Where it runs.
        python: Interpreter that has the engine; None means this one.
        timeout_s: Longest that a call may take.
        start_timeout_s: Longest that the process may take to import its engine and say hello.

    Attributes:
        engine_version: As the engine reported it.
        python_version: Version of the worker's interpreter.

    Raises:
        UnknownNameError: There is no such engine.
        EngineUnavailableError: The interpreter or the device cannot run it.
        WorkerDiedError: The process was killed while it started.
        WorkerTimeoutError: It did not say hello in time.
    """

    def __init__(
        self,
        name: str,
        device: DeviceSpec,
        *,
        python: str | None = None,
        timeout_s: float = 600.0,
        start_timeout_s: float = 180.0,
    ) -> None:
        if name not in ENGINES:
            raise UnknownNameError("engine", name, ENGINES)
        self.name = name
        self.device = device
        self.python = python or sys.executable
        self.timeout_s = timeout_s
        self._lock = threading.RLock()
        arguments = ["--engine", name, "--device", json.dumps(asdict(device))]
        self._process = WorkerProcess(name, self.python, arguments, _environment(device))
        hello = self._greet(start_timeout_s)
        self.engine_version: str = hello["engine_version"]
        self.python_version: str = hello["python"]

    def _greet(self, timeout_s: float) -> dict[str, Any]:
        try:
            opening = self._process.receive("start", timeout_s)
        except WorkerDiedError as error:
            if (self._process.exit_status or 0) < 0:
                raise
            message = f"{self.python} cannot run a worker: {' '.join(str(error).split())}"
            raise EngineUnavailableError(message) from error
        if "error" in opening:
            self._process.end("it could not start")
            raise wire.decode_error(opening["error"])
        hello: dict[str, Any] = opening["hello"]
        if hello["protocol"] != wire.PROTOCOL_VERSION:
            self._process.end("it speaks another protocol")
            versions = f"{hello['protocol']}, not {wire.PROTOCOL_VERSION}"
            raise EngineUnavailableError(f"{self.python} runs a worker of protocol {versions}")
        return hello

    def pids(self) -> list[int]:
        """Ids of the live processes of the worker's group, the worker's own first."""
        return self._process.pids()

    def capabilities(self) -> Capabilities:
        """As Engine says; so are the calls below."""
        answer: Capabilities = self._call("capabilities", {})
        return answer

    def footprint_bytes(  # noqa: D102
        self, model: str, checkpoint: str, gpu_layers: int | None, *, context_tokens: int, max_batch: int
    ) -> int:
        sizes = {"gpu_layers": gpu_layers, "context_tokens": context_tokens, "max_batch": max_batch}
        arguments = {"model": model, "checkpoint": str(checkpoint), **sizes}
        answer: int = self._call("footprint_bytes", arguments)
        return answer

    def load(  # noqa: D102
        self, model: str, checkpoint: str, gpu_layers: int | None, *, context_tokens: int, max_batch: int
    ) -> LoadResult:
        sizes = {"gpu_layers": gpu_layers, "context_tokens": context_tokens, "max_batch": max_batch}
        answer: LoadResult = self._call("load", {"model": model, "checkpoint": str(checkpoint), **sizes})
        return answer

    def unload(self, model: str) -> Timed:  # noqa: D102
        answer: Timed = self._call("unload", {"model": model})
        return answer

    def prefill(self, model: str, request: str, tokens: list[int]) -> PrefillResult:  # noqa: D102
        arguments = {"model": model, "request": request, "tokens": tokens}
        answer: PrefillResult = self._call("prefill", arguments)
        return answer

    def decode(  # noqa: D102
        self, model: str, limits: dict[str, int], *, max_steps: int, max_s: float | None = None
    ) -> DecodeResult:
        arguments = {"model": model, "limits": limits, "max_steps": max_steps, "max_s": max_s}
        answer: DecodeResult = self._call("decode", arguments)
        return answer

    def save_kv(self, model: str, request: str) -> KvResult:  # noqa: D102
        answer: KvResult = self._call("save_kv", {"model": model, "request": request})
        return answer

    def restore_kv(self, model: str, request: str) -> KvResult:  # noqa: D102
        answer: KvResult = self._call("restore_kv", {"model": model, "request": request})
        return answer

    def drop_kv(self, model: str, request: str) -> None:  # noqa: D102
        self._call("drop_kv", {"model": model, "request": request})

    def memory(self) -> MemoryReport:  # noqa: D102
        answer: MemoryReport = self._call("memory", {})
        return answer

    def drop_page_cache(self, checkpoint: str) -> None:  # noqa: D102
        self._call("drop_page_cache", {"checkpoint": str(checkpoint)})

    def close(self) -> None:
        """Ends and reaps every process of the worker; a second close does nothing."""
        with self._lock:
            if self._process.ended is not None:
                return
            try:
                self._call("close", {}, timeout_s=CLOSE_S)
                self._process.wait(CLOSE_S)
            except (WorkerDiedError, WorkerTimeoutError):
                return  # it has been ended already, which is all that close promises
            finally:
                self._process.end("it was closed")

    def __enter__(self) -> WorkerEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, name: str, arguments: dict[str, Any], timeout_s: float | None = None) -> Any:
        frame = wire.pack({"call": name, "args": arguments})
        with self._lock:
            reply = self._process.ask(name, frame, self.timeout_s if timeout_s is None else timeout_s)
        if "error" in reply:
            raise wire.decode_error(reply["error"])
        return wire.decode_value(reply["result"])


def start_engine(
    name: str, device: str, *, python: str | None = None, timeout_s: float = 600.0
) -> WorkerEngine:
    """Starts an engine in a worker process.

    Args:
        name: Key of ``ENGINES``.
        device: As users write it, like ``cpu:1-threads`` or ``cuda:0``.
        python: Interpreter that has the engine; None means this one.
        timeout_s: Longest that a call may take.

    Raises:
        InputError: The engine or the device is unknown.
        EngineUnavailableError: The interpreter or the device cannot run it.
    """
    return WorkerEngine(name, parse_device(device), python=python, timeout_s=timeout_s)


def _environment(device: DeviceSpec) -> dict[str, str]:
    environment = dict(os.environ)
    if device.threads is not None:
        environment.update(dict.fromkeys(_THREAD_VARIABLES, str(device.threads)))
    # Threads that spin while they wait starve the other processes of a shared core.
    environment.setdefault("OMP_WAIT_POLICY", "passive")
    return environment
