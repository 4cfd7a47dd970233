"""Bodies that are wrong, and clients that mean ill: each gets a status, and nothing is lost."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import pytest

from shunter.errors import InputError
from shunter.serve.http.app import make_app
from shunter.serve.http.listen import listen
from shunter.serve.http.settings import HttpSettings
from tests.serve.http.stub import Running, StubScheduler, play, running


@pytest.mark.parametrize(
    ("body", "param", "text"),
    [
        (b"", None, "must be JSON"),
        (b"{", None, "must be JSON"),
        (b"\xff\xfe{}", None, "must be JSON"),
        (b"[" * 100_000, None, "must be JSON"),
        (b"[1]", None, "must be a JSON object. Got an array"),
        (b"{}", "model", "model must be given"),
        (b'{"model": null}', "model", "model must be given"),
        (b'{"model": 3}', "model", "model must be the name of a model. Got 3 instead."),
        (b'{"model": ""}', "model", "Got an empty string"),
        (b'{"model": ["small"]}', "model", "Got an array"),
        (b'{"model": "small", "stream": "yes"}', "stream", "stream must be true or false. Got a string"),
        (b'{"model": "small", "stream": 1}', "stream", "Got 1 instead"),
        (b'{"model": "small", "max_tokens": -1}', "max_tokens", "0 or more. Got -1 instead."),
        (b'{"model": "small", "max_tokens": 1.5}', "max_tokens", "whole number"),
        (b'{"model": "small", "max_tokens": true}', "max_tokens", "whole number"),
        (b'{"model": "small", "max_completion_tokens": "9"}', "max_completion_tokens", "whole number"),
        (b'{"model": "small", "max_output_tokens": {}}', "max_output_tokens", "Got an object"),
        (b'{"model": "small", "user": 4}', "user", "user must be a string"),
    ],
)
def test_a_wrong_body_is_400_and_names_the_field(body: bytes, param: str | None, text: str) -> None:
    async def scene() -> None:
        async with running() as run, run.client.post("/v1/chat/completions", data=body) as got:
            assert got.status == 400
            error = (await got.json())["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert error["type"] == "invalid_request_error"
            assert error["param"] == param
            assert text in error["message"]
            assert run.stub.tickets == []

    play(scene)


def test_a_body_over_the_limit_is_413() -> None:
    async def scene() -> None:
        async with running(max_body_bytes=1000) as run:
            for pieces in (b"x" * 1001, _pieces()):
                async with run.client.post("/v1/completions", data=pieces) as got:
                    assert got.status == 413
                    assert "at most 1000 bytes" in (await got.json())["error"]["message"]
            async with run.client.post("/v1/messages", data=b"x" * 1001) as got:
                assert (await got.json())["error"]["type"] == "request_too_large"

    play(scene)


@pytest.mark.parametrize(("sent", "status"), [(b"x" * 100_000, 413), (b"", 200)])
def test_a_packed_body_counts_as_what_it_unpacks_to(sent: bytes, status: int) -> None:
    async def scene() -> None:
        async with running(max_body_bytes=1000) as run:
            data = b'{"model":"small","prompt":"' + sent + b'"}'
            headers = {"Content-Encoding": "gzip"}
            async with run.client.post("/v1/completions", data=gzip.compress(data), headers=headers) as got:
                assert got.status == status
            assert run.upstream.bodies == ([data] if status == 200 else [])
            async with run.client.post("/v1/completions", data=b"no gzip", headers=headers) as got:
                assert got.status == 400

    play(scene)


def test_bodies_that_wait_take_bounded_memory_and_give_it_back() -> None:
    async def scene() -> None:
        async with running(max_waiting_bytes=2500) as run:
            run.stub.open.clear()
            asks = [asyncio.create_task(_status(run, prompt="x" * 900)) for _ in range(2)]
            while len(run.stub.tickets) < 2:
                await asyncio.sleep(0.01)
            assert await _status(run, prompt="x" * 900) == 503
            asks[0].cancel()
            await asyncio.wait_for(run.stub.ended.wait(), 1)
            await asyncio.sleep(0.02)
            run.stub.open.set()
            assert await asks[1] == 200
            for _ in range(5):
                assert await _status(run, prompt="x" * 1500) == 200
                assert await _status(run, prompt="x" * 1500, model="none") == 404
                assert await _status(run, prompt="x" * 1500, stream=3) == 400

    play(scene)


async def _status(run: Running, **fields: Any) -> int:
    async with run.post("/v1/completions", **fields) as got:
        await got.read()
        return int(got.status)


async def _pieces() -> Any:
    for _ in range(100):
        yield b"x" * 100


def test_unknown_paths_and_methods() -> None:
    async def scene() -> None:
        async with running() as run:
            async with run.client.get("/v1/nothing") as got:
                assert got.status == 404
                assert (await got.json())["error"]["code"] == "unknown_path"
            async with run.client.get("/v1/chat/completions") as got:
                assert got.status == 405
                assert got.headers["Allow"] == "POST"
                assert (await got.json())["error"]["message"] == (
                    "/v1/chat/completions takes POST only. Got GET instead."
                )

    play(scene)


def test_a_failure_of_our_own_is_500_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with running() as run:
            run.stub.snapshot = None  # type: ignore[assignment,method-assign]
            async with run.client.get("/running") as got:
                assert got.status == 500
                assert "NoneType" not in await got.text()

    play(scene)
    assert "GET /running failed" in caplog.text


async def _raw(run: Running, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", run.port)
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()


def test_header_bombs(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with running() as run:
            start = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
            for bomb in (
                start + b"A: " + b"x" * 20_000 + b"\r\n\r\n",
                start + b"".join(b"A%d: x\r\n" % k for k in range(1000)) + b"\r\n",
                b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
                b"nonsense\r\n\r\n",
            ):
                assert b" 400 " in (await _raw(run, bomb)).partition(b"\r\n")[0], bomb[:60]
            async with run.client.get("/health") as got:
                assert got.status == 200

    play(scene)
    assert caplog.records == []  # nobody fills the log from outside


@pytest.mark.parametrize("begun", [b"", b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nA: "])
def test_a_head_that_does_not_come_is_not_waited_for(begun: bytes) -> None:
    async def scene() -> None:
        async with running(head_timeout_s=0.1) as run:
            reader, writer = await asyncio.open_connection("127.0.0.1", run.port)
            trickle = asyncio.create_task(_trickle(writer, begun))
            try:
                assert await asyncio.wait_for(reader.read(), 2) == b""
            except ConnectionResetError:
                pass  # closed while more was on its way
            finally:
                trickle.cancel()
                writer.close()

    play(scene)


async def _trickle(writer: asyncio.StreamWriter, begun: bytes) -> None:
    writer.write(begun)
    while begun and not writer.is_closing():
        await asyncio.sleep(0.02)
        writer.write(b"x")


def test_a_request_that_runs_longer_than_the_time_for_heads_is_served() -> None:
    async def scene() -> None:
        async with running(head_timeout_s=0.05) as run:
            run.upstream.pieces, run.upstream.gap_s = [b"{", b"}"], 0.1
            async with run.post() as got:
                assert await got.read() == b"{}"

    play(scene)


def test_a_body_that_does_not_come_is_408() -> None:
    async def scene() -> None:
        async with running(body_timeout_s=0.1) as run:
            head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
            reader, writer = await asyncio.open_connection("127.0.0.1", run.port)
            writer.write(head)
            assert b" 408 " in await asyncio.wait_for(reader.readline(), 2)
            assert run.stub.tickets == []
            writer.close()

    play(scene)


def test_connections_too_many_are_turned_away() -> None:
    async def scene() -> None:
        async with running(max_connections=2) as run:
            held = [await asyncio.open_connection("127.0.0.1", run.port) for _ in range(2)]
            await asyncio.sleep(0.02)
            answer = await _raw(run, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"too_many_connections" in answer
            for _, writer in held:
                writer.close()
            await asyncio.sleep(0.05)
            async with run.client.get("/health") as got:
                assert got.status == 200

    play(scene)


def test_a_port_in_use_is_one_clear_line() -> None:
    async def scene() -> None:
        async with running() as run:
            settings = HttpSettings(port=run.port)
            with pytest.raises(InputError, match=f"--port must be free. Got '127.0.0.1:{run.port}' instead."):
                await listen(make_app(StubScheduler(), settings), settings)
        elsewhere = HttpSettings(host="192.0.2.1", port=0)
        with pytest.raises(InputError, match="--host and --port must be one that can be listened at"):
            await listen(make_app(StubScheduler(), elsewhere), elsewhere)

    play(scene)
