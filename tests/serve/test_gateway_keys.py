"""What a scenario's keys, policies and records are in the gateway, and what it shows of itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np

from shunter.agents.registry import make_policy
from shunter.eval.execution.event_log import read_event_log
from shunter.serve.boundary import Asked, Usage
from shunter.serve.gateway.record import Recorder
from tests.serve.gateways import play, running, until, world
from tests.serve.http.stub import SNAPSHOT


def test_pinned_and_preloaded_models_are_there_before_anybody_asks() -> None:
    async def scene() -> None:
        of = world("small", "other", small={"pinned": True}, other={"preload": True})
        async with running(of) as run:
            await until(lambda: run.residents() == {"small", "other"}, "both are there")
            got = await run.client.post("/unload")
            assert await got.json() == {"unloading": ["other"]}, "what is pinned stays"
            await until(lambda: run.residents() == {"small"}, "the other one is gone")
            run.servers("small")[0].crash()
            await until(lambda: len(run.servers("small")) == 2, "what is pinned comes back")

    play(scene)


def test_what_lay_idle_for_its_time_is_unloaded() -> None:
    async def scene() -> None:
        async with running(world(small={"ttl_s": 0.1})) as run:
            assert (await run.ask("small")).status == 200
            await until(lambda: run.model("small")["state"] == "unloaded", "its time is over")
            assert run.gateway.core.totals.evictions == 1

    play(scene)


def test_an_alias_is_its_model() -> None:
    async def scene() -> None:
        async with running(world(small={"aliases": ["gpt-4o"]})) as run:
            got = await run.ask("gpt-4o")
            assert (got.status, got.body["model"]) == (200, "small")
            (listed,) = [one for one in run.gateway.models() if one["id"] == "small"]
            assert listed == {"id": "small", "aliases": ["gpt-4o"], "context_length": 512, "status": "ready"}

    play(scene)


def test_a_model_is_on_as_many_devices_as_it_may() -> None:
    async def scene() -> None:
        args = ["--step-s", "0.02", "--tokens", "20"]
        of = world("small", "other", devices=2, small={"args": args, "replicas_max": 1})
        async with running(of, policy="random") as run:
            got = await asyncio.gather(*(run.ask("small") for _ in range(8)))
            assert {one.status for one in got} == {200}
            places = [
                device
                for device in range(2)
                for one in run.gateway.snapshot()["devices"][device]["residents"]
                if one["model"] == "small"
            ]
            assert len(places) == 1

    play(scene)


def test_what_has_priority_goes_first() -> None:
    """Both wait for longer than the guard lets them: whose waits count more often is served first."""

    async def scene() -> None:
        slow = ["--step-s", "0.03", "--tokens", "20"]
        of = world(
            "small",
            "big",
            "other",
            limits={"guard_s": 0.5},
            small={"args": slow},
            other={"priority": 50},
        )
        async with running(of, policy="lru-keepalive") as run:
            first = asyncio.create_task(run.ask("small"))
            await until(lambda: len(run.tasks("small")) == 1, "it runs")
            asked = [asyncio.create_task(run.ask(model, max_tokens=1)) for model in ("big", "other")]
            await asyncio.wait(asked, return_when="FIRST_COMPLETED")
            assert [task.done() for task in asked] == [False, True]
            assert {(await task).status for task in [first, *asked]} == {200}

    play(scene)


class _Failing:
    name = "failing"
    oracle = False

    def act(self, observation: dict[str, np.ndarray]) -> int:
        raise ValueError("no")

    def act_batch(self, observations: dict[str, np.ndarray]) -> np.ndarray:
        raise ValueError("no")


def test_a_policy_that_raises_costs_nobody_an_answer() -> None:
    async def scene() -> None:
        async with running(policy=_Failing()) as run:
            for model in ("small", "big"):
                assert (await run.ask(model)).status == 200
            assert run.gateway.core.totals.fallbacks > 0

    play(scene)


def test_a_shadow_is_asked_and_not_obeyed() -> None:
    async def scene() -> None:
        async with running(policy="fifo-swap", shadow=_Failing()) as run:
            assert (await run.ask("small")).status == 200
            shown = run.gateway.snapshot()
            assert (shown["policy"], shown["shadow"]) == ("fifo-swap", "failing")
            assert all(isinstance(one["shadow"], str) for one in shown["decisions"])

    play(scene)


def test_another_policy_is_taken_up_without_dropping_anybody() -> None:
    async def scene() -> None:
        async with running() as run:
            asked = [asyncio.create_task(run.ask(model)) for model in ("small", "big", "other")]
            await until(lambda: bool(run.made), "it loads")
            run.gateway.change_policy(make_policy("lru-keepalive"))
            assert {(await task).status for task in asked} == {200}
            assert run.gateway.snapshot()["policy"] == "lru-keepalive"

    play(scene)


def test_the_record_tells_of_every_request_without_its_text(tmp_path: Path) -> None:
    async def scene() -> None:
        of = world(big={"args": ["--fail", "load"]}, small={"args": ["--step-s", "0.02", "--tokens", "100"]})
        async with running(of, recorder=Recorder(tmp_path, of, "cost-greedy"), attempts=1) as run:
            async with run.post("small", stream=True, max_tokens=4, user="me") as got:
                await got.read()
            await run.ask("big")
            gone = asyncio.create_task(run.ask("small"))
            await until(lambda: len(run.tasks("small")) == 2, "it runs")
            gone.cancel()
            await until(run.is_empty, "it has left")
            broken = asyncio.create_task(run.ask("small"))
            await until(lambda: len(run.tasks("small")) == 3, "it runs")
            run.servers("small")[-1].crash()
            await broken

    play(scene)
    text = (tmp_path / "requests.jsonl").read_text(encoding="utf-8")
    assert "something" not in text
    lines = [json.loads(line) for line in text.splitlines()]
    found = [(line["model"], line["status"]) for line in lines]
    assert found == [
        ("small", "done"),
        ("big", "model_failed"),
        ("small", "cancelled"),
        ("small", "server_failed"),
    ]
    done = lines[0]
    assert (done["session"], done["decode_tokens"], done["device"]) == ("me", 4, 0)
    assert 0 <= done["sent_s"] <= done["first_token_s"] <= done["finish_s"] < 10
    (events,) = [read_event_log(path) for path in tmp_path.glob("events-*.parquet")]
    assert {"load", "wait", "lose"} <= set(events["operation"])
    assert set(events["mode"]) == {"real"}
    assert done["device_name"] == "gpu0"
    failed = events[events["fault"] == "load_failed"]
    assert "fake was told to fail" in failed["fault_reason"].iloc[0]


def test_the_record_says_why_each_model_was_loaded_and_unloaded(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    async def scene() -> None:
        of = world("small", "other", small={"pinned": True}, other={"preload": True, "ttl_s": 0.3})
        recorder = Recorder(tmp_path, of, "cost-greedy")
        async with running(of, recorder=recorder, shadow=make_policy("lru-keepalive")) as run:
            following = asyncio.create_task(_collect(run.gateway.events(), seen))
            await until(lambda: run.residents() == {"small", "other"}, "both are there")
            await run.client.post("/unload", json={"model": "other"})
            await until(lambda: run.residents() == {"small"}, "it is gone")
            assert (await run.ask("other")).status == 200
            await until(lambda: run.residents() == {"small"}, "its time is over")
            following.cancel()

    play(scene)
    (events,) = [read_event_log(path) for path in tmp_path.glob("events-*.parquet")]
    rows = events[events["operation"].isin(["load", "evict"])]
    assert rows[["operation", "model", "cause"]].to_numpy().tolist() == [
        ["load", "small", "pinned"],
        ["load", "other", "preload"],
        ["evict", "other", "unload"],
        ["load", "other", "policy"],
        ["evict", "other", "ttl"],
    ]
    servers = [list(what) for what in rows["servers"]]
    assert servers == [["start small"], ["start other"], ["end other"], ["start other"], ["end other"]]
    told = [(one["type"], one["reason"]) for one in seen if one["type"] in ("load", "unloaded")]
    assert told[-3:] == [("unloaded", "unload"), ("load", "policy"), ("unloaded", "ttl")]
    asked = events.dropna(subset=["shadow_choice_name"])
    assert len(asked) > 0
    assert set(events["shadow"]) == {make_policy("lru-keepalive").name}


async def _collect(events: AsyncIterator[dict[str, Any]], seen: list[dict[str, Any]]) -> None:
    async for event in events:
        seen.append(event)


def test_events_are_as_the_boundary_says() -> None:
    async def scene() -> None:
        of = world(other={"args": ["--fail", "load"]})
        async with running(of) as run:
            seen: list[dict[str, Any]] = []

            following = asyncio.create_task(_collect(run.gateway.events(), seen))
            await asyncio.sleep(0)
            async with run.post("small", stream=True) as got:
                await got.read()
            await run.ask("big")
            await run.ask("other")
            await run.ask("none")
            cancelled = asyncio.create_task(run.ask("small"))
            await until(lambda: bool(run.gateway.core.jobs), "it is there")
            cancelled.cancel()
            await until(run.is_empty, "it has left")
            run.gateway.change_policy(make_policy("lru-keepalive"))
            await asyncio.sleep(0.05)
            following.cancel()
            mine = [one["type"] for one in seen if one.get("id") == 0]
            assert mine == ["arrival", "dispatch", "first", "done"]
            types = {one["type"] for one in seen}
            assert types >= {"load", "ready", "unloaded", "failed", "refused", "gone", "decision", "champion"}
            assert all(isinstance(one["time_s"], float) for one in seen)
            assert all("took_s" in one for one in seen if one["type"] == "ready")
            json.dumps(seen)

    play(scene)


def _shape(value: Any) -> Any:
    """The keys of nested dictionaries, and of the first of a list."""
    if isinstance(value, dict):
        return {key: _shape(inner) for key, inner in value.items()}
    return [_shape(value[0])] if isinstance(value, list) and value and isinstance(value[0], dict) else None


def test_the_snapshot_is_as_the_boundary_says() -> None:
    async def scene() -> None:
        async with running(world(small={"args": ["--step-s", "0.05"]})) as run:
            asked = asyncio.create_task(run.ask("small"))
            await until(lambda: len(run.tasks("small")) == 1, "it runs")
            async with run.client.get("/running") as got:
                shown = await got.json()
            expected = _shape(SNAPSHOT)
            shape = _shape(shown)
            shape["devices"][0]["operation"] = expected["devices"][0]["operation"]
            assert shape == expected
            (resident,) = shown["devices"][0]["residents"]
            assert (resident["state"], resident["running"], resident["max_batch"]) == ("ready", 1, 2)
            (small,) = [one for one in shown["models"] if one["name"] == "small"]
            assert (small["state"], small["running"], small["queued"]) == ("ready", 1, 0)
            await asked
            assert run.gateway.ready() is None

    play(scene)


def test_who_waits_for_twice_the_guard_makes_the_gateway_unready() -> None:
    async def scene() -> None:
        of = world(limits={"guard_s": 0.05}, small={"args": ["--load-s", "0.5"]})
        async with running(of) as run:
            asked = asyncio.create_task(run.ask("small"))
            await until(lambda: run.gateway.ready() is not None, "it waits for long")
            assert "small" in (run.gateway.ready() or "")
            assert (await asked).status == 200
            assert run.gateway.ready() is None

    play(scene)


def test_short_prompts_make_no_long_ones_of_others() -> None:
    """A template of many tokens around two characters says nothing of the tokens of a page."""

    async def scene() -> None:
        async with running() as run:
            facts = run.gateway.facts[1]
            for _ in range(200):
                facts.learn(Asked("small", "/v1/chat/completions", prompt_chars=2), Usage(prompt_tokens=52))
            got = await run.ask("small", messages=[{"role": "user", "content": "x" * 1000}])
            assert got.status == 200
            facts.learn(Asked("small", "/v1/chat/completions", prompt_chars=4000), Usage(prompt_tokens=1050))
            assert facts.prompt_tokens(Asked("small", "", prompt_chars=2000)) < 3000

    play(scene)
