"""What all servers that are processes have in common: a port, a log, how one starts and ends."""

from __future__ import annotations

import asyncio
import hashlib
import os
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from shunter.catalog.devices import parse_device
from shunter.errors import InputError
from shunter.profiling.meters.energy import open_gpu
from shunter.serve.boundary import Launch, Server, ServerFailed
from shunter.serve.servers.failures import PortTakenError, server_failed
from shunter.serve.servers.processes.log import ServerLog
from shunter.serve.servers.processes.memory import GpuShare, host_bytes, visible_gpu
from shunter.serve.servers.processes.processes import ServerProcess, free_port
from shunter.sinks import file_name

__all__ = ["ServerSettings"]

_ATTEMPTS = 5
"""Ports that are tried, if somebody takes each before the server does."""

_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.25
_PAUSE_SHARE = 0.05
"""Of the time since it was started, how long until a server is asked again: so late is it found ready."""

_ANSWER_S = 5.0
_GROWTH_BYTES = 1_000_000
"""Memory that a server's must grow by to count as progress."""


@dataclass(frozen=True)
class ServerSettings:
    """How servers are started and ended.

    Attributes:
        state_dir: Folder for their logs, and for the files that tell a later gateway what to reap.
        llama_server: Path of the llama-server binary; None: it is looked for.
        vllm_python: Interpreter that has vLLM; None: as ``$SHUNTER_VLLM_PYTHON`` says.
        progress_s: Seconds without output and without growing memory after which a load has failed.
        grace_s: Seconds that a server gets to end by itself.
    """

    state_dir: Path
    llama_server: str | None = None
    vllm_python: str | None = None
    progress_s: float = 300.0
    grace_s: float = 10.0


class ProcessServer(Server):
    """A server that is a process; a kind of server says how it is started and when it answers.

    Args:
        launch: What it is started with.
        settings: How.

    Raises:
        InputError: The device's name has no meaning, or names cores or a GPU that are not there.

    Attributes:
        visible_gpu: What makes CUDA see its GPU alone, as ``CUDA_VISIBLE_DEVICES`` has it; empty: no CUDA.
    """

    program = "server"
    """What errors call it."""

    def __init__(self, launch: Launch, settings: ServerSettings) -> None:
        self.launch, self.settings = launch, settings
        self.device = parse_device(launch.device)
        allowed = os.sched_getaffinity(0)
        if not set(self.device.cores) <= allowed:
            there = ", ".join(map(str, sorted(allowed)))
            raise InputError("device", f"name cores that this process may use ({there})", launch.device)
        self.visible_gpu = visible_gpu(self.device) if self.device.kind == "cuda" else ""
        log = file_name(f"{launch.model}-{launch.device}")
        self.log = ServerLog(settings.state_dir / "logs" / f"{log}.log")
        self.process = self._new_process()
        self._gpu: GpuShare | None = None
        self._stopping = False

    @abstractmethod
    def command(self, port: int) -> list[str]:
        """The command line that makes it listen on a port of 127.0.0.1."""

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """All environment variables of its process."""

    def cores(self) -> tuple[int, ...]:
        """CPU cores that its process may run on; empty means any."""
        return ()

    async def prepare(self) -> None:
        """Starts what it needs besides; ``release`` ends that."""

    async def release(self) -> None:
        """Ends what ``prepare`` started, once the process is gone."""

    async def check(self) -> None:
        """Looks, once it answers, whether it is as it was wanted.

        Raises:
            ServerFailed: It is not.
        """

    async def is_ready(self, client: aiohttp.ClientSession) -> bool:
        """Whether it takes requests."""
        async with client.get(f"{self.url}/health") as answer:
            return answer.status == 200

    async def answers(self) -> bool:
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_S)) as client:
                return await self.is_ready(client)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def start(self) -> None:
        self._stopping = False
        if self.device.kind == "cuda":
            opened = asyncio.to_thread(open_gpu, self.device.index, address=self.device.address)
            self._gpu = GpuShare(await opened)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                await self._start_once()
                return
            except PortTakenError:
                await asyncio.shield(self._end(0))
                if attempt == _ATTEMPTS:
                    raise
            except BaseException:
                await asyncio.shield(self._end(0))
                raise

    async def _start_once(self) -> None:
        await self.prepare()
        port = free_port()
        self.process = self._new_process()
        digest = hashlib.sha256(repr(self.launch).encode()).hexdigest()[:16]
        await self.process.start(
            self.command(port), self.environment(), cores=self.cores(), port=port, launch=digest
        )
        self.url, self.pid = f"http://127.0.0.1:{port}", self.process.pid
        ready, ended = asyncio.create_task(self._answers()), asyncio.create_task(self._ends())
        try:
            await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                raise self._failed(ended.result(), loading=True)
            ready.result()
        finally:
            for task in (ready, ended):
                task.cancel()
            await asyncio.gather(ready, ended, return_exceptions=True)
        if not await asyncio.to_thread(self.process.listens_on, port):
            raise PortTakenError(f"{self._called()}: port {port} was taken by another process")
        await self.check()

    async def _answers(self) -> None:
        loop = asyncio.get_running_loop()
        begun_s, seen = loop.time(), (0, 0)
        progressed_s = begun_s
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_S)) as client:
            while True:
                try:
                    if await self.is_ready(client):
                        return
                except (aiohttp.ClientError, TimeoutError, OSError):
                    pass  # it does not listen yet, or is too busy loading
                now = (self.log.written_bytes, sum(self.memory_bytes()))
                if now[0] > seen[0] or now[1] > seen[1] + _GROWTH_BYTES:
                    progressed_s, seen = loop.time(), now
                if loop.time() - progressed_s > self.settings.progress_s:
                    why = f"made no progress for {self.settings.progress_s:g} s"
                    raise ServerFailed(f"{self._called()} {why}", log_tail=self.log.tail())
                pause_s = _PAUSE_SHARE * (loop.time() - begun_s)
                await asyncio.sleep(min(max(_SHORTEST_PAUSE_S, pause_s), _LONGEST_PAUSE_S))

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.shield(self._end(self.settings.grace_s))

    async def _end(self, grace_s: float) -> None:
        pids = self.process.pids()
        await self.process.end(grace_s, lambda: self._gpu is None or self._gpu.holds_none_of(pids))
        await self.release()
        self.pid = 0

    async def exited(self) -> ServerFailed:
        how = await self._ends()
        if self._stopping:
            await asyncio.get_running_loop().create_future()  # it was ended: there is nothing to tell, ever
        return self._failed(how)

    async def _ends(self) -> str:
        """Waits until what it needs has ended; says how."""
        return await self.process.wait()

    def memory_bytes(self) -> tuple[int, int]:
        pids = self.process.pids()
        host = host_bytes(pids)
        if self.device.kind == "cpu":
            return host, host
        return (self._gpu.bytes_of(pids) if self._gpu else 0), host

    def _new_process(self) -> ServerProcess:
        return ServerProcess(self._called(), self.log, self.settings.state_dir)

    def _called(self) -> str:
        return f"{self.program} for {self.launch.model!r} on {self.launch.device}"

    def _failed(self, how: str, *, loading: bool = False) -> ServerFailed:
        # While it loads, nobody but the kernel, when memory is short, has a reason to kill it.
        killed = loading and "SIGKILL" in how
        return server_failed(f"{self._called()} {how}", self.log.tail(40), killed_for_memory=killed)
