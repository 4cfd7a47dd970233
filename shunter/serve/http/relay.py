"""Passes one request on to the server that the scheduler names, and the answer back as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import nullcontext
from typing import Any, TypeVar

import aiohttp
from aiohttp import hdrs, web
from yarl import URL

from shunter.serve.boundary import Asked, Refused, Ticket, Usage
from shunter.serve.http.body import read_asked
from shunter.serve.http.context import CONTEXT, Context
from shunter.serve.http.errors import Fault, error_event, event_bytes
from shunter.serve.http.intake import Body
from shunter.serve.http.tally import Tally, usage_of
from shunter.serve.http.texts import Exchange

_T = TypeVar("_T")

ENDPOINTS = {
    "/v1/chat/completions": "/v1/chat/completions",
    "/v1/completions": "/v1/completions",
    "/v1/embeddings": "/v1/embeddings",
    "/v1/responses": "/v1/responses",
    "/v1/messages": "/v1/messages",
    "/v1/messages/count_tokens": "/v1/messages/count_tokens",
    "/v1/rerank": "/v1/rerank",
    "/infill": "/infill",
    "/v1/infill": "/infill",
}
"""Paths that are passed on, and where to."""

_EVENTS = "text/event-stream"
_NOT_OFFERED = (501,)
"""What llama-server says to who asks for what its model cannot do: no failure of its own."""
_LEFT = 499
"""What is counted for a client that went away, as nginx does."""
_TO_SERVER = ("Content-Type", "Accept", "User-Agent", "anthropic-version", "anthropic-beta", "x-request-id")
_TO_CLIENT = ("Content-Type", "Content-Encoding", "Retry-After", "x-request-id")
_SURELY_TAKEN_BYTES = 32 * 1024
"""A write waits for the client only when more than that is ahead of its end."""


class _ServerBroke(Exception):
    """The server ended in the midst of an answer, or gave none."""


async def pass_on(request: web.Request) -> web.StreamResponse:
    """Answers a request by a server of its model."""
    context = request.app[CONTEXT]
    arrived_s = asyncio.get_running_loop().time()
    try:
        body = await context.intake.read(request)
    except Fault as fault:
        context.metrics.count_refusal("", fault.status)
        raise
    texts = context.texts
    try:
        with nullcontext() if texts is None else texts.exchange(request.path, body.raw) as exchange:
            return await _answered(context, request, body, arrived_s, exchange)
    finally:
        body.drop()


async def _answered(
    context: Context, request: web.Request, body: Body, arrived_s: float, exchange: Exchange | None
) -> web.StreamResponse:
    model = ""
    try:
        asked = read_asked(body.raw, request.path, request.headers)
        model = asked.model
        ticket = context.scheduler.submit(asked)
    except Refused as refused:
        context.metrics.count_refusal(model, refused.status)
        raise
    if exchange is not None:
        exchange.id = ticket.id
    return await _Relay(context, request, asked, body, ticket, arrived_s, exchange).run()


class _Relay:
    """One admitted request, until it has ended."""

    def __init__(
        self,
        context: Context,
        request: web.Request,
        asked: Asked,
        body: Body,
        ticket: Ticket,
        arrived_s: float,
        exchange: Exchange | None,
    ) -> None:
        self._context = context
        self._request = request
        self._asked = asked
        self._body = body
        self._ticket = ticket
        self._arrived_s = arrived_s
        self._exchange = exchange
        self._next_comment_s = arrived_s + context.settings.first_comment_s
        self._answer: web.StreamResponse | None = None
        self._upstream: aiohttp.ClientResponse | None = None
        self._tally = Tally()
        self._first_s: float | None = None
        self._last_s: float | None = None
        self._ended = False

    async def run(self) -> web.StreamResponse:
        """Answers; whatever happens, the ticket ends exactly once and the server is let go."""
        try:
            return await self._serve()
        except (asyncio.CancelledError, ConnectionError):  # the server's own errors are _ServerBroke by here
            self._gone(_LEFT, client=True)
            raise
        except Refused as refused:
            self._gone(refused.status, client=False)
            if self._answer is None:
                raise
            return await self._end_stream(error_event(refused, self._request.path))
        finally:
            self._gone(500, client=False)
            self._let_go()

    async def _serve(self) -> web.StreamResponse:
        while True:
            try:
                url = await self._while_waiting(self._ticket.server())
            except Refused as refused:
                self._end(refused.status)
                raise
            self._context.metrics.count_queue_wait(self._ticket.model, self._now_s() - self._arrived_s)
            try:
                upstream = await self._while_waiting(self._ask(url))
                if upstream.content_type == _EVENTS:
                    return await self._pass_stream(upstream)
                return await self._pass_whole(upstream)
            except _ServerBroke as broke:
                if self._tally.began:
                    raise Fault(
                        502, "server_failed", "The model's server broke off in mid-answer."
                    ) from broke
                if not await self._while_waiting(self._ticket.retry()):
                    self._end(503)
                    raise Fault(503, "server_failed", "The model's server failed too often.") from broke
            finally:
                self._let_go()

    async def _ask(self, url: str) -> aiohttp.ClientResponse:
        client = self._context.client
        assert client is not None
        query = self._request.rel_url.raw_query_string
        target = url.rstrip("/") + ENDPOINTS[self._request.path] + (f"?{query}" if query else "")
        headers = _only(self._request.headers, _TO_SERVER) | {hdrs.ACCEPT_ENCODING: "identity"}
        try:
            self._upstream = await client.post(
                URL(target, encoded=True), data=self._body.raw, headers=headers, allow_redirects=False
            )
        except (aiohttp.ClientError, OSError) as error:
            raise _ServerBroke from error
        return self._upstream

    async def _pass_whole(self, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
        try:
            data = await self._while_waiting(upstream.read())
        except (aiohttp.ClientError, OSError) as error:
            raise _ServerBroke from error
        if upstream.status < 400:
            self._done(upstream.status, usage_of(data))
        else:
            self._gone(upstream.status, client=upstream.status < 500 or upstream.status in _NOT_OFFERED)
        if self._answer is None:
            self._note_sent(data)
            return web.Response(
                status=upstream.status, body=data, headers=_only(upstream.headers, _TO_CLIENT)
            )
        line = b"".join(data.splitlines())
        return await self._end_stream(event_bytes(line, self._request.path, error=upstream.status >= 400))

    async def _pass_stream(self, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
        data = await self._while_waiting(_next_piece(upstream.content))
        answer = await self._open(upstream.status, _only(upstream.headers, _TO_CLIENT))
        self._body.drop()  # what is passed on is not asked again
        while data:
            await self._write(data)
            if self._tally.feed(data):
                self._last_s = self._now_s()
                self._first_s = self._first_s or self._last_s
                self._ticket.progressed(self._tally.tokens)
            data = await _next_piece(upstream.content)
        self._done(upstream.status, self._tally.usage())
        await answer.write_eof()
        return answer

    async def _open(self, status: int, headers: Mapping[str, str]) -> web.StreamResponse:
        """Sends the head of a stream, if it was not sent yet."""
        if self._answer is None:
            self._answer = web.StreamResponse(status=status, headers=headers)
            self._answer.headers[hdrs.CACHE_CONTROL] = "no-cache"
            self._answer.headers["X-Accel-Buffering"] = "no"
            await self._answer.prepare(self._request)
        return self._answer

    async def _write(self, data: bytes) -> None:
        assert self._answer is not None
        transport = self._request.transport
        try:
            ahead = len(data) + (transport.get_write_buffer_size() if transport is not None else 0)
            if ahead > _SURELY_TAKEN_BYTES:
                async with asyncio.timeout(self._context.settings.stalled_s):
                    await self._answer.write(data)
            else:
                await self._answer.write(data)
        except (ConnectionError, TimeoutError):
            if transport is not None:
                transport.abort()
            raise ConnectionResetError("the client takes no more of its answer") from None
        self._note_sent(data)

    def _note_sent(self, data: bytes) -> None:
        if self._exchange is not None:
            self._exchange.add(data)

    async def _while_waiting(self, waited: Coroutine[Any, Any, _T]) -> _T:
        """Waits; a stream that has not begun gets its head and a comment now and then meanwhile."""
        if not self._asked.stream:
            return await waited
        task = asyncio.ensure_future(waited)
        try:
            while not task.done():
                timeout_s = self._next_comment_s - self._now_s()
                await asyncio.wait({task}, timeout=max(0.0, timeout_s))
                if not task.done():
                    self._next_comment_s = self._now_s() + self._context.settings.next_comment_s
                    await self._open(200, {hdrs.CONTENT_TYPE: _EVENTS})
                    await self._write(b": waiting\n\n")
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # seen, so that nothing complains of it

    async def _end_stream(self, data: bytes) -> web.StreamResponse:
        assert self._answer is not None
        await self._write(data)
        await self._answer.write_eof()
        return self._answer

    def _done(self, status: int, usage: Usage) -> None:
        if self._end(status):
            self._ticket.done(usage)
            first_s, last_s = self._first_s, self._last_s
            self._context.metrics.count_tokens(
                self._ticket.model,
                usage,
                None if first_s is None else first_s - self._arrived_s,
                None if first_s is None or last_s is None else last_s - first_s,
                self._tally.tokens,
            )

    def _gone(self, status: int, *, client: bool) -> None:
        if self._end(status):
            self._ticket.gone(client=client)

    def _end(self, status: int) -> bool:
        """Marks the end; False if it has ended before."""
        if self._ended:
            return False
        self._ended = True
        if self._exchange is not None:
            self._exchange.status = status
        self._context.metrics.count_end(self._ticket.model, status, self._now_s() - self._arrived_s)
        return True

    def _let_go(self) -> None:
        """Closes the connection to the server: if it still answers, it stops."""
        if self._upstream is not None:
            self._upstream.close()
            self._upstream = None

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()


async def _next_piece(content: aiohttp.StreamReader) -> bytes:
    """The next piece as the server wrote it; empty at the end."""
    try:
        while True:
            data, more = await content.readchunk()
            if data or not more:
                return data
    except (aiohttp.ClientError, OSError) as error:
        raise _ServerBroke from error


def _only(headers: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    return {name: headers[name] for name in names if name in headers}
