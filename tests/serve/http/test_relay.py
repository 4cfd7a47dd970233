from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from shunter.serve.boundary import Refused, Usage
from shunter.serve.endpoints import ENDPOINTS
from tests.serve.http.stub import StubScheduler, play, running

CHAT = (
    '{"choices":[{"delta":{"role":"assistant","content":null}}]}',
    '{"choices":[{"delta":{"content":"Hel"}}]}',
    '{"choices":[{"delta":{"content":"lo"}}]}',
    '{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":3}}}',
    "[DONE]",
)


@pytest.mark.parametrize("path", sorted(ENDPOINTS))
def test_body_and_answer_pass_byte_for_byte(path: str) -> None:
    body = b'{ "model":"gpt-4o",\n "messages":[], "prompt": "\\u00e4\xc3\xa4" , "unknown": [1.50, 1e400] }'
    answer = b'{"a": 1,\r\n "b":\xff\x00}'

    async def scene() -> None:
        async with running() as run:
            run.upstream.pieces = [answer]
            run.upstream.headers = {"x-request-id": "77", "Access-Control-Allow-Origin": "*", "Server": "x"}
            async with run.client.post(
                path, data=body, headers={"Content-Type": "a/b", "X-Api-Key": "k"}
            ) as got:
                assert got.status == 200
                assert await got.read() == answer
                assert got.headers["Content-Type"] == "application/json; charset=utf-8"
                assert got.headers["x-request-id"] == "77"
                assert "Access-Control-Allow-Origin" not in got.headers
            assert run.upstream.bodies == [body]
            asked = run.upstream.requests[0]
            assert asked.path == ENDPOINTS[path]
            assert asked.headers["Content-Type"] == "a/b"
            assert not {"X-Api-Key", "Authorization", "Cookie"} & set(asked.headers)
            assert [word for word, _ in run.ticket.told] == ["done"]

    play(scene)


def test_refusals_of_the_server_pass_as_they_are() -> None:
    async def scene() -> None:
        async with running() as run:
            run.upstream.status, run.upstream.pieces = 422, [b"no tools"]
            run.upstream.content_type = "text/plain"
            async with run.post(stream=True) as got:
                assert (got.status, await got.read()) == (422, b"no tools")
                assert got.headers["Content-Type"] == "text/plain"
            assert run.ticket.told == [("gone", True)]

    play(scene)


def test_a_stream_passes_piece_by_piece() -> None:
    async def scene() -> None:
        async with running() as run:
            run.upstream.streams(*CHAT)
            async with run.post(stream=True) as got:
                pieces = [piece async for piece, _ in got.content.iter_chunks()]
            assert pieces == run.upstream.pieces
            assert got.headers["X-Accel-Buffering"] == "no"
            assert got.headers["Cache-Control"] == "no-cache"
            assert got.headers["Content-Type"] == "text/event-stream"
            assert run.ticket.tokens == [1, 2]
            assert run.ticket.told == [("done", Usage(5, 2, 3))]

    play(scene)


def test_a_piece_is_passed_on_before_the_next_is_there() -> None:
    async def scene() -> None:
        async with running() as run:
            run.upstream.streams(*CHAT)
            run.upstream.hangs = True
            async with run.post(stream=True) as got:
                for wanted in run.upstream.pieces:
                    piece, _ = await asyncio.wait_for(got.content.readchunk(), 5)
                    assert piece == wanted

    play(scene)


def test_usage_of_a_whole_answer() -> None:
    async def scene() -> None:
        async with running() as run:
            run.upstream.pieces = [b'{"usage": {"prompt_tokens": 7, "completion_tokens": 9}}']
            async with run.post() as got:
                await got.read()
            assert run.ticket.told == [("done", Usage(7, 9, None))]

    play(scene)


def test_a_waiting_stream_gets_comments() -> None:
    async def scene() -> None:
        async with running(first_comment_s=0.03, next_comment_s=0.05) as run:
            run.stub.open.clear()
            run.upstream.streams(*CHAT)
            async with run.post(stream=True) as got:
                assert got.status == 200
                for _ in range(3):
                    assert (await got.content.readchunk())[0] == b": waiting\n\n"
                run.stub.open.set()
                assert (await got.read()).endswith(b"".join(run.upstream.pieces))
            assert [word for word, _ in run.ticket.told] == ["done"]

    play(scene)


@pytest.mark.parametrize(
    ("path", "start"),
    [
        ("/v1/chat/completions", b'data: {"error": {'),
        ("/v1/messages", b'event: error\ndata: {"type": "error"'),
    ],
)
def test_a_refusal_after_comments_is_an_event(path: str, start: bytes) -> None:
    async def scene() -> None:
        async with running(first_comment_s=0.02) as run:
            run.stub.open.clear()
            async with run.post(path, stream=True) as got:
                await got.content.readchunk()
                run.stub.refusal = Refused(503, "load_failed", "small failed to load", 5)
                run.stub.open.set()
                last = await got.read()
            assert last.startswith(start)
            assert last.endswith(b"\n\n")
            assert b"small failed to load" in last
            assert run.ticket.told == []  # the scheduler ended it

    play(scene)


def test_a_whole_answer_after_comments_is_an_event() -> None:
    async def scene() -> None:
        async with running(first_comment_s=0.02) as run:
            run.stub.open.clear()
            run.upstream.status, run.upstream.pieces = 400, [b'{\n"error": {"message": "no"}}\n']
            async with run.post(stream=True) as got:
                await got.content.readchunk()
                run.stub.open.set()
                assert await got.read() == b'data: {"error": {"message": "no"}}\n\n'
            assert run.ticket.told == [("gone", True)]

    play(scene)


