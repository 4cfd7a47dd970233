"""What the page shows of a gateway is what there is."""

from __future__ import annotations

import asyncio
from typing import Any

from shunter.agents.registry import make_policy
from shunter.serve.boundary import Asked, Launch, Usage
from shunter.serve.gateway.gateway import Gateway, GatewaySettings
from shunter.serve.servers.fake.server import FakeServer
from tests.serve.test_core import WORLDS, small_world


def make_server(engine: str, launch: Launch) -> FakeServer:
    return FakeServer(launch)


def test_a_model_that_drains_is_shown_with_its_memory_and_since_when() -> None:
    seen: list[dict[str, Any]] = []

    async def serve() -> None:
        gateway = Gateway(WORLDS[1], make_policy("cost-greedy"), make_server, GatewaySettings())
        running = asyncio.create_task(gateway.run())
        ticket = gateway.submit(Asked("small", "/v1/chat/completions", 80))
        await ticket.server()
        other = gateway.submit(Asked("small", "/v1/chat/completions", 80))
        await other.server()
        seen.append(gateway.snapshot())
        assert gateway.unload("small") == ["small"]
        await asyncio.sleep(0.05)
        seen.append(gateway.snapshot())
        ticket.done(Usage(20, 3))
        other.done(Usage(20, 3))
        while gateway.snapshot()["devices"][0]["residents"]:
            await asyncio.sleep(0.01)
        running.cancel()
        await gateway.stop()

    asyncio.run(asyncio.wait_for(serve(), 30))
    before, after = (one["devices"][0] for one in seen)
    assert before["residents"][0]["state"] == "ready"
    assert after["residents"][0]["state"] == "draining"
    assert after["used_bytes"] == before["used_bytes"] == before["residents"][0]["memory_bytes"]
    assert after["operation"]["kind"] == "drain"
    assert seen[0]["now_s"] <= after["operation"]["since_s"] <= seen[1]["now_s"] - 0.04
    choices = [decision["choice"].split("@")[0] for decision in seen[0]["decisions"]]
    assert "load small" in choices
    assert "keep small" in choices


def test_a_changed_scenario_changes_neither_counts_nor_what_is_expected() -> None:
    seen: list[dict[str, Any]] = []
    rates: list[list[float]] = []

    async def serve() -> None:
        gateway = Gateway(WORLDS[1], make_policy("cost-greedy"), make_server, GatewaySettings())
        running = asyncio.create_task(gateway.run())
        tickets = []
        for _ in range(4):
            tickets.append(gateway.submit(Asked("small", "/v1/chat/completions", 80)))
            await asyncio.sleep(0.05)
        await tickets[0].server()
        tickets[0].done(Usage(20, 3))
        for world in (WORLDS[1], small_world(guard_s=50.0)):
            await gateway.change_world(world)
            seen.append(gateway.snapshot())
            rates.append(gateway.core.state.model["rate_per_s"].tolist())
        for ticket in tickets[1:]:
            await ticket.server()
            ticket.done(Usage(20, 3))
        running.cancel()
        await gateway.stop()

    asyncio.run(asyncio.wait_for(serve(), 30))
    assert [round(one["guard_s"]) for one in seen] == [60, 50]
    assert [one["models"][1]["served"] for one in seen] == [1, 1]
    assert [one["devices"][0]["residents"][0]["idle_s"] < 1.0 for one in seen] == [True, True]
    assert rates[0] == rates[1]
    assert 0 < rates[0][1] < 30
