"""Fake servers as the scheduler has them: a process like any other, or a part of this one for quick tests."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from aiohttp import web

from shunter.serve.boundary import Launch, Server, ServerFailed
from shunter.serve.servers.failures import server_failed
from shunter.serve.servers.fake.app import make_app
from shunter.serve.servers.fake.engine import (
    CRASHED,
    FAILED_LOADS,
    FakeEngine,
    FakeOptions,
    FakeTask,
    read_options,
)
from shunter.serve.servers.starting import ProcessServer

_ROOT = Path(__file__).parents[4]


class FakeProcess(ProcessServer):
    """A fake server in a process of its own; the launch's ``args`` are options of ``fake``."""

    program = "fake"

    def command(self, port: int) -> list[str]:  # noqa: D102
        launch = self.launch
        command = [sys.executable, "-m", "shunter.serve.servers.fake", "--port", str(port)]
        command += ["--alias", launch.model, "--slots", str(launch.max_batch)]
        return [*command, "--context-tokens", str(launch.context_tokens), *launch.args]

    def environment(self) -> dict[str, str]:  # noqa: D102
        paths = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
        return dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, paths)))


class FakeServer(Server):
    """A fake server on the caller's own loop, whose clock it follows: a virtual one makes it instant.

    Args:
        launch: Its ``args`` are options of ``fake``, over ``max_batch`` slots and ``context_tokens``.
        progress_s: Seconds after which a load without end has failed.
        grace_s: Seconds that one takes to end which does not end when asked.

    Attributes:
        options: How it behaves.
        engine: What answers, once started.
    """

    def __init__(self, launch: Launch, *, progress_s: float = 300.0, grace_s: float = 10.0) -> None:
        shape = ["--slots", str(launch.max_batch), "--context-tokens", str(launch.context_tokens)]
        self.launch = launch
        self.options: FakeOptions = read_options([*shape, *launch.args])
        self._progress_s, self._grace_s = progress_s, grace_s
        self._runner: web.AppRunner | None = None
        self._running: asyncio.Task[None] | None = None
        self._crashed = asyncio.Event()
        self.engine = FakeEngine(self.options, self.crash)

    @property
    def tasks(self) -> list[FakeTask]:
        """All requests that it had since it was started."""
        return list(self.engine.tasks)

    async def start(self) -> None:  # noqa: D102
        self._crashed = asyncio.Event()
        self.engine = FakeEngine(self.options, self.crash)
        app = make_app(self.engine, self.launch.model)
        # aiohttp takes 0 for no bound at all.
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01, access_log=None)
        try:
            await self._runner.setup()
            site = web.TCPSite(self._runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
            self.pid = os.getpid()
            if self.options.fail in FAILED_LOADS:
                await asyncio.sleep(self.options.load_s)
                raise self._failed("ended with status 1", FAILED_LOADS[self.options.fail])
            self._running = asyncio.create_task(self.engine.run())
            await self._loaded()
        except BaseException:
            await asyncio.shield(self._close())
            raise

    async def _loaded(self) -> None:
        try:
            await asyncio.wait_for(self.engine.loaded.wait(), self._progress_s)
        except TimeoutError as error:
            raise self._failed(f"made no progress for {self._progress_s:g} s", "") from error

    async def stop(self) -> None:  # noqa: D102
        if self.options.fail == "slow-stop" and self._runner is not None:
            await asyncio.sleep(self._grace_s)
        await asyncio.shield(self._close())

    async def _close(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
            self._running = None
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()
        self.pid = 0

    def crash(self) -> None:
        """Ends it as a process that is killed: connections break off."""
        self._crashed.set()
        self.pid = 0
        if self._running is not None:
            self._running.cancel()
        server = self._runner.server if self._runner else None
        for connection in server.connections if server else []:
            if connection.transport is not None:
                connection.transport.abort()
        for site in list(self._runner.sites) if self._runner else []:
            if isinstance(site, web.TCPSite) and site._server is not None:
                site._server.close()

    async def exited(self) -> ServerFailed:  # noqa: D102
        await self._crashed.wait()
        return self._failed("ended with status 1", CRASHED)

    def memory_bytes(self) -> tuple[int, int]:  # noqa: D102
        taken = self.options.memory_bytes if self.pid else 0
        return taken, taken

    def _failed(self, how: str, said: str) -> ServerFailed:
        return server_failed(f"fake for {self.launch.model!r} on {self.launch.device} {how}", said)