def test_without_comments_a_refusal_while_waiting_is_an_answer() -> None:
    async def scene() -> None:
        async with running() as run:
            run.stub.refusal = Refused(504, "waited_too_long", "waited 60 s", 0.2)
            async with run.post(stream=True) as got:
                assert got.status == 504
                assert got.headers["Retry-After"] == "1"
                assert (await got.json())["error"]["code"] == "waited_too_long"

    play(scene)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("comments", [False, True])
def test_a_server_that_breaks_off_before_any_byte_is_tried_again(stream: bool, comments: bool) -> None:
    async def scene() -> None:
        async with running(first_comment_s=0.0 if comments else 1.0) as run:
            run.upstream.streams(*CHAT)
            run.upstream.breaks_after, run.upstream.breaks_often = 0, 1
            async with run.post(stream=stream) as got:
                assert got.status == 200
                assert (await got.read()).endswith(b"".join(run.upstream.pieces))
            assert [word for word, _ in run.ticket.told] == ["retry", "done"]
            assert len(run.upstream.bodies) == 2

    play(scene)


def test_a_whole_answer_that_breaks_off_in_the_midst_is_tried_again() -> None:
    async def scene() -> None:
        async with running() as run:
            run.upstream.pieces, run.upstream.breaks_after, run.upstream.breaks_often = [b"{", b"}"], 1, 1
            async with run.post() as got:
                assert await got.read() == b"{}"
            assert [word for word, _ in run.ticket.told] == ["retry", "done"]

    play(scene)


def test_a_server_that_breaks_off_for_ever_is_an_error() -> None:
    async def scene() -> None:
        async with running() as run:
            run.upstream.breaks_after = 0
            async with run.post() as got:
                assert got.status == 503
                assert (await got.json())["error"]["code"] == "server_failed"
            assert [word for word, _ in run.ticket.told] == ["retry", "retry"]

    play(scene)


def test_a_server_that_cannot_be_reached_is_tried_again() -> None:
    async def scene() -> None:
        async with running() as run:
            run.stub.url = "http://127.0.0.1:9"
            async with run.post() as got:
                assert got.status == 503
            assert [word for word, _ in run.ticket.told] == ["retry", "retry"]

    play(scene)


def test_a_server_that_breaks_off_in_mid_stream_ends_it_with_an_error() -> None:
    async def scene() -> None:
        async with running() as run:
            run.upstream.streams(*CHAT)
            run.upstream.breaks_after = 2
            async with run.post(stream=True) as got:
                *pieces, last = [piece async for piece, _ in got.content.iter_chunks() if piece]
            assert pieces == run.upstream.pieces[:2]
            assert json.loads(last.removeprefix(b"data: "))["error"]["type"] == "server_error"
            assert run.ticket.told == [("gone", False)]

    play(scene)


def test_a_gateway_that_stops_lets_answers_end_and_followers_go() -> None:
    async def scene() -> None:
        async with running(drain_s=5.0) as run:
            run.upstream.streams(*CHAT)
            run.upstream.gap_s = 0.05
            async with run.client.get("/events") as events, run.post(stream=True) as got:
                await got.content.readchunk()
                stopping = asyncio.create_task(run.listening.stop())
                assert (await got.read()).endswith(run.upstream.pieces[-1])
                await asyncio.wait_for(events.read(), 1)
                await asyncio.wait_for(stopping, 1)
            assert [word for word, _ in run.ticket.told] == ["done"]
            with pytest.raises(aiohttp.ClientConnectorError):
                await run.client.get("/health")

    play(scene)


def test_a_gateway_that_stops_waits_no_longer_than_it_may() -> None:
    async def scene() -> None:
        async with running(drain_s=0.1) as run:
            run.upstream.streams(*CHAT)
            run.upstream.hangs = True
            async with run.post(stream=True) as got:
                await got.content.readchunk()
                await asyncio.wait_for(run.listening.stop(), 1)
            await asyncio.wait_for(run.upstream.left.wait(), 1)
            assert len(run.ticket.told) == 1

    play(scene)


def test_what_the_scheduler_is_told_of_a_request() -> None:
    async def scene() -> None:
        async with running() as run:
            run.upstream.streams(*CHAT)
            async with run.post(stream=True, max_completion_tokens=12, user="me") as got:
                await got.read()
            asked = run.ticket.asked
            assert (asked.model, asked.endpoint, asked.prompt_chars) == ("small", "/v1/chat/completions", 5)
            assert (asked.max_tokens, asked.stream, asked.session) == (12, True, "me")

    play(scene)


def test_two_thousand_at_once_are_served_or_refused_exactly() -> None:
    """Four slots, sixty places to wait, none freed before all have asked: all others get 429."""

    async def scene() -> None:
        stub = StubScheduler(slots=4, queue=60)
        stub.open.clear()
        async with running(stub) as run:

            async def ask() -> int:
                async with run.post() as got:
                    await got.read()
                    if got.status == 429:
                        assert got.headers["Retry-After"] == "3"
                    return int(got.status)

            asks = [asyncio.create_task(ask()) for _ in range(2000)]
            while sum(task.done() for task in asks) < 1940:
                await asyncio.sleep(0.01)
            stub.open.set()
            statuses = await asyncio.gather(*asks)
            assert (statuses.count(200), statuses.count(429)) == (60, 1940)
            assert all([word for word, _ in ticket.told] == ["done"] for ticket in stub.tickets)

    play(scene)
