"""What the page shows of a gateway is what there is."""

from __future__ import annotations

import asyncio
from typing import Any

from shunter.agents.registry import make_policy
from shunter.serve.boundary import Asked, Launch, Usage
from shunter.serve.gateway import Gateway, GatewaySettings
from shunter.serve.servers.fake_server import FakeServer
from tests.serve.test_core import WORLDS


def make_server(engine: str, launch: Launch) -> FakeServer:
    return FakeServer(launch)


def test_a_model_that_drains_is_shown_with_its_memory_and_since_when() -> None:
    seen: list[dict[str, Any]] = []

    async def serve() -> None:
        gateway = Gateway(WORLDS[1], make_policy("cost-greedy"), make_server, GatewaySettings())
        running = asyncio.create_task(gateway.run())
        ticket = gateway.submit(Asked("small", "/v1/chat/completions", 80))
        await ticket.server()
        seen.append(gateway.snapshot())
        assert gateway.unload("small") == ["small"]
        await asyncio.sleep(0.05)
        seen.append(gateway.snapshot())
        ticket.done(Usage(20, 3))
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
