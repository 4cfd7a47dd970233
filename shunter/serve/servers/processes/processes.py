"""A server's process: started in a session of its own, watched, and ended with all that it started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from shunter.serve.boundary import ServerFailed
from shunter.serve.servers.processes.identity import start_ticks, tree_pids
from shunter.serve.servers.processes.leftovers import end_session, keep_record
from shunter.serve.servers.processes.log import ServerLog

GIVE_BACK_S = 5.0
"""Longest that the memory of an ended server is waited for."""

_BOOT = Path(__file__).with_name("boot.py")
_POLL_S = 0.01
_CHUNK_BYTES = 65_536


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now; somebody may before it is used."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


class ServerProcess:
    """One process and what it starts, the leader of its own session.

    The kernel kills it when this process ends in whatever way. It inherits no socket, writes to ``log``, and
    has a file in the state folder until it is gone.

    Args:
        label: What errors call it.
        log: Gets its output.
        state_dir: Folder of the gateway's state.

    Attributes:
        pid: Its id, also of its session and group; 0 before it was started.
    """

    def __init__(self, label: str, log: ServerLog, state_dir: Path) -> None:
        self.label, self.log, self.pid = label, log, 0
        self._state_dir = state_dir
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._output: asyncio.StreamReader | None = None
        self._pipes: list[asyncio.ReadTransport] = []
        self._stdin: int | None = None
        self._record: Path | None = None
        self._start_ticks = 0

    async def start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        cores: Sequence[int] = (),
        port: int = 0,
        launch: str = "",
        piped: bool = False,
    ) -> None:
        """Starts a command.

        Args:
            command: What to run; output and errors go to the log.
            environment: All of its environment variables.
            cores: CPU cores that it may run on; empty means any.
            port: Where it will listen, for its record.
            launch: Digest of what it is started with, for its record.
            piped: Whether its standard input and output are pipes to this process; only errors are logged.

        Raises:
            ServerFailed: The system starts no process.
        """
        # The kernel's signal comes with the end of the thread that starts a process: right for the main one.
        parent = os.getpid() if threading.current_thread() is threading.main_thread() else 0
        boot = [sys.executable, "-I", str(_BOOT), str(parent), ",".join(map(str, cores)), *command]
        # Pipes of our own: asyncio's Process.wait would wait for whoever inherited one of its pipes too.
        (ours, errors), output, given = os.pipe(), os.pipe() if piped else None, os.pipe() if piped else None
        theirs = [errors, *(output[1:] if output else []), *(given[:1] if given else [])]
        self._stdin = given[1] if given else None
        try:
            self._reader = asyncio.create_task(self._read(await self._opened(ours)))
            self._output = await self._opened(output[0]) if output else None
            self._process = await asyncio.create_subprocess_exec(
                *boot,
                stdin=given[0] if given else asyncio.subprocess.DEVNULL,
                stdout=output[1] if output else errors,
                stderr=errors,
                start_new_session=True,
                env=dict(environment),
            )
        except OSError as error:
            raise ServerFailed(f"{self.label} cannot be started: {error.strerror}") from error
        finally:
            for end in theirs:
                os.close(end)
            if self._process is None:
                self._close_pipes()
        self.pid = self._process.pid
        self._start_ticks = start_ticks(self.pid) or 0
        self._record = await asyncio.to_thread(keep_record, self._state_dir, self.pid, port, launch)

    async def _opened(self, end: int) -> asyncio.StreamReader:
        reader = asyncio.StreamReader()
        pipe = os.fdopen(end, "rb", buffering=0)
        connected = asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        self._pipes.append((await connected)[0])
        return reader

    def _close_pipes(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        self._pipes.clear()
        if self._stdin is not None:
            os.close(self._stdin)
            self._stdin = None

    async def _read(self, output: asyncio.StreamReader) -> None:
        while data := await output.read(_CHUNK_BYTES):
            self.log.write(data)

    async def first_line(self) -> str:
        """The first line of a piped process's standard output; empty if it ended before."""
        return (await self._output.readline()).decode().strip() if self._output else ""

    def running(self) -> bool:
        """Whether the process is there and has not ended."""
        return self._process is not None and self._process.returncode is None

    def pids(self) -> list[int]:
        """Ids of the process and its descendants, while it runs."""
        return tree_pids(self.pid) if self.running() else []

    def listens_on(self, port: int) -> bool:
        """Whether it is this server that listens there, and not somebody who took the port first."""
        for pid in self.pids():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                sockets = psutil.Process(pid).net_connections("tcp")
                if any(s.status == psutil.CONN_LISTEN and s.laddr.port == port for s in sockets):
                    return True
        return False

    async def wait(self) -> str:
        """Waits until the process has ended and its output was read; says how it ended."""
        if self._process is None:
            return "was not started"
        status = await self._process.wait()
        if self._reader is not None:
            # A child that it left may hold the pipe open: what is there is read, and no more is waited for.
            await asyncio.wait({self._reader}, timeout=0.5)
        return f"was killed by {_signal_name(-status)}" if status < 0 else f"ended with status {status}"

    async def end(self, grace_s: float, given_back: Callable[[], bool] = lambda: True) -> None:
        """Asks its group to end, kills it after ``grace_s``, and waits until its memory is free.

        Args:
            grace_s: Seconds between the two; 0: it is killed at once.
            given_back: Whether the device has its memory back, once the process is gone.
        """
        process = self._process
        if process is None:
            return
        if self.running() and grace_s > 0:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), grace_s)
        if self.running():
            self._signal(signal.SIGKILL)
        await process.wait()
        await asyncio.to_thread(end_session, self.pid, self._start_ticks)
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        self._close_pipes()
        await wait_until(given_back, GIVE_BACK_S)
        if self._record is not None:
            self._record.unlink(missing_ok=True)
        self._process = None

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


async def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Waits until something holds; returns whether it did in time."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + timeout_s
    while not (holds := condition()) and loop.time() < deadline_s:
        await asyncio.sleep(_POLL_S)
    return holds


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
