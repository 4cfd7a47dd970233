"""The loopback device: a second process on 127.0.0.1 that llama.cpp uses as its accelerator.

On a machine without a GPU it makes gpu_layers, transfers, loads, KV copies and device memory real: weights
really cross a boundary into another process's memory and are computed on there.
"""

from __future__ import annotations

import select
import subprocess
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..base import EngineError, EngineUnavailableError
from ..memory import resident_bytes
from .ggml import RPC_BUILD_HINT, loopback_command, loopback_environment
from .native import device_memory, free_backend, library_path, open_backend, rpc_device

_START_S = 30.0
_ANSWER_S = 60.0


class LoopbackDevice:
    """Starts the device process and connects llama.cpp to it.

    Args:
        threads: CPU threads that it computes with.
        cores: CPU cores that it runs on, all of its threads; empty means any. This process stays free.
        share_percent: Share of time that the process may run; it is stopped for what is missing from 100.

    Attributes:
        pointer: ggml's handle of the device.
        pid: Id of the device process.

    Raises:
        EngineUnavailableError: This build has no RPC, a core is not there, or the process does not start.
    """

    def __init__(self, threads: int, cores: Iterable[int] = (), share_percent: int = 100) -> None:
        libggml, libggml_rpc = library_path("libggml"), library_path("libggml-rpc")
        if libggml is None or libggml_rpc is None:
            raise EngineUnavailableError(RPC_BUILD_HINT)
        command = loopback_command((libggml, libggml_rpc), threads, cores, share_percent)
        if threading.current_thread() is threading.main_thread():
            command.append("--parent-is-main-thread")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=loopback_environment(threads)
        )
        self.pid = self._process.pid
        try:
            port = int(self._answer(_START_S))
            with self._ended_after(_START_S):  # somebody else may keep the port busy
                self.pointer = rpc_device(f"127.0.0.1:{port}")
                # llama.cpp drops the connection with its last buffer; held open, a load does not pay for a
                # new one, and frees are seen by the device before whatever is sent after them.
                self._backend: int | None = open_backend(self.pointer)
        except BaseException:
            self._end()
            raise

    @contextmanager
    def _ended_after(self, limit_s: float) -> Iterator[None]:
        """Ends the device process if what is done within takes too long, and with it what waits for it."""
        timer = threading.Timer(limit_s, self._process.kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    @property
    def lost(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None or self._is_dying()

    def _is_dying(self) -> bool:
        # A killed process can be waited for only once all of its threads are gone.
        stat = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii")
        return stat.rpartition(")")[2].split()[0] in "ZX"

    def check(self) -> None:
        """Makes sure that the process is there: llama.cpp ends this process if it speaks to one that is not.

        Raises:
            EngineError: It has ended.
        """
        if self.lost:
            status = self._process.wait()
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            raise EngineError(f"the loopback device is gone, with all models on it: its process {how}")

    def used_bytes(self) -> int:
        """Resident memory of the device process.

        Raises:
            EngineError: It has ended.
        """
        self.check()
        return resident_bytes(self.pid)

    def settle(self) -> None:
        """Waits until the device has carried out everything that was sent to it."""
        device_memory(self.pointer)  # a question, answered in turn; writes and frees are not acknowledged

    def trim(self) -> None:
        """Has the device process give freed memory back to the system.

        Raises:
            EngineError: It does not answer.
        """
        self.settle()
        if self._process.stdin is None:
            raise EngineError("the device process has no standard input")
        try:
            self._process.stdin.write(b"trim\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self.check()
            raise
        self._answer(_ANSWER_S)

    def close(self) -> None:
        """Ends the device process; every model on it must have been freed. A second close does nothing."""
        if self._backend is not None:
            if not self.lost:  # to speak to a lost one would end this process
                free_backend(self._backend)
            self._backend = None
            self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _answer(self, timeout_s: float) -> bytes:
        out = self._process.stdout
        line = out.readline() if out and select.select([out], [], [], timeout_s)[0] else b""
        if not line:
            status = self._process.poll()
            fate = "does not answer" if status is None else f"ended with status {status}"
            raise EngineUnavailableError(f"the loopback device's process {fate}")
        return line
