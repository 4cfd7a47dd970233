"""The gateway end to end before fake servers: what clients get, and that nothing stays behind."""

from __future__ import annotations

import asyncio
import json

import pytest

from shunter.serve.endpoints import ENDPOINTS
from tests.serve.gateways import Running, play, running, until, world

SLOW = ["--step-s", "0.05", "--tokens", "1000"]


async def left(run: Running, what: str = "somebody is still there") -> None:
    await until(run.is_empty, what, 1.0)


def test_models_are_swapped_as_they_are_asked_for() -> None:
    async def scene() -> None:
        async with running() as run:
            for model in ("small", "other", "big", "small"):
                got = await run.ask(model)
                assert got.status == 200
                assert got.body["model"] == model
            assert run.residents() <= {"small", "other"}
            assert len(run.servers("small")) == 2, "it made room for big and came back"
            totals = run.gateway.snapshot()["totals"]
            assert totals["served"] == 4
            assert totals["loads"] == 4
            assert totals["evictions"] >= 3
            await left(run)

    play(scene)


def test_streams_are_passed_on_event_by_event() -> None:
    async def scene() -> None:
        async with running() as run:
            got = await run.ask("small", stream=True, stream_options={"include_usage": True}, max_tokens=5)
            events = got.raw.split(b"\n\n")
            assert got.headers["Content-Type"].startswith("text/event-stream")
            assert events[-2:] == [b"data: [DONE]", b""]
            assert sum(b'"delta":{"content":"' in event or b'"content":" t' in event for event in events) == 5
            assert run.gateway.core.totals.served == 1
            await left(run)

    play(scene)


def test_the_fake_server_answers_all_that_is_passed_on() -> None:
    async def scene() -> None:
        async with running() as run:
            got = {path: await run.ask("small", path, max_tokens=3) for path in ENDPOINTS}
            assert {path: one.status for path, one in got.items()} == dict.fromkeys(ENDPOINTS, 200)
            streamed = await run.ask("small", "/infill", prompt="a b", stream=True, n_predict=3)
            assert b'"content":" t2","stop":false' in streamed.raw
            await left(run)

    play(scene)


def test_all_at_once() -> None:
    async def scene() -> None:
        async with running() as run:
            wanted = ["small", "other", "big"] * 10
            got = await asyncio.gather(
                *(run.ask(model, stream=k % 2 == 0, max_tokens=3) for k, model in enumerate(wanted))
            )
            assert [one.status for one in got] == [200] * len(wanted)
            assert run.gateway.core.totals.served == len(wanted)
            await left(run)

    play(scene)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("window", ["loading", "queued", "before the first token", "in mid-stream"])
def test_a_client_that_leaves_frees_all(window: str, stream: bool) -> None:
    args = ["--load-s", "0.15"] if window == "loading" else ["--step-s", "0.05", "--tokens", "1000"]
    if window == "before the first token":
        args += ["--prefill-tokens-per-s", "1"]

    async def scene() -> None:
        async with running(world(small={"args": args})) as run:
            others = [asyncio.create_task(run.ask("small")) for _ in range(2 * (window == "queued"))]
            await until(lambda: len(run.tasks("small")) == len(others), "they have begun")
            mine = asyncio.create_task(run.ask("small", stream=stream))
            core = run.gateway.core
            if window == "loading":
                await until(lambda: bool(run.made), "it loads")
            elif window == "queued":
                await until(lambda: core.queued(1) == 1, "it waits")
            else:
                await until(lambda: len(run.tasks("small")) == 1, "it is there")
                if window == "in mid-stream":
                    await until(lambda: run.tasks("small")[0].produced > 1, "it goes on")
            mine.cancel()
            await until(lambda: len(core.jobs) == len(others), "it has left", 0.5)
            assert core.totals.cancelled == 1
            for other in others:
                other.cancel()
            await left(run)
            await asyncio.gather(mine, *others, return_exceptions=True)
            if window == "loading":
                await until(lambda: run.model("small")["state"] == "ready", "it is loaded all the same")
                assert not run.tasks("small"), "nothing was sent"

    play(scene)


def test_a_load_that_fails_is_told_and_harms_nobody_else() -> None:
    async def scene() -> None:
        of = world(big={"args": ["--fail", "load"]})
        async with running(of, backoff_s=0.3) as run:
            bad, good = await asyncio.gather(run.ask("big"), run.ask("small"))
            assert (bad.status, bad.code) == (503, "model_failed")
            assert "fake was told to fail" in bad.body["error"]["message"]
            assert int(bad.headers["Retry-After"]) >= 1
            assert good.status == 200
            assert run.model("big")["state"] == "failed"
            assert run.model("big")["retry_in_s"] > 0
            again = await run.ask("big")
            assert (again.status, len(run.servers("big"))) == (503, 1), "it is refused at once"
            await until(lambda: run.model("big")["state"] != "failed", "it may be tried again")
            assert (await run.ask("big")).status == 503
            assert len(run.servers("big")) == 2
            await left(run)

    play(scene)


def test_a_waiting_stream_is_told_that_its_load_failed() -> None:
    async def scene() -> None:
        of = world(big={"args": ["--fail", "load", "--load-s", "0.1"]})
        async with running(of, http={"first_comment_s": 0.01}) as run:
            got = await run.ask("big", stream=True)
            assert got.status == 200
            assert got.raw.startswith(b": waiting")
            assert json.loads(got.raw.split(b"data: ")[1])["error"]["code"] == "model_failed"
            await left(run)

    play(scene)


