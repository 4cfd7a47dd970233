"""The servers that run: loaded, watched, measured and stopped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import psutil

from shunter.serve.boundary import Launch, Server, ServerFailed, Sleeper

_MISSES = 3
"""Times in a row that a server says nothing, after which it is taken for stuck."""

_LOG = logging.getLogger(__name__)


class Fleet:
    """Servers by the indices of their device and model.

    Args:
        make: Makes the server of a launch, for an engine's name.
        on_end: Called with device, model and reason when a server has ended by itself, or is stuck.
        sleep_level: Servers that can sleep are sent to sleep at this level instead of ended; 0: none is.
        on_server: Called with what a server has done (``start``, ``wake``, ``sleep`` or ``end``), its device
            and model; not of one that ends by itself while it is awake.

    Attributes:
        servers: Those that answer.
        asleep: Those that sleep, who fell asleep first first.
        pulse_s: Time between two looks at whether a server is well.
    """

    def __init__(
        self,
        make: Callable[[str, Launch], Server],
        on_end: Callable[[int, int, ServerFailed], None],
        sleep_level: int = 0,
        on_server: Callable[[str, int, int], None] = lambda what, device, model: None,
    ) -> None:
        self.make, self._on_end, self.pulse_s, self._sleep_level = make, on_end, 15.0, sleep_level
        self._on_server = on_server
        self.servers: dict[tuple[int, int], Server] = {}
        self.asleep: dict[tuple[int, int], Server] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._watches: dict[Server, asyncio.Task[None]] = {}

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Does something beside; ``stop`` cancels it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def load(
        self, device: int, model: int, engine: str, launch: Launch, free_bytes: float = float("inf")
    ) -> None:
        """Starts a server, or wakes the one that sleeps, and watches it once it answers.

        Others that sleep on the device end first, until what they keep there leaves ``free_bytes`` alone.

        Raises:
            ServerFailed: It does not, whatever the reason is: a device whose load never ends would be lost.
        """
        server = None
        try:
            await self._make_room(device, model, free_bytes)
            if await self._woken(device, model, launch):
                return
            server = self.make(engine, launch)
            await server.start()
        except ServerFailed:
            raise
        except asyncio.CancelledError:
            if server is not None:
                await server.stop()
            raise
        except Exception as error:
            raise ServerFailed(str(error) or type(error).__name__) from error
        self.servers[device, model] = server
        self._watches[server] = self.spawn(self._watch(server))
        self._on_server("start", device, model)

    async def unload(self, device: int, model: int) -> None:
        """Stops a server, if it is there."""
        server = self.servers.get((device, model))
        if server is None:
            return
        if self._sleep_level and isinstance(server, Sleeper):
            try:
                await server.sleep(self._sleep_level)
            except ServerFailed as failed:
                _LOG.warning("The server of %s does not sleep: %s", server.launch.model, failed)
            else:
                if self.servers.pop((device, model), None) is server:  # else it ended just then
                    self.asleep[device, model] = server
                    self._on_server("sleep", device, model)
                return
        await self._retired(server)
        self.servers.pop((device, model), None)
        self._on_server("end", device, model)

    async def _woken(self, device: int, model: int, launch: Launch) -> bool:
        """Wakes the server that sleeps there, if it is the one that is wanted; else ends it."""
        server = self.asleep.pop((device, model), None)
        if server is None:
            return False
        if server.launch == launch and isinstance(server, Sleeper):
            try:
                await server.wake()
            except ServerFailed as failed:
                _LOG.warning("The server of %s does not wake: %s", launch.model, failed)
            else:
                self.servers[device, model] = server
                self._on_server("wake", device, model)
                return True
        await self._retired(server)
        self._on_server("end", device, model)
        return False

    async def _make_room(self, device: int, model: int, free_bytes: float) -> None:
        """Ends servers that sleep, first those that fell asleep first; the model's own may wake."""
        others = [at for at in self.asleep if at[0] == device and at[1] != model]
        while others and sum(self.asleep[at].memory_bytes()[0] for at in others) > free_bytes:
            first = others.pop(0)
            await self._retired(self.asleep.pop(first))
            self._on_server("end", *first)
            others = [at for at in others if at in self.asleep]

    async def _retired(self, server: Server) -> None:
        watch = self._watches.pop(server, None)
        if watch is not None:  # else it has ended by itself
            watch.cancel()
        await self._stopped(server)

    async def _stopped(self, server: Server) -> None:
        """Stops a server; one that cannot be stopped is no reason to stop everything."""
        try:
            await server.stop()
        except Exception as error:
            _LOG.warning("The server of %s did not end as it should: %s", server.launch.model, error)

    async def _watch(self, server: Server) -> None:
        """Tells of a server that has ended by itself, or is stuck and was ended."""
        ends = [asyncio.create_task(server.exited()), asyncio.create_task(self._stuck(server))]
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            failed = done.pop().result()
        finally:
            for task in ends:
                task.cancel()
        self._watches.pop(server, None)
        # Another scenario may have given it another place meanwhile.
        for at in [at for at, one in self.asleep.items() if one is server]:
            del self.asleep[at]
            self._on_server("end", *at)
        for device, model in [at for at, one in self.servers.items() if one is server]:
            del self.servers[device, model]
            self._on_end(device, model, failed)

    async def _stuck(self, server: Server) -> ServerFailed:
        """Waits until a server says nothing any more, and ends it."""
        misses = 0
        while misses < _MISSES:
            await asyncio.sleep(self.pulse_s)
            misses = 0 if await server.answers() else misses + 1
        await self._stopped(server)
        return ServerFailed(f"the server of {server.launch.model} was stuck: it said nothing {misses} times")

    def move(self, places: dict[tuple[int, int], tuple[int, int]]) -> None:
        """Gives servers other indices, old to new; those that get none, and those that sleep, are stopped."""
        left = [server for at, server in self.servers.items() if at not in places]
        left += self.asleep.values()
        self.asleep = {}
        self.servers = {to: self.servers[at] for at, to in places.items()}
        for server in left:
            self.spawn(self._retired(server))

    def memory_bytes(self, device: int, model: int | None = None) -> int | None:
        """Device memory that a device's servers take, or that of one model; None: it cannot be said now."""
        there = [*self.servers.items(), *self.asleep.items()]
        servers = [one for (d, m), one in there if d == device and model in (None, m)]
        try:
            return sum(server.memory_bytes()[0] for server in servers)
        except (OSError, psutil.Error):  # one has ended just now
            return None

    async def stop(self) -> None:
        """Ends all servers, and all that is done beside."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        there = [*self.servers.values(), *self.asleep.values()]
        await asyncio.gather(*(self._stopped(server) for server in there))
        self.servers.clear()
        self.asleep.clear()
