"""Binds the application so that clients who go away are noticed and those who dawdle cannot hold it up."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from shunter.errors import InputError
from shunter.serve.http.errors import Fault, error_body
from shunter.serve.http.settings import HttpSettings

__all__ = ["listen"]

_KEPT_S = 75.0
_BACKLOG = 1024


@dataclass
class Listening:
    """An application that is bound.

    Attributes:
        url: Where it is, like ``http://127.0.0.1:8080``.
        port: Its port.
    """

    url: str
    port: int
    _runner: web.AppRunner
    _server: asyncio.Server

    async def stop(self) -> None:
        """Takes no more connections, waits for what runs as long as the application was told, and ends."""
        self._server.close()
        await self._runner.cleanup()


async def listen(app: web.Application, settings: HttpSettings, *, drain_s: float = 60.0) -> Listening:
    """Binds an application and starts it.

    Args:
        app: What ``make_app`` made.
        settings: What it was made with.
        drain_s: Longest wait for running requests when it is stopped.

    Raises:
        InputError: The address cannot be had.
    """
    runner = web.AppRunner(
        app,
        handler_cancellation=True,
        access_log=None,
        logger=_silent(),
        keepalive_timeout=_KEPT_S,
        max_line_size=settings.max_header_bytes,
        max_field_size=settings.max_header_bytes,
        shutdown_timeout=max(0.1, drain_s),  # aiohttp takes 0 for no bound at all
    )
    await runner.setup()
    handlers = runner.server
    assert handlers is not None
    doorman = _Doorman(handlers, settings)
    loop = asyncio.get_running_loop()
    try:
        server = await loop.create_server(doorman.greet, settings.host, settings.port, backlog=_BACKLOG)
    except OSError as error:
        await runner.cleanup()
        taken = error.errno == errno.EADDRINUSE
        rule = "be free" if taken else f"be one that can be listened at ({error.strerror})"
        raise InputError("--port" if taken else "--host and --port", rule, _address(settings)) from None
    port = server.sockets[0].getsockname()[1]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return Listening(f"http://{host}:{port}", port, runner, server)


def _silent() -> logging.Logger:
    """A logger for aiohttp's complaints of malformed requests: with it anybody could fill our log."""
    logger = logging.getLogger(f"{__name__}.malformed")
    logger.setLevel(logging.CRITICAL)
    return logger


def _address(settings: HttpSettings) -> str:
    return f"{settings.host}:{settings.port}"


class _Doorman:
    """Lets so many connections in, each of which must say soon what it wants."""

    def __init__(self, handlers: Callable[[], asyncio.Protocol], settings: HttpSettings) -> None:
        self._handlers = handlers
        self.settings = settings
        self.inside = 0

    def greet(self) -> asyncio.Protocol:
        """The protocol of a new connection."""
        return _Turned() if self.inside >= self.settings.max_connections else _Guest(self, self._handlers())


class _Turned(asyncio.Protocol):
    """A connection too many: it is told so."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        fault = Fault(503, "too_many_connections", "Too many are connected already.")
        body = json.dumps(error_body(fault, "")).encode()
        head = (
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
            f"Retry-After: 1\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(head.encode() + body)
        transport.close()


class _Guest(asyncio.Protocol):
    """A connection; it is closed if its first head does not come in time.

    aiohttp bounds how long a connection may be idle after a request, but not before the first.
    """

    def __init__(self, doorman: _Doorman, handler: asyncio.Protocol) -> None:
        self._doorman = doorman
        self._handler = handler
        self._head = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._doorman.inside += 1
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._doorman.settings.head_timeout_s, transport.close)
        self._handler.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._timer is not None:
            self._head = self._head[-3:] + data
            if b"\r\n\r\n" in self._head:
                self._see_head()
        self._handler.data_received(data)

    def eof_received(self) -> bool | None:
        return self._handler.eof_received()

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._see_head()
        self._doorman.inside -= 1
        self._handler.connection_lost(exc)

    def _see_head(self) -> None:
        self._head = b""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