def test_without_memory_a_model_is_tried_alone() -> None:
    async def scene() -> None:
        of = world(other={"args": ["--fail", "oom"]})
        async with running(of) as run:
            assert (await run.ask("small")).status == 200
            got = await run.ask("other")
            assert (got.status, got.code) == (503, "model_failed")
            assert "out of memory" in got.body["error"]["message"]
            assert len(run.servers("other")) == 2
            assert run.residents() == set(), "the second time there was nobody else"
            assert (await run.ask("small")).status == 200
            await left(run)

    play(scene)


def test_a_server_that_ends_in_mid_stream_breaks_that_answer_only() -> None:
    async def scene() -> None:
        async with running(world(small={"args": SLOW})) as run:
            async with run.post("small", stream=True) as got:
                while b"t1" not in await got.content.readany():
                    pass
                run.servers("small")[0].crash()
                rest = await got.read()
            assert b'"server_failed"' in rest
            async with run.post("small", stream=True, max_tokens=2) as got:
                assert got.status == 200
                assert b"[DONE]" in await got.read()
            assert len(run.servers("small")) == 2
            assert run.model("small")["failed"] == 1
            await left(run)

    play(scene)


def test_a_server_that_ends_before_the_first_byte_is_not_noticed() -> None:
    async def scene() -> None:
        async with running(world(small={"args": ["--prefill-tokens-per-s", "50"]})) as run:
            asked = asyncio.create_task(run.ask("small", max_tokens=2))
            await until(lambda: len(run.tasks("small")) == 1, "it is there")
            run.servers("small")[0].crash()
            assert (await asked).status == 200
            assert len(run.servers("small")) == 2
            await left(run)

    play(scene)


def test_a_request_that_ends_every_server_has_failed() -> None:
    async def scene() -> None:
        args = ["--fail", "crash-after:1", "--step-s", "0.02"]
        async with running(world(small={"args": args})) as run:
            got = await run.ask("small")
            assert got.status == 503
            assert run.gateway.core.totals.failed == 1
            assert run.model("small")["failed"] == 1
            await left(run)

    play(scene)


def test_a_server_that_is_stuck_is_ended_and_its_requests_go_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene() -> None:
        async with running(world(small={"args": ["--prefill-tokens-per-s", "5"]})) as run:
            run.gateway.fleet.pulse_s = 0.02
            asked = asyncio.create_task(run.ask("small", max_tokens=2))
            await until(lambda: len(run.tasks("small")) == 1, "it is there")
            stuck = run.servers("small")[0]

            async def silent() -> bool:
                return False

            monkeypatch.setattr(stuck, "answers", silent)
            await until(lambda: stuck.pid == 0, "it is ended", 2.0)
            assert (await asked).status == 200
            assert len(run.servers("small")) == 2
            await left(run)

    play(scene)


def test_no_task_stays_for_servers_that_were_unloaded() -> None:
    async def scene() -> None:
        async with running() as run:
            await run.ask("small")
            before = len(asyncio.all_tasks())
            for _ in range(5):
                await run.ask("big")
                await run.ask("small")
            await asyncio.sleep(0.05)
            assert len(asyncio.all_tasks()) <= before + 1

    play(scene)


def test_a_load_that_hangs_has_failed_after_a_while() -> None:
    async def scene() -> None:
        of = world(small={"args": ["--fail", "hang-load"]})
        async with running(of, progress_s=0.1) as run:
            got = await run.ask("small")
            assert (got.status, got.code) == (503, "model_failed")
            assert "no progress" in got.body["error"]["message"]

    play(scene)


def test_what_cannot_be_had_is_refused() -> None:
    async def scene() -> None:
        async with running(world(small={"args": SLOW}), max_queue=2, timeout_s=0.3) as run:
            unknown = await run.ask("smal")
            assert (unknown.status, unknown.code) == (404, "model_not_found")
            assert "small" in unknown.body["error"]["message"]
            long = await run.ask("small", messages=[{"role": "user", "content": "x" * 10_000}])
            assert (long.status, long.code) == (413, "context_length_exceeded")
            asked = [asyncio.create_task(run.ask("small")) for _ in range(2)]
            await until(lambda: len(run.tasks("small")) == 2, "they run")
            asked += [asyncio.create_task(run.ask("small")) for _ in range(2)]
            await until(lambda: run.gateway.core.queued(1) == 2, "they wait")
            full = await run.ask("small")
            assert (full.status, full.code) == (429, "queue_full")
            assert int(full.headers["Retry-After"]) >= 1
            late = await asked[2]
            assert (late.status, late.code) == (504, "waited_too_long")
            for task in asked:
                task.cancel()
            await left(run)
            assert run.gateway.snapshot()["totals"]["refused"] == 3

    play(scene)


def test_a_servers_own_refusal_is_passed_on_and_is_no_failure() -> None:
    async def scene() -> None:
        async with running(world(small={"context_tokens": 8})) as run:
            got = await run.ask("small", messages=[{"role": "user", "content": "a b c d e f g h i j"}])
            assert got.status == 400
            assert "error" in got.body
            assert run.model("small")["failed"] == 0
            assert run.gateway.core.totals.failed == 0
            await left(run)

    play(scene)


def test_unloading_waits_for_what_runs() -> None:
    async def scene() -> None:
        async with running(world(small={"args": ["--step-s", "0.02", "--tokens", "10"]})) as run:
            asked = asyncio.create_task(run.ask("small"))
            await until(lambda: len(run.tasks("small")) == 1, "it runs")
            async with run.client.post("/unload", json={"model": "small"}) as got:
                assert await got.json() == {"unloading": ["small"]}
            assert run.model("small")["state"] == "draining"
            assert (await asked).status == 200
            await until(lambda: run.model("small")["state"] == "unloaded", "it is gone")
            async with run.client.post("/unload") as got:
                assert await got.json() == {"unloading": []}
            assert (await run.ask("small")).status == 200

    play(scene)
