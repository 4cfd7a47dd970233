"""The process behind a worker: started in a group of its own, watched, and ended with everything in it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

import psutil

from shunter.engines.base import EngineUnavailableError, WorkerDiedError, WorkerTimeoutError
from shunter.engines.worker import wire

CLOSE_S = 10.0
"""Seconds that an ending process gets before it is taken for stuck."""

_BOOT = Path(__file__).parents[1] / "worker" / "boot.py"
_TAIL_BYTES = 2000
_TAIL_LINES = 5
_POLL_S = 0.2


class WorkerProcess:
    """One worker process, the leader of its own session and group, and the wire to it.

    Args:
        label: What errors call it.
        python: Interpreter that runs it.
        arguments: What ``boot.py`` gets beside the wire and the caller.
        environment: Its environment variables.

    Raises:
        EngineUnavailableError: The interpreter cannot be started.
    """

    def __init__(self, label: str, python: str, arguments: list[str], environment: dict[str, str]) -> None:
        self.label = label
        self.ended: str | None = None
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._connection, theirs = socket.socketpair()
        command = [python, str(_BOOT), "--fd", str(theirs.fileno()), "--caller-pid", str(os.getpid())]
        if threading.current_thread() is threading.main_thread():
            command.append("--caller-is-main-thread")
        with theirs:
            self._process = self._start([*command, *arguments], theirs.fileno(), environment)
        self._release = weakref.finalize(
            self, _release, os.getpid(), self._process, self._connection, self._stderr
        )

    def _start(
        self, command: list[str], wire_fd: int, environment: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                pass_fds=[wire_fd],
                start_new_session=True,
                env={**environment, "TMPDIR": tempfile.gettempdir()},
            )
        except OSError as error:
            self._connection.close()
            self._stderr.close()
            raise EngineUnavailableError(f"{command[0]} cannot be started: {error.strerror}") from error

    @property
    def exit_status(self) -> int | None:
        """As ``Popen.returncode``; None before the process was reaped."""
        return self._process.returncode

    def pids(self) -> list[int]:
        """Ids of the live processes of the group, the leader first."""
        leader = self._process.pid
        return sorted(_group(leader), key=lambda pid: (pid != leader, pid))

    def tail(self) -> str:
        """The last lines that the process wrote on its standard output and error."""
        if self._stderr.closed:
            return ""
        size = os.fstat(self._stderr.fileno()).st_size
        raw = os.pread(self._stderr.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        return "\n".join(raw.decode(errors="replace").strip().splitlines()[-_TAIL_LINES:])

    def ask(self, call: str, frame: bytes, timeout_s: float) -> dict[str, Any]:
        """Sends one frame and waits for the one that answers it.

        Raises:
            WorkerDiedError: The process ended, now or earlier.
            WorkerTimeoutError: No answer came in time; the group was killed.
        """
        if self.ended is not None:
            raise WorkerDiedError(f"the {self.label} worker takes no more calls: {self.ended}")
        with self._ended_if_interrupted(call):
            try:
                self._connection.settimeout(timeout_s)
                self._connection.sendall(frame)
            except TimeoutError:
                self._time_out(call, timeout_s)
            except OSError:
                self._bury(call)
            return self._receive(call, timeout_s)

    def receive(self, call: str, timeout_s: float) -> dict[str, Any]:
        """Waits for one frame; raises as ``ask``."""
        with self._ended_if_interrupted(call):
            return self._receive(call, timeout_s)

    @contextlib.contextmanager
    def _ended_if_interrupted(self, call: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            # An answer still under way would be taken for that of the next call.
            self.end(f"its call {call} was interrupted")
            raise

    def _receive(self, call: str, timeout_s: float) -> dict[str, Any]:
        deadline_s = time.monotonic() + timeout_s
        while not self._readable(_POLL_S):
            # The end of the process is looked for too: a stray child of it may hold its end of the wire.
            if _has_exited(self._process) and not self._readable(0):
                self._bury(call)
            if time.monotonic() > deadline_s:
                self._time_out(call, timeout_s)
        message = None
        try:
            self._connection.settimeout(max(_POLL_S, deadline_s - time.monotonic()))
            message = wire.receive(self._connection)
        except TimeoutError:
            self._time_out(call, timeout_s)
        except (OSError, EOFError):
            self._bury(call)
        if message is None:
            self._bury(call)
        return message

    def _readable(self, timeout_s: float) -> bool:
        return bool(select.select([self._connection], [], [], timeout_s)[0])

    def _time_out(self, call: str, timeout_s: float) -> NoReturn:
        why = f"the {self.label} worker did not answer {call} within {timeout_s:g} s and was killed"
        message = why + _quoted(self.tail())
        self.end(message)
        raise WorkerTimeoutError(message)

    def _bury(self, call: str) -> NoReturn:
        # The wire breaks a moment before the process is gone; its exit status tells why.
        deadline_s = time.monotonic() + CLOSE_S
        while not _has_exited(self._process) and time.monotonic() < deadline_s:
            time.sleep(0.01)
        status = self._process.poll()
        message = f"the {self.label} worker {_fate(status)} in the call {call}" + _quoted(self.tail())
        self.end(message)
        raise WorkerDiedError(message)

    def wait(self, timeout_s: float) -> None:
        """Gives the process time to end by itself; returns whether or not it did."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)

    def end(self, why: str) -> None:
        """Kills and reaps the whole group; ``why`` is what later calls are told. The first reason stays."""
        self.ended = self.ended or why
        self._release()


def _has_exited(process: subprocess.Popen[bytes]) -> bool:
    # Unlike Popen.poll, this leaves a zombie, whose id no other process group can take meanwhile.
    if process.returncode is not None:
        return True
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _fate(status: int | None) -> str:
    if status is not None and status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def _quoted(tail: str) -> str:
    return f"; its last words: {tail}" if tail else ""


def _group(leader: int) -> list[int]:
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process.pid)
    return members


def _release(
    owner: int, process: subprocess.Popen[bytes], connection: socket.socket, stderr: IO[bytes]
) -> None:
    if os.getpid() != owner:  # a forked child of the caller must not end its parent's worker
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    deadline_s = time.monotonic() + CLOSE_S
    while _group(process.pid) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    connection.close()
    stderr.close()
