"""The real client of OpenAI, sync and async, against the gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest

from shunter.serve.boundary import Refused, Usage
from tests.serve.http.stub import Running, play, running
from tests.serve.http.test_relay import CHAT

MESSAGES: Any = [{"role": "user", "content": "Hello"}]
TOOLS: Any = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
WHOLE = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "small",
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "content": "Hi",
                "tool_calls": [
                    {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
                ],
            },
        }
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
}


def _sync(run: Running, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{run.url}/v1", **({"api_key": "k", "max_retries": 0} | options))


def _async(run: Running, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{run.url}/v1", **({"api_key": "k", "max_retries": 0} | options))


async def _chat_sync(run: Running) -> Any:
    def ask() -> Any:
        with _sync(run) as client:
            return client.chat.completions.create(model="small", messages=MESSAGES, tools=TOOLS)

    return await asyncio.to_thread(ask)


async def _chat_async(run: Running) -> Any:
    async with _async(run) as client:
        return await client.chat.completions.create(model="small", messages=MESSAGES, tools=TOOLS)


async def _stream_sync(run: Running) -> list[Any]:
    def ask() -> list[Any]:
        with _sync(run) as client:
            options: Any = {"include_usage": True}
            return list(
                client.chat.completions.create(
                    model="small", messages=MESSAGES, stream=True, stream_options=options
                )
            )

    return await asyncio.to_thread(ask)


async def _stream_async(run: Running) -> list[Any]:
    async with _async(run) as client:
        options: Any = {"include_usage": True}
        stream = await client.chat.completions.create(
            model="small", messages=MESSAGES, stream=True, stream_options=options
        )
        return [event async for event in stream]


both_chats = pytest.mark.parametrize("chat", [_chat_sync, _chat_async])
both_streams = pytest.mark.parametrize("stream", [_stream_sync, _stream_async])
Ask = Callable[[Running], Awaitable[Any]]


@both_chats
def test_chat_with_tools(chat: Ask) -> None:
    async def scene() -> None:
        async with running() as run:
            run.upstream.pieces = [json.dumps(WHOLE).encode()]
            answer = await chat(run)
            assert answer.choices[0].message.content == "Hi"
            assert answer.choices[0].message.tool_calls[0].function.arguments == '{"a":1}'
            assert json.loads(run.upstream.bodies[0])["tools"] == TOOLS
            assert run.ticket.told == [("done", Usage(5, 2))]

    play(scene)


@both_streams
def test_stream_with_usage_after_a_wait(stream: Ask) -> None:
    async def scene() -> None:
        async with running(first_comment_s=0.01, next_comment_s=0.02) as run:
            run.upstream.streams(*CHAT)
            run.stub.open.clear()
            asyncio.get_running_loop().call_later(0.1, run.stub.open.set)
            events = await stream(run)
            text = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
            assert text == "Hello"
            assert events[-1].usage.completion_tokens == 2

    play(scene)


@both_streams
def test_a_refusal_in_a_stream_that_has_begun(stream: Ask) -> None:
    async def scene() -> None:
        async with running(first_comment_s=0.0) as run:
            run.stub.open.clear()
            run.stub.refusal = Refused(503, "load_failed", "small failed to load")
            asyncio.get_running_loop().call_later(0.1, run.stub.open.set)
            with pytest.raises(openai.APIError, match="small failed to load"):
                await stream(run)

    play(scene)


@both_streams
def test_a_server_that_breaks_off_in_mid_stream(stream: Ask) -> None:
    async def scene() -> None:
        async with running() as run:
            run.upstream.streams(*CHAT)
            run.upstream.breaks_after = 2
            with pytest.raises(openai.APIError, match="broke off"):
                await stream(run)

    play(scene)


def test_embeddings_and_models() -> None:
    async def scene() -> None:
        async with running() as run, _async(run) as client:
            answer = {"object": "list", "model": "small", "usage": {"prompt_tokens": 3, "total_tokens": 3}}
            answer["data"] = [{"object": "embedding", "index": 0, "embedding": [0.5, -1.0]}]
            run.upstream.pieces = [json.dumps(answer).encode()]
            got = await client.embeddings.create(model="small", input=["Hello"], encoding_format="float")
            assert got.data[0].embedding == [0.5, -1.0]
            assert run.ticket.told == [("done", Usage(3))]
            assert [model.id async for model in client.models.list()] == ["small", "org/large"]
            assert (await client.models.retrieve("org/large")).id == "org/large"

    play(scene)


@both_chats
@pytest.mark.parametrize(
    ("refused", "kind", "word"),
    [
        (Refused(404, "model_not_found", "no such model"), openai.NotFoundError, "invalid_request_error"),
        (Refused(413, "context_exceeded", "too long"), openai.APIStatusError, "invalid_request_error"),
        (Refused(429, "queue_full", "full", 7.2), openai.RateLimitError, "rate_limit_error"),
        (Refused(503, "load_failed", "failed", 1), openai.InternalServerError, "server_error"),
        (Refused(504, "waited_too_long", "waited"), openai.InternalServerError, "server_error"),
    ],
)
def test_each_refusal_of_the_scheduler(
    chat: Ask, refused: Refused, kind: type[openai.APIStatusError], word: str
) -> None:
    async def scene() -> None:
        async with running() as run:
            run.stub.refusal = refused
            with pytest.raises(kind) as caught:
                await chat(run)
            error = caught.value
            assert (error.status_code, error.code, error.type) == (refused.status, refused.code, word)
            assert str(refused) in error.message
            wanted = None if refused.retry_after_s is None else {7.2: "8", 1: "1"}[refused.retry_after_s]
            assert error.response.headers.get("Retry-After") == wanted

    play(scene)


def test_a_wrong_key_and_a_wrong_body() -> None:
    async def scene() -> None:
        async with running(api_keys=("right",)) as run:
            with pytest.raises(openai.AuthenticationError):
                await _chat_async(run)
            async with _async(run, api_key="right") as client:
                assert len((await client.models.list()).data) == 2
                with pytest.raises(openai.BadRequestError) as caught:
                    await client.chat.completions.create(model="small", messages=MESSAGES, max_tokens=-1)
                assert caught.value.param == "max_tokens"

    play(scene)
