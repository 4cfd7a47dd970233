from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.serve.http.stub import SNAPSHOT, Running, play, running
from tests.serve.http.test_relay import CHAT


async def _get(run: Running, path: str, status: int = 200) -> Any:
    async with run.client.get(path) as got:
        assert got.status == status
        return await got.json()


def test_models() -> None:
    async def scene() -> None:
        async with running() as run:
            listed = await _get(run, "/v1/models")
            assert listed["object"] == "list"
            assert [model["id"] for model in listed["data"]] == ["small", "org/large"]
            assert {model["object"] for model in listed["data"]} == {"model"}
            assert (await _get(run, "/v1/models/org/large"))["id"] == "org/large"
            assert (await _get(run, "/v1/models/gpt-4o"))["id"] == "small"
            error = (await _get(run, "/v1/models/smal", 404))["error"]
            assert error["code"] == "model_not_found"
            assert "did you mean small" in error["message"]

    play(scene)


def test_health_and_ready() -> None:
    async def scene() -> None:
        async with running() as run:
            assert await _get(run, "/health") == {"status": "ok"}
            assert await _get(run, "/ready") == {"status": "ready"}
            run.stub.not_ready = "small: its oldest request has waited 61 s"
            assert "waited 61 s" in (await _get(run, "/ready", 503))["error"]["message"]
            assert await _get(run, "/health") == {"status": "ok"}

    play(scene)


def test_running_is_the_snapshot() -> None:
    async def scene() -> None:
        async with running() as run:
            assert await _get(run, "/running") == SNAPSHOT

    play(scene)


def test_unload() -> None:
    async def scene() -> None:
        async with running() as run:
            for query, data in (("", None), ("?model=small", None), ("", b'{"model": "gpt-4o"}')):
                async with run.client.post(f"/unload{query}", data=data) as got:
                    assert await got.json() == {"unloading": ["small"]}
            assert run.stub.unloaded == [None, "small", "gpt-4o"]
            for data, status in ((b'{"model": "none"}', 404), (b'{"model": 1}', 400), (b"[]", 400)):
                async with run.client.post("/unload", data=data) as got:
                    assert got.status == status

    play(scene)


def test_events_reach_every_follower() -> None:
    async def scene() -> None:
        async with running() as run, run.client.get("/events") as one, run.client.get("/events") as two:
            for got in (one, two):
                assert got.headers["Content-Type"] == "text/event-stream"
                await got.content.readchunk()
            run.stub.news.put_nowait({"type": "load", "time_s": 1.0, "model": "small", "device": "cuda:0"})
            for got in (one, two):
                piece = (await got.content.readuntil(b"\n\n")).strip()
                assert json.loads(piece.removeprefix(b"data: "))["type"] == "load"

    play(scene)


def test_a_slow_follower_loses_events_and_is_told_how_many() -> None:
    async def scene() -> None:
        async with running(max_events=10) as run, run.client.get("/events") as got:
            await got.content.readchunk()
            for k in range(100):  # all at once: nobody can take any in between
                run.stub.news.put_nowait({"type": "arrival", "time_s": float(k)})
            lines = []
            while not lines or lines[-1]["type"] != "lost":
                piece = (await got.content.readuntil(b"\n\n")).strip()
                lines.append(json.loads(piece.removeprefix(b"data: ")))
            assert [line["time_s"] for line in lines[:-1]] == list(range(10))
            assert lines[-1]["count"] == 90

    play(scene)


def test_too_many_followers_are_refused_and_places_are_free_again() -> None:
    async def scene() -> None:
        async with running(max_listeners=1) as run:
            async with run.client.get("/events") as got:
                await got.content.readchunk()
                await _get(run, "/events", 503)
            for _ in range(100):
                async with run.client.get("/events") as got:
                    if got.status == 200:
                        return
                await asyncio.sleep(0.01)
            pytest.fail("the place of a follower that left stays taken")

    play(scene)


def test_metrics() -> None:
    async def scene() -> None:
        async with running() as run:
            run.upstream.streams(*CHAT)
            async with run.post(stream=True) as got:
                await got.read()
            async with run.post(model="x" * 100) as got:
                assert got.status == 404
            for event in (
                {"type": "load", "model": "small", "device": "cuda:0", "reason": "guard"},
                {"type": "load", "model": "small", "device": "cuda:0", "reason": "of 1,000 kinds"},
                {"type": "ready", "model": "small", "device": "cuda:0", "took_s": 3.0},
                {"type": "decision", "device": "cuda:0", "took_ms": 0.2, "fallback": True},
            ):
                run.stub.news.put_nowait(event)
            await asyncio.sleep(0.02)
            async with run.client.get("/metrics") as got:
                assert got.headers["Content-Type"].startswith("text/plain")
                text = await got.text()
        rows = {
            (row.name, tuple(sorted(row.labels.values()))): row.value
            for family in text_string_to_metric_families(text)
            for row in family.samples
        }
        assert rows["shunter_requests_total", ("200", "small")] == 1
        assert rows["shunter_requests_total", ("", "404")] == 1
        assert rows["shunter_tokens_total", ("completion", "small")] == 2
        assert rows["shunter_ttft_seconds_count", ("small",)] == 1
        assert rows["shunter_tpot_seconds_count", ("small",)] == 1
        assert rows["shunter_queue_wait_seconds_count", ("small",)] == 1
        assert rows["shunter_loads_total", ("cuda:0", "guard", "small")] == 1
        assert rows["shunter_loads_total", ("cuda:0", "other", "small")] == 1
        assert rows["shunter_load_seconds_sum", ("cuda:0", "small")] == 3
        assert rows["shunter_decision_seconds_count", ()] == 1
        assert rows["shunter_policy_fallback_total", ()] == 1
        assert rows["shunter_evictions_total", ()] == 2
        assert rows["shunter_queue_depth", ("small",)] == 3
        assert rows["shunter_oldest_wait_seconds", ("small",)] == 2.5
        assert rows["shunter_model_state", ("cuda:0", "ready", "small")] == 1
        assert rows["shunter_device_memory_bytes", ("capacity", "cuda:0")] == 24 << 30
        assert "xxx" not in text

    play(scene)


def test_two_applications_count_apart() -> None:
    async def scene() -> None:
        async with running() as one, running() as two:
            async with one.post() as got:
                await got.read()
            for run, counted in ((one, True), (two, False)):
                async with run.client.get("/metrics") as got:
                    assert ('shunter_requests_total{code="200",model="small"}' in await got.text()) is counted

    play(scene)
