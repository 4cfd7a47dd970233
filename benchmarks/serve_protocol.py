"""What clients of OpenAI's API see of the gateway: answers, streams and errors, and the same bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai

from benchmarks.form import Row, at_least, at_most, reported
from benchmarks.serve_site import Site, fake_scenario, open_site, twin_server

__all__ = ["equal_rows", "protocol_rows"]

KEY = "benchmark-key"
MESSAGES: Any = [{"role": "user", "content": "one two three"}]
TOOLS: Any = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}]
USAGE: Any = {"include_usage": True}
TIMEOUT = "4s"
MAX_QUEUE = 2

Client = openai.OpenAI | openai.AsyncOpenAI
Make = Callable[[Any], Any]


async def ask(client: Client, make: Make) -> Any:
    """What a call of the client gives; of a stream the list of its events."""
    if isinstance(client, openai.AsyncOpenAI):
        found = await make(client)
        return [event async for event in found] if isinstance(found, openai.AsyncStream) else found

    def call() -> Any:
        found = make(client)
        return list(found) if isinstance(found, openai.Stream) else found

    return await asyncio.to_thread(call)


async def refused(client: Client, make: Make, kind: type[openai.APIStatusError], status: int) -> None:
    """Checks that a call is refused so."""
    found: openai.APIStatusError | None = None
    try:
        await ask(client, make)
    except kind as error:
        found = error
    assert found is not None, "it was not refused"
    assert found.status_code == status, f"status {found.status_code}, not {status}"
    assert isinstance(found.body, dict), "its body is no OpenAI error"


def _chat(model: str = "ok", **more: Any) -> Make:
    return lambda client: client.chat.completions.create(model=model, messages=MESSAGES, **more)


async def _check_chat(client: Client, _site: Site) -> None:
    answer = await ask(client, _chat(max_tokens=5))
    assert answer.choices[0].message.content == "t0 t1 t2 t3 t4"
    assert answer.usage.completion_tokens == 5


async def _check_stream(client: Client, _site: Site) -> None:
    events = await ask(client, _chat(stream=True, stream_options=USAGE, max_tokens=5))
    text = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
    assert text == "t0 t1 t2 t3 t4"
    assert events[-1].usage.completion_tokens == 5


async def _check_tools(client: Client, _site: Site) -> None:
    answer = await ask(client, _chat(tools=TOOLS, tool_choice="required"))
    assert answer.choices[0].message.tool_calls[0].function.name == "look_up"


async def _check_streamed_tools(client: Client, _site: Site) -> None:
    events = await ask(client, _chat(tools=TOOLS, tool_choice="required", stream=True))
    calls = [call for event in events if event.choices for call in event.choices[0].delta.tool_calls or ()]
    assert calls[0].function.name == "look_up"


async def _check_completion(client: Client, _site: Site) -> None:
    answer = await ask(client, lambda c: c.completions.create(model="ok", prompt="a b", max_tokens=3))
    assert answer.choices[0].text == "t0 t1 t2"


async def _check_responses(client: Client, _site: Site) -> None:
    answer = await ask(client, lambda c: c.responses.create(model="ok", input="a b", max_output_tokens=3))
    assert answer.output_text == "t0 t1 t2"


async def _check_embeddings(client: Client, _site: Site) -> None:
    answer = await ask(
        client, lambda c: c.embeddings.create(model="ok", input=["a", "e"], encoding_format="float")
    )
    assert [len(one.embedding) for one in answer.data] == [8, 8]


async def _check_models(client: Client, _site: Site) -> None:
    listed = await ask(client, lambda c: c.models.list())
    assert {model.id for model in listed.data} == {"ok", "broken", "stuck"}


async def _check_alias(client: Client, _site: Site) -> None:
    assert (await ask(client, _chat("gpt-4o", max_tokens=1))).model == "ok"


async def _check_400(client: Client, _site: Site) -> None:
    await refused(client, _chat(max_tokens=-1), openai.BadRequestError, 400)


async def _check_401(client: Client, _site: Site) -> None:
    stranger = client.with_options(api_key="wrong")
    await refused(stranger, _chat(), openai.AuthenticationError, 401)


async def _check_404(client: Client, _site: Site) -> None:
    await refused(client, _chat("okay"), openai.NotFoundError, 404)


async def _check_413(client: Client, _site: Site) -> None:
    long: Any = [{"role": "user", "content": "word " * 4000}]
    await refused(
        client,
        lambda c: c.chat.completions.create(model="ok", messages=long),
        openai.APIStatusError,
        413,
    )


async def _check_429(client: Client, site: Site) -> None:
    async with _crowd(site, 1 + MAX_QUEUE):
        await refused(client, _chat("stuck"), openai.RateLimitError, 429)


async def _check_503(client: Client, _site: Site) -> None:
    await refused(client, _chat("broken"), openai.InternalServerError, 503)


async def _check_504(client: Client, site: Site) -> None:
    async with _crowd(site, 1):
        await refused(client, _chat("stuck"), openai.InternalServerError, 504)


async def _check_504_in_a_stream(client: Client, site: Site) -> None:
    async with _crowd(site, 1):
        found = ""
        try:
            await ask(client, _chat("stuck", stream=True))
        except openai.APIError as error:
            found = str(error)
        assert "stuck" in found, "the stream did not end with an error"


CHECKS: dict[str, Callable[[Client, Site], Awaitable[None]]] = {
    "chat": _check_chat,
    "stream with usage": _check_stream,
    "tools": _check_tools,
    "tools, streamed": _check_streamed_tools,
    "completions": _check_completion,
    "responses": _check_responses,
    "embeddings": _check_embeddings,
    "models": _check_models,
    "alias": _check_alias,
    "400": _check_400,
    "401": _check_401,
    "404": _check_404,
    "413": _check_413,
    "429": _check_429,
    "503": _check_503,
    "504": _check_504,
    "504 in a stream": _check_504_in_a_stream,
}


@asynccontextmanager
async def _crowd(site: Site, wanted: int) -> AsyncIterator[None]:
    """So many requests are at a model that never answers."""

    async def stay() -> None:
        async with site.post("stuck") as answer:
            await answer.read()

    tasks = []
    try:
        for count in range(1, wanted + 1):
            tasks.append(asyncio.create_task(stay()))
            await _until(site, count)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _until(site, 0)


async def _until(site: Site, count: int) -> None:
    """Waits until so many are at the model, the first of them at its server."""
    async with asyncio.timeout(60):
        now = await site.model("stuck")
        while now["queued"] + now["running"] != count or now["running"] != min(1, count):
            await asyncio.sleep(0.02)
            now = await site.model("stuck")


async def protocol_rows(folder: Path) -> list[Row]:
    """How many checks the ``openai`` client passes, sync and async."""
    models: dict[str, dict[str, Any]] = {
        "ok": {"args": ["--tokens", "8"], "aliases": ["gpt-4o"]},
        "broken": {"args": ["--fail", "load"]},
        "stuck": {"args": ["--fail", "hang"], "max_batch": 1, "preload": True},
    }
    folder.mkdir(parents=True, exist_ok=True)
    keys = folder / "keys.txt"
    keys.touch(0o600)
    keys.write_text(KEY, encoding="utf-8")
    options = ("--api-key", str(keys), "--max-queue", str(MAX_QUEUE), "--timeout", TIMEOUT)
    rows = []
    async with open_site(folder, fake_scenario(folder, models), *options, key=KEY) as site:
        await site.warm("ok")
        for way, kind in (("sync", openai.OpenAI), ("async", openai.AsyncOpenAI)):
            client = kind(base_url=f"{site.url}/v1", api_key=KEY, max_retries=0)
            failed = {}
            for name, check in CHECKS.items():
                try:
                    await check(client, site)
                except Exception as error:  # what goes wrong is what is counted
                    failed[name] = f"{type(error).__name__} {error}".strip()
            note = "; ".join(f"{name}: {why}" for name, why in failed.items()) or ", ".join(CHECKS)
            passed = reported(f"openai client, {way}: checks passed", len(CHECKS) - len(failed), note=note)
            rows.append(at_least(passed, len(CHECKS)))
    return rows


BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 12}),
    "chat, streamed": (
        "/v1/chat/completions",
        {"messages": MESSAGES, "max_tokens": 12, "stream": True, "stream_options": USAGE},
    ),
    "completions": ("/v1/completions", {"prompt": "one two", "max_tokens": 12}),
    "completions, streamed": ("/v1/completions", {"prompt": "one two", "max_tokens": 12, "stream": True}),
    "messages": ("/v1/messages", {"messages": MESSAGES, "max_tokens": 12}),
    "messages, streamed": ("/v1/messages", {"messages": MESSAGES, "max_tokens": 12, "stream": True}),
    "responses": ("/v1/responses", {"input": "one two", "max_output_tokens": 12}),
    "responses, streamed": (
        "/v1/responses",
        {"input": "one two", "max_output_tokens": 12, "stream": True},
    ),
}
ONLY_FAKE: dict[str, tuple[str, dict[str, Any]]] = {
    "embeddings": ("/v1/embeddings", {"input": ["one", "two"]}),
    "rerank": ("/v1/rerank", {"query": "one", "documents": ["one two", "three"]}),
    "an error of the server": ("/v1/completions", {"prompt": "a " * 250, "max_tokens": 2}),
}
"""These need a model of another kind from llama-server, or its words of an error to be stable."""

DIFFERS = ("id", "created", "created_at", "completed_at", "timings", "item_id", "response_id", "call_id")
"""Names and times that no two answers of llama-server share, with or without a gateway."""


async def pieces(
    site: Site, url: str, model: str, path: str, body: dict[str, Any]
) -> tuple[int, list[bytes]]:
    """Status of an answer, and its pieces as they were written."""
    async with site.post(model, path, url, **body) as answer:
        if "event-stream" not in answer.headers.get("Content-Type", ""):
            return answer.status, [await answer.read()]
        found, piece = [], b""
        while True:
            data, ends = await answer.content.readchunk()
            piece += data
            if ends and piece:
                found.append(piece)
                piece = b""
            if not data and not ends:
                return answer.status, found


def bare(value: Any) -> Any:
    """A JSON value without what differs by nature."""
    if isinstance(value, dict):
        return {key: bare(inner) for key, inner in value.items() if key not in DIFFERS}
    return [bare(inner) for inner in value] if isinstance(value, list) else value


def told(piece: bytes) -> list[Any]:
    """What a piece says line by line, without what differs by nature."""
    lines = []
    for line in filter(None, piece.split(b"\n")):
        text = line.removeprefix(b"data: ")
        lines.append(bare(json.loads(text)) if text.startswith(b"{") else line.decode())
    return lines


async def equal_rows(folder: Path, llama_server: str | None, *, repeats: int) -> list[Row]:
    """Answers through the gateway against the same server's asked directly."""
    slow = {"answers": {"args": ["--tokens", "12", "--step-s", "0.01"]}}
    rows = await _equal(folder / "fake", fake_scenario(folder, slow), BODIES | ONLY_FAKE, None, repeats)
    if llama_server is None:
        why = "no llama-server was given (--llama-server)"
        return [*rows, reported("answers that differ, llama-server", None, note=why)]
    real = fake_scenario(folder, {"answers": {}}) | {"engine": "llama-cpp"}
    settled = {"temperature": 0, "seed": 7, "cache_prompt": False}
    bodies = {name: (path, body | settled) for name, (path, body) in BODIES.items()}
    return [*rows, *await _equal(folder / "real", real, bodies, llama_server, repeats)]


