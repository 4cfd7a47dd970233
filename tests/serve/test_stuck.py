"""Servers that take requests, say that they are well, and answer nothing."""

from __future__ import annotations

import asyncio

import pytest

from shunter.serve.boundary import Asked
from shunter.serve.gateway import gateway
from shunter.serve.gateway.lateness import silent_tokens
from shunter.serve.http.body import read_asked
from tests.serve.gateways import Running, play, running, until, world


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "_TICK_S", 0.02)


async def left(run: Running) -> None:
    await until(run.is_empty, "somebody is still there")


def test_a_stream_that_stops_ends_with_an_error_and_the_next_server_answers() -> None:
    async def scene() -> None:
        of = world(small={"args": ["--fail", "stall-after:3"]})
        async with running(of, hang_after_s=0.2) as run:
            got = await run.ask("small", stream=True, max_tokens=9)
            assert got.status == 200, "its head was out"
            assert b'"content":" t2"' in got.raw
            assert got.raw.rstrip().splitlines()[-1].count(b'"code": "server_stuck"') == 1
            assert b"small: its server said nothing for" in got.raw
            await until(lambda: run.servers("small")[0].pid == 0, "it is ended")
            assert (await run.ask("small", stream=True, max_tokens=2)).status == 200
            assert len(run.servers("small")) == 2
            assert run.model("small")["failed"] == 1
            await left(run)

    play(scene)


def test_who_is_stuck_is_told_and_the_others_are_answered_by_the_next_server() -> None:
    async def scene() -> None:
        of = world(small={"args": ["--fail", "stall-after:9"]})
        async with running(of, hang_after_s=0.4) as run:
            assert (await run.ask("small", max_tokens=7)).status == 200
            first = asyncio.create_task(run.ask("small", max_tokens=4))
            await until(lambda: run.servers("small")[0].engine.given_tokens == 9, "it stalls")
            await asyncio.sleep(0.1)
            others = [asyncio.create_task(run.ask("small", max_tokens=4)) for _ in range(2)]
            stuck = await first
            assert (stuck.status, stuck.code) == (504, "server_stuck")
            assert "\n" not in stuck.body["error"]["message"]
            assert [(await other).status for other in others] == [200, 200]
            assert len(run.servers("small")) == 2
            await left(run)

    play(scene)


def test_a_model_whose_servers_hang_again_and_again_is_tried_later_only() -> None:
    async def scene() -> None:
        async with running(world(small={"args": ["--fail", "hang"]}), hang_after_s=0.1) as run:
            for _ in range(2):
                got = await run.ask("small", max_tokens=1)
                assert (got.status, got.code) == (504, "server_stuck")
            got = await run.ask("small", max_tokens=1)
            assert (got.status, got.code) == (503, "model_failed")
            assert len(run.servers("small")) == 2
            assert (await run.ask("other", max_tokens=1)).status == 200, "others are not concerned"
            await left(run)

    play(scene)


def test_what_is_stuck_holds_up_neither_an_eviction_nor_another_scenario() -> None:
    async def scene() -> None:
        of = world(small={"args": ["--fail", "stall-after:1"]})
        async with running(of, hang_after_s=0.3) as run:
            stuck = asyncio.create_task(run.ask("small", stream=True, max_tokens=5))
            await until(lambda: bool(run.tasks("small")), "it is there")
            big = await run.ask("big", max_tokens=1)
            assert big.status == 200
            assert b"server_stuck" in (await stuck).raw
            stuck = asyncio.create_task(run.ask("small", stream=True, max_tokens=5))
            await until(lambda: len(run.tasks("small")) == 2, "it is there again")
            await run.gateway.change_world(world(small={"args": []}))
            assert b"server_stuck" in (await stuck).raw
            assert (await run.ask("small", max_tokens=5)).status == 200
            await left(run)

    play(scene)


def test_a_slow_stream_goes_on() -> None:
    async def scene() -> None:
        of = world(small={"args": ["--step-s", "0.2"]})
        async with running(of, hang_after_s=1.0) as run:
            got = await run.ask("small", stream=True, max_tokens=12)
            assert b"[DONE]" in got.raw
            assert b"server_stuck" not in got.raw
            assert len(run.servers("small")) == 1

    play(scene)


@pytest.mark.parametrize(
    ("body", "answers"),
    [
        ('"prompt": "a"', 1),
        ('"prompt": "a", "n": 3', 3),
        ('"prompt": ["a", "b"], "n": 3, "best_of": 5', 10),
        ('"prompt": [1, 2, 3]', 1),
        ('"prompt": [[1, 2], [3]]', 2),
        ('"prompt": [], "n": -1', 1),
        ('"prompt": "a", "n": "many"', 1),
    ],
)
def test_answers_that_a_body_asks_for(body: str, answers: int) -> None:
    assert read_asked(f'{{"model": "m", {body}}}'.encode(), "/v1/completions", {}).answers == answers


def test_what_a_server_may_generate_before_it_says_anything() -> None:
    def most(**fields: int | bool) -> int:
        return silent_tokens(Asked("m", "/v1/completions", 5, **fields), 512)  # type: ignore[arg-type]

    assert most(stream=True, max_tokens=100) == 1
    assert most(max_tokens=100) == 100
    assert most(max_tokens=10**30) == most() == 512
    assert most(max_tokens=7, answers=3) == 21
