"""A scheduler that does as it is told, a server that answers as its body asks, and both running."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from shunter.serve.boundary import Asked, Refused, Usage
from shunter.serve.http.app import make_app
from shunter.serve.http.listen import Listening, listen
from shunter.serve.http.settings import HttpSettings

SNAPSHOT: dict[str, Any] = {
    "version": 1,
    "now_s": 1000.0,
    "policy": "greedy",
    "fallback": None,
    "shadow": None,
    "guard_s": 30.0,
    "devices": [
        {
            "name": "cuda:0",
            "text": "A GPU",
            "capacity_bytes": 24 << 30,
            "used_bytes": 9 << 30,
            "measured_bytes": None,
            "operation": None,
            "residents": [
                {
                    "model": "small",
                    "gpu_layers": 24,
                    "state": "ready",
                    "running": 1,
                    "max_batch": 8,
                    "memory_bytes": 8 << 30,
                    "idle_s": 0.0,
                    "pid": 1,
                }
            ],
        }
    ],
    "models": [
        {
            "name": "small",
            "aliases": ["gpt-4o"],
            "state": "ready",
            "queued": 3,
            "running": 1,
            "oldest_wait_s": 2.5,
            "predicted_wait_s": 4.0,
            "served": 7,
            "failed": 0,
            "retry_in_s": None,
            "reason": None,
        }
    ],
    "decisions": [
        {"time_s": 999.0, "device": "cuda:0", "choice": "load small", "why": "3 wait", "took_ms": 0.2}
        | {"shadow": None}
    ],
    "totals": {"served": 7, "refused": 0, "cancelled": 1, "failed": 0}
    | {"loads": 1, "evictions": 2, "decisions": 12},
}


@dataclass
class StubTicket:
    """A ticket that writes down what it is told."""

    id: int
    model: str
    asked: Asked
    scheduler: StubScheduler
    told: list[tuple[str, Any]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    attended: list[bool] = field(default_factory=list)
    holds_slot: bool = False

    async def server(self) -> str:
        stub = self.scheduler
        await stub.open.wait()
        if stub.refusal is not None:
            raise stub.refusal
        if stub.slots is not None:
            await stub.slots.acquire()
            self.holds_slot = True
        stub.queued -= 1
        return stub.url

    def watched(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    def attends(self, *, server: bool) -> None:
        self.attended.append(server)

    def progressed(self, tokens: int) -> None:
        self.tokens.append(tokens)

    def done(self, usage: Usage) -> None:
        self._end("done", usage)

    def gone(self, *, client: bool) -> None:
        self._end("gone", client)

    async def retry(self) -> bool:
        self.told.append(("retry", None))
        self._let_slot()
        self.scheduler.retries -= 1
        self.scheduler.queued += 1
        return self.scheduler.retries >= 0

    def _end(self, word: str, value: Any) -> None:
        self.told.append((word, value))
        self._let_slot()
        self.scheduler.ended.set()

    def _let_slot(self) -> None:
        if self.holds_slot:
            self.holds_slot = False
            assert self.scheduler.slots is not None
            self.scheduler.slots.release()


class StubScheduler:
    """A scheduler of one model, ``small``, also called ``gpt-4o``."""

    def __init__(self, *, slots: int | None = None, queue: int | None = None) -> None:
        self.url = ""
        self.open = asyncio.Event()
        self.open.set()
        self.refusal: Refused | None = None
        self.not_ready: str | None = None
        self.slots = None if slots is None else asyncio.Semaphore(slots)
        self.queue = queue
        self.queued = 0
        self.retries = 1
        self.tickets: list[StubTicket] = []
        self.ended = asyncio.Event()
        self.unloaded: list[str | None] = []
        self.news: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def submit(self, asked: Asked) -> StubTicket:
        if asked.model not in ("small", "gpt-4o"):
            raise Refused(404, "model_not_found", f"model: unknown name {asked.model!r}; did you mean small?")
        if self.queue is not None and self.queued >= self.queue:
            raise Refused(429, "queue_full", "The queue of small is full.", 2.3)
        self.queued += 1
        self.tickets.append(StubTicket(len(self.tickets), "small", asked, self))
        return self.tickets[-1]

    def models(self) -> list[dict[str, Any]]:
        return [{"id": "small", "aliases": ["gpt-4o"]}, {"id": "org/large"}]

    def snapshot(self) -> dict[str, Any]:
        return SNAPSHOT

    def ready(self) -> str | None:
        return self.not_ready

    def unload(self, model: str | None) -> list[str]:
        self.unloaded.append(model)
        if model == "none":
            raise Refused(404, "model_not_found", "model: unknown name 'none'")
        return ["small"]

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        while True:
            yield await self.news.get()


class Upstream:
    """A server that answers with the pieces that it is given, and notices who goes away.

    Attributes:
        pieces: What it writes, one write each, with ``gap_s`` between.
        breaks_after: Breaks the connection after so many pieces.
        hangs: Waits for ever at its end.
        left: Set when a client went away in the midst of an answer.
        bodies: What it was sent.
    """

    def __init__(self) -> None:
        self.pieces: list[bytes] = [b"{}"]
        self.status = 200
        self.content_type = "application/json; charset=utf-8"
        self.headers: dict[str, str] = {}
        self.gap_s = 0.0
        self.breaks_after: int | None = None
        self.breaks_often = 1000
        self.hangs = False
        self.left = asyncio.Event()
        self.began = asyncio.Event()
        self.bodies: list[bytes] = []
        self.requests: list[web.Request] = []
        self.handler: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None

    def streams(self, *events: str) -> None:
        self.content_type = "text/event-stream"
        self.pieces = [f"data: {event}\n\n".encode() for event in events]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.read())
        self.requests.append(request)
        self.began.set()
        try:
            if self.handler is not None:
                return await self.handler(request)
            return await self._write(request)
        except asyncio.CancelledError:
            self.left.set()
            raise

    async def _write(self, request: web.Request) -> web.StreamResponse:
        breaks = self.breaks_after is not None and self.breaks_often > 0
        self.breaks_often -= 1
        if breaks and self.breaks_after == 0:
            return _break(request)
        if self.hangs and not self.pieces:
            await asyncio.sleep(60)
        response = web.StreamResponse(
            status=self.status, headers={"Content-Type": self.content_type} | self.headers
        )
        await response.prepare(request)
        for k, piece in enumerate(self.pieces, 1):
            await response.write(piece)
            if breaks and self.breaks_after == k:
                await asyncio.sleep(0.02)
                return _break(request)
            if self.gap_s:
                await asyncio.sleep(self.gap_s)
        if self.hangs:
            await asyncio.sleep(60)
        await response.write_eof()
        return response


def _break(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@dataclass
class Running:
    """A gateway before a server, and a client of it."""

    stub: StubScheduler
    upstream: Upstream
    client: aiohttp.ClientSession
    listening: Listening

    @property
    def url(self) -> str:
        return self.listening.url

    @property
    def port(self) -> int:
        return self.listening.port

    @property
    def ticket(self) -> StubTicket:
        return self.stub.tickets[-1]

    def post(self, path: str = "/v1/chat/completions", **fields: Any) -> Any:
        body = {"model": "small", "messages": [{"role": "user", "content": "Hello"}]} | fields
        return self.client.post(path, data=json.dumps(body), headers={"Content-Type": "application/json"})


@asynccontextmanager
async def running(
    stub: StubScheduler | None = None,
    *,
    drain_s: float = 0.1,
    text_log: Path | None = None,
    **settings: Any,
) -> AsyncIterator[Running]:
    """Runs a gateway before an upstream, both on ports of their own."""
    stub = stub or StubScheduler()
    upstream = Upstream()
    server = web.Application(client_max_size=1 << 30)
    server.router.add_route("*", "/{path:.*}", upstream.answer)
    runner = web.AppRunner(server, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    stub.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    ours = replace(HttpSettings(port=0), **settings)
    listening = await listen(make_app(stub, ours, text_log=text_log), ours, drain_s=drain_s)
    try:
        async with aiohttp.ClientSession(
            listening.url, connector=aiohttp.TCPConnector(limit=0), auto_decompress=False
        ) as client:
            yield Running(stub, upstream, client, listening)
    finally:
        await listening.stop()
        await runner.cleanup()


def play(scene: Callable[[], Coroutine[Any, Any, None]], timeout_s: float = 120.0) -> None:
    """Runs a scene, which must not hang."""
    asyncio.run(asyncio.wait_for(scene(), timeout_s))
