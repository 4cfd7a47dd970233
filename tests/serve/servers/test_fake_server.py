"""The fake server, within this process and as one of its own: its endpoints, rounds, failures and end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shunter.serve.boundary import ServerFailed
from shunter.serve.servers.fake.answers import words
from shunter.serve.servers.fake.server import FakeProcess, FakeServer
from tests.serve.servers.helpers import fake_launch, runs, settings

CHAT = {"messages": [{"role": "user", "content": "one two three"}], "max_tokens": 5}
BODIES = {
    "chat/completions": CHAT,
    "completions": {"prompt": "one two three", "max_tokens": 5},
    "messages": CHAT,
    "responses": {"input": "one two three", "max_output_tokens": 5},
}


def with_server(
    run: Callable[[FakeServer, aiohttp.ClientSession], Awaitable[None]], *args: str, **shape: int
) -> None:
    async def main() -> None:
        server = FakeServer(fake_launch(*args, **shape), grace_s=0.1)
        await server.start()
        try:
            async with aiohttp.ClientSession(server.url) as client:
                await run(server, client)
        finally:
            await server.stop()

    asyncio.run(asyncio.wait_for(main(), 20))


async def post(client: aiohttp.ClientSession, path: str, body: Any) -> Any:
    async with client.post(path, json=body) as answer:
        return await answer.json()


@pytest.mark.parametrize("endpoint", BODIES)
def test_a_stream_says_what_the_whole_answer_says(endpoint: str) -> None:
    async def run(_server: FakeServer, client: aiohttp.ClientSession) -> None:
        whole = await post(client, f"/v1/{endpoint}", BODIES[endpoint])
        streamed = BODIES[endpoint] | {"stream": True}
        async with client.post(f"/v1/{endpoint}", json=streamed) as answer:
            assert answer.content_type == "text/event-stream"
            text = await answer.text()
        said = "".join(_deltas(text))
        assert said == words(5)
        assert json.dumps(said) in json.dumps(whole)

    with_server(run)


def _deltas(text: str) -> list[str]:
    said = []
    for line in text.splitlines():
        data = json.loads(line.removeprefix("data: ")) if line.startswith("data: {") else {}
        for choice in data.get("choices", []):
            said.append(choice.get("text") or choice.get("delta", {}).get("content") or "")
        delta = data.get("delta")
        if isinstance(delta, str):
            said.append(delta)
        elif data.get("type") == "content_block_delta":
            said.append(delta["text"])
    return said


def test_usage_embeddings_rerank_tools_and_errors() -> None:
    async def run(_server: FakeServer, client: aiohttp.ClientSession) -> None:
        chat = await post(client, "/v1/chat/completions", CHAT)
        assert chat["usage"]["prompt_tokens"] == 3
        assert chat["usage"]["completion_tokens"] == 5
        assert chat == await post(client, "/v1/chat/completions", CHAT)
        counted = await post(client, "/v1/messages/count_tokens", CHAT)
        assert counted == {"input_tokens": 3}
        filled = await post(client, "/infill", {"input_prefix": "a b", "input_suffix": "c", "n_predict": 5})
        assert (filled["content"], filled["timings"]["prompt_n"]) == (words(5), 3)
        vectors = (await post(client, "/v1/embeddings", {"input": ["see", "tree"]}))["data"]
        assert [each["index"] for each in vectors] == [0, 1]
        ranked = await post(client, "/v1/rerank", {"query": "a b", "documents": ["c", "b a"]})
        assert [each["index"] for each in ranked["results"]] == [1, 0]
        tools = [{"type": "function", "function": {"name": "look"}}]
        called = await post(
            client, "/v1/chat/completions", CHAT | {"tools": tools, "tool_choice": "required"}
        )
        assert called["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "look"
        async with client.post("/v1/completions", data=b"{") as answer:
            assert answer.status == 400
        long = await post(client, "/v1/completions", {"prompt": "w " * 101})
        assert long["error"]["type"] == "exceed_context_size_error"

    with_server(run)


def test_requests_beyond_the_slots_wait_and_one_that_leaves_frees_its_slot() -> None:
    async def run(server: FakeServer, client: aiohttp.ClientSession) -> None:
        asked = [asyncio.create_task(post(client, "/v1/completions", {"prompt": "w"})) for _ in range(3)]
        while server.engine.deferred < 1 or not all(server.engine.running):
            await asyncio.sleep(0.005)
        asked[0].cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        async with client.get("/slots") as answer:
            assert not any(slot["is_processing"] for slot in await answer.json())
        ended = sorted(task.ended for task in server.tasks)
        assert ended == ["disconnected", "done", "done"]

    with_server(run, "--step-s", "0.02", "--tokens", "5")


def test_a_round_takes_longer_with_more_requests() -> None:
    async def run(_server: FakeServer, client: aiohttp.ClientSession) -> None:
        loop = asyncio.get_running_loop()

        async def took_s(count: int) -> float:
            begun_s = loop.time()
            await asyncio.gather(
                *(post(client, "/v1/completions", {"prompt": "w", "max_tokens": 4}) for _ in range(count))
            )
            return loop.time() - begun_s

        assert await took_s(2) > await took_s(1) + 0.04

    with_server(run, "--step-s", "0.01", "--step-growth", "2")


@pytest.mark.parametrize("made", [FakeServer, FakeProcess])
@pytest.mark.parametrize(("fail", "short"), [("load", False), ("oom", True)])
def test_a_failed_load_says_why(made: type, fail: str, short: bool, tmp_path: Path) -> None:
    async def main() -> None:
        launch = fake_launch("--fail", fail)
        server = FakeServer(launch) if made is FakeServer else FakeProcess(launch, settings(tmp_path))
        with pytest.raises(ServerFailed, match="out of memory" if short else "told to fail") as failed:
            await server.start()
        assert failed.value.out_of_memory is short
        assert server.pid == 0
        assert server.memory_bytes() == (0, 0)

    asyncio.run(main())


@pytest.mark.parametrize("made", [FakeServer, FakeProcess])
def test_a_load_without_progress_fails(made: type, tmp_path: Path) -> None:
    async def main() -> None:
        launch = fake_launch("--fail", "hang-load")
        if made is FakeServer:
            server: FakeServer | FakeProcess = FakeServer(launch, progress_s=0.05)
        else:
            server = FakeProcess(launch, settings(tmp_path, progress_s=1.0))
        with pytest.raises(ServerFailed, match="made no progress"):
            await server.start()

    asyncio.run(main())


@pytest.mark.parametrize("made", [FakeServer, FakeProcess])
def test_a_crash_breaks_answers_off_and_is_told(made: type, tmp_path: Path) -> None:
    async def main() -> None:
        launch = fake_launch("--fail", "crash-after:3")
        server = FakeServer(launch) if made is FakeServer else FakeProcess(launch, settings(tmp_path))
        await server.start()
        exited = asyncio.create_task(server.exited())
        async with aiohttp.ClientSession(server.url) as client:
            with pytest.raises(aiohttp.ClientError):
                await post(client, "/v1/completions", {"prompt": "w"})
            assert "crashed" in str(await exited)
            with pytest.raises(aiohttp.ClientError):
                await post(client, "/v1/completions", {"prompt": "w"})
        await server.stop()

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_stalled_one_gives_so_many_tokens_and_no_more() -> None:
    async def run(server: FakeServer, client: aiohttp.ClientSession) -> None:
        assert (await post(client, "/v1/completions", {"prompt": "w", "max_tokens": 3}))["usage"]
        asked = [asyncio.create_task(post(client, "/v1/completions", {"prompt": "w"})) for _ in range(2)]
        while server.engine.given_tokens < 5:
            await asyncio.sleep(0.005)
        assert not (await asyncio.wait(asked, timeout=0.05))[0]
        async with client.get("/health") as answer:
            assert answer.status == 200
        assert server.engine.given_tokens == 5
        for task in asked:
            task.cancel()

    with_server(run, "--fail", "stall-after:5")


def test_a_hung_one_answers_health_and_nothing_else() -> None:
    async def run(server: FakeServer, client: aiohttp.ClientSession) -> None:
        async with client.get("/health") as answer:
            assert answer.status == 200
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(post(client, "/v1/completions", {"prompt": "w"}), 0.1)
        while not server.tasks[0].ended:
            await asyncio.sleep(0.005)
        assert server.tasks[0].ended == "disconnected"

    with_server(run, "--fail", "hang")


def test_a_process_answers_takes_its_memory_and_ends_with_it(tmp_path: Path) -> None:
    async def main() -> None:
        server = FakeProcess(fake_launch("--memory-bytes", "50000000"), settings(tmp_path))
        await server.start()
        pid = server.pid
        assert server.memory_bytes()[0] > 50_000_000
        assert len(list((tmp_path / "servers").glob("*.json"))) == 1
        async with aiohttp.ClientSession(server.url) as client:
            assert (await post(client, "/v1/completions", {"prompt": "w"}))["choices"][0]["text"] == words(16)
        exited = asyncio.create_task(server.exited())
        await server.stop()
        await asyncio.sleep(0)
        assert not exited.done(), "an end that was asked for is no news"
        exited.cancel()
        assert not runs(pid)
        assert server.memory_bytes() == (0, 0)
        assert not list((tmp_path / "servers").glob("*.json"))
        assert "loading a" in next((tmp_path / "logs").glob("*.log")).read_text()

    asyncio.run(asyncio.wait_for(main(), 20))


def test_one_that_does_not_end_when_asked_is_killed(tmp_path: Path) -> None:
    async def main() -> None:
        server = FakeProcess(fake_launch("--fail", "slow-stop"), settings(tmp_path, grace_s=0.1))
        await server.start()
        pid = server.pid
        await server.stop()
        assert not runs(pid)

    asyncio.run(asyncio.wait_for(main(), 20))


def test_each_server_has_a_log_of_its_own_whatever_its_model_is_called(tmp_path: Path) -> None:
    logs = [
        FakeProcess(fake_launch(model=name), settings(tmp_path)).log for name in ("a/b", "a_b", "模" * 200)
    ]
    for number, log in enumerate(logs):
        log.write(f"{number}\n".encode())
    assert [log.path.read_text() for log in logs] == ["0\n", "1\n", "2\n"]