async def _equal(
    folder: Path,
    scenario: dict[str, Any],
    bodies: dict[str, tuple[str, dict[str, Any]]],
    llama_server: str | None,
    repeats: int,
) -> list[Row]:
    engine = "fake server" if llama_server is None else "llama-server"
    options = () if llama_server is None else ("--llama-server", llama_server)
    different, merged, streamed = set(), 0, 0
    async with (
        open_site(folder, scenario, *options) as site,
        twin_server(folder, scenario, "answers", llama_server) as direct,
    ):
        await site.warm("answers")
        for name, (path, body) in bodies.items():
            for _ in range(repeats):
                mine = await pieces(site, site.url, "answers", path, body)
                theirs = await pieces(site, direct, "answers", path, body)
                same = mine[0] == theirs[0]
                if llama_server is None:
                    same = same and b"".join(mine[1]) == b"".join(theirs[1])
                else:
                    same = same and told(b"".join(mine[1])) == told(b"".join(theirs[1]))
                if not same:
                    different.add(name)
                if body.get("stream"):
                    streamed += len(theirs[1])
                    merged += max(0, len(theirs[1]) - len(mine[1]))
    asked = f"{len(bodies)} bodies, {repeats} times each: {', '.join(bodies)}"
    left_out = "; all bytes" if llama_server is None else f"; without {', '.join(DIFFERS)}"
    if different:
        asked = f"different: {', '.join(sorted(different))}; of {asked}"
    return [
        at_most(reported(f"answers that differ, {engine}", len(different), note=asked + left_out), 0),
        at_most(
            reported(f"streamed pieces merged, {engine}", merged, note=f"of {streamed} that it wrote"), 0
        ),
    ]
