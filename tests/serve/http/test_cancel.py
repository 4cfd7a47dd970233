"""A client that goes away, in every window: the server is let go, and the scheduler is told exactly once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shunter.serve.http import relay
from tests.serve.http.stub import Running, play, running
from tests.serve.http.test_relay import CHAT

GONE = [("gone", True)]


async def _leave_while(run: Running, ready: Any, **fields: Any) -> None:
    """Asks, goes away once ``ready`` is done, and waits half a second at most for the end."""

    async def ask() -> None:
        async with run.post(**fields) as got:
            await got.read()

    asking = asyncio.create_task(ask())
    await ready
    asking.cancel()
    await asyncio.wait({asking})
    await asyncio.wait_for(run.stub.ended.wait(), 0.5)


async def _submitted(run: Running) -> None:
    while not run.stub.tickets:
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.02)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("comments", [False, True])
def test_while_queued_or_loading(stream: bool, comments: bool) -> None:
    async def scene() -> None:
        async with running(first_comment_s=0.0 if comments else 1.0, next_comment_s=0.01) as run:
            run.stub.open.clear()
            await _leave_while(run, _submitted(run), stream=stream)
            assert run.ticket.told == GONE
            assert run.upstream.bodies == []

    play(scene)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("comments", [False, True])
def test_before_the_first_byte(stream: bool, comments: bool) -> None:
    async def scene() -> None:
        async with running(first_comment_s=0.0 if comments else 1.0, next_comment_s=0.01) as run:
            run.upstream.pieces, run.upstream.hangs = [], True
            await _leave_while(run, run.upstream.began.wait(), stream=stream)
            await asyncio.wait_for(run.upstream.left.wait(), 0.5)
            assert run.ticket.told == GONE

    play(scene)


def test_before_the_first_event_when_the_head_is_there() -> None:
    async def scene() -> None:
        async with running() as run:
            run.upstream.streams()
            run.upstream.pieces, run.upstream.hangs = [b": ping\n\n"], True
            await _leave_while(run, run.upstream.began.wait(), stream=True)
            await asyncio.wait_for(run.upstream.left.wait(), 0.5)
            assert run.ticket.told == GONE

    play(scene)


def test_in_mid_stream() -> None:
    async def scene() -> None:
        async with running() as run:
            run.upstream.streams(*CHAT[:3])
            run.upstream.hangs = True
            async with run.post(stream=True) as got:
                await got.content.readchunk()
            await asyncio.wait_for(run.stub.ended.wait(), 0.5)
            await asyncio.wait_for(run.upstream.left.wait(), 0.5)
            assert run.ticket.told == GONE

    play(scene)


def test_in_the_midst_of_an_answer_that_is_not_streamed() -> None:
    async def scene() -> None:
        async with running() as run:
            run.upstream.pieces, run.upstream.hangs = [b"{"], True
            await _leave_while(run, run.upstream.began.wait())
            await asyncio.wait_for(run.upstream.left.wait(), 0.5)
            assert run.ticket.told == GONE

    play(scene)


def test_a_client_that_takes_nothing_is_let_go() -> None:
    """Its answer waits in bounded memory, and after ``stalled_s`` it is taken for gone."""

    async def scene() -> None:
        async with running(stalled_s=0.1) as run:
            run.upstream.streams()
            run.upstream.pieces = [b": " + b"x" * 100_000 + b"\n\n"] * 400
            _, writer = await asyncio.open_connection("127.0.0.1", run.port, limit=1024)
            body = b'{"model":"small","stream":true}'
            head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await asyncio.wait_for(run.stub.ended.wait(), 5)
            await asyncio.wait_for(run.upstream.left.wait(), 1)
            assert run.ticket.told == GONE
            writer.close()

    play(scene)


def test_a_hundred_clients_that_leave_at_any_time_end_once_each() -> None:
    async def scene() -> None:
        async with running(first_comment_s=0.01, next_comment_s=0.01) as run:
            run.upstream.streams(*CHAT)
            run.upstream.gap_s = 0.01

            async def ask(k: int) -> None:
                try:
                    async with asyncio.timeout(k * 0.001):
                        async with run.post(stream=k % 3 > 0) as got:
                            await got.read()
                except TimeoutError:
                    pass

            await asyncio.gather(*(ask(k) for k in range(100)))
            await asyncio.sleep(0.3)
            assert run.stub.tickets
            for ticket in run.stub.tickets:
                assert ticket.told == GONE or [word for word, _ in ticket.told] == ["done"]

    play(scene)


def test_just_when_the_head_of_its_stream_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until aiohttp cancels, writing to a connection that has closed fails: that is no failure of ours."""

    async def refused(*_: object) -> None:
        raise ConnectionResetError("Cannot write to closing transport")

    monkeypatch.setattr(relay._Relay, "_open", refused)

    async def scene() -> None:
        async with running() as run:
            run.upstream.streams(*CHAT)
            run.upstream.hangs = True
            async with run.post(stream=True):
                pass
            await asyncio.wait_for(run.upstream.left.wait(), 0.5)
            assert run.ticket.told == GONE

    play(scene)
