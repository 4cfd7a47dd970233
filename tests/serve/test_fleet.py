"""Servers that sleep instead of ending."""

from __future__ import annotations

import asyncio

from shunter.serve.boundary import Launch, Server, ServerFailed
from shunter.serve.gateway.fleet import Fleet


class Dozer(Server):
    """A server that sleeps, and keeps 10 bytes then."""

    def __init__(self, launch: Launch) -> None:
        self.launch, self.did, self.wakes = launch, [], True
        self.taken = 0

    async def start(self) -> None:
        self.did.append("start")
        self.taken = 100

    async def stop(self) -> None:
        self.did.append("stop")
        self.taken = 0

    async def exited(self) -> ServerFailed:
        await asyncio.Event().wait()
        raise AssertionError

    def memory_bytes(self) -> tuple[int, int]:
        return self.taken, 0

    async def sleep(self, level: int) -> None:
        self.did.append(f"sleep {level}")
        self.taken = 10

    async def wake(self) -> None:
        if not self.wakes:
            raise ServerFailed("no")
        self.did.append("wake")
        self.taken = 100


def launch(model: str, context_tokens: int = 512) -> Launch:
    return Launch(model, "/m", "cuda:0", None, context_tokens, 4)


class Scene:
    def __init__(self, sleep_level: int = 1) -> None:
        self.made: list[Dozer] = []
        self.told: list[tuple[str, int, int]] = []
        self.fleet = Fleet(self.make, lambda device, model, failed: None, sleep_level, self.tell)

    def tell(self, what: str, device: int, model: int) -> None:
        self.told.append((what, device, model))

    def make(self, engine: str, wanted: Launch) -> Dozer:
        self.made.append(Dozer(wanted))
        return self.made[-1]


def test_what_is_unloaded_sleeps_and_is_woken() -> None:
    async def scene() -> None:
        one = Scene(2)
        await one.fleet.load(0, 0, "vllm", launch("a"))
        await one.fleet.unload(0, 0)
        assert one.fleet.memory_bytes(0) == 10
        assert not one.fleet.servers
        await one.fleet.load(0, 0, "vllm", launch("a"))
        assert [server.did for server in one.made] == [["start", "sleep 2", "wake"]]
        await one.fleet.stop()

    asyncio.run(scene())


def test_another_launch_or_one_that_does_not_wake_begins_anew() -> None:
    async def scene() -> None:
        one = Scene()
        await one.fleet.load(0, 0, "vllm", launch("a"))
        await one.fleet.unload(0, 0)
        await one.fleet.load(0, 0, "vllm", launch("a", 1024))
        await one.fleet.unload(0, 0)
        one.made[1].wakes = False
        await one.fleet.load(0, 0, "vllm", launch("a", 1024))
        assert [server.did[-1] for server in one.made] == ["stop", "stop", "start"]
        await one.fleet.stop()

    asyncio.run(scene())


def test_sleepers_end_where_what_they_keep_is_needed() -> None:
    async def scene() -> None:
        one = Scene()
        for model, name in enumerate("ab"):
            await one.fleet.load(0, model, "vllm", launch(name))
            await one.fleet.unload(0, model)
        await one.fleet.load(1, 2, "vllm", launch("c"), 0.0)
        assert len(one.fleet.asleep) == 2, "another device's sleepers are in nobody's way"
        await one.fleet.load(0, 2, "vllm", launch("c"), 15.0)
        assert list(one.fleet.asleep) == [(0, 1)], "who fell asleep first ends first"
        await one.fleet.load(0, 1, "vllm", launch("b"), 0.0)
        assert one.made[1].did[-1] == "wake", "what the wanted one keeps is its own"
        await one.fleet.stop()
        assert {server.did[-1] for server in one.made} == {"stop"}
        told = [(what, model) for what, _, model in one.told]
        assert told[:4] == [("start", 0), ("sleep", 0), ("start", 1), ("sleep", 1)]
        assert told[4:] == [("start", 2), ("end", 0), ("start", 2), ("wake", 1)]

    asyncio.run(scene())


def test_without_a_level_servers_end() -> None:
    async def scene() -> None:
        one = Scene(0)
        await one.fleet.load(0, 0, "vllm", launch("a"))
        await one.fleet.unload(0, 0)
        assert one.made[0].did == ["start", "stop"]
        await one.fleet.stop()

    asyncio.run(scene())


def test_one_that_ends_while_it_wakes_is_started_anew() -> None:
    async def scene() -> None:
        one = Scene()
        await one.fleet.load(0, 0, "vllm", launch("a"))
        await one.fleet.unload(0, 0)
        one.made[0].wakes = False
        one.fleet._watches.pop(one.made[0]).cancel()  # as when it was seen to end
        await one.fleet.load(0, 0, "vllm", launch("a"))
        assert one.made[1].did == ["start"]
        await one.fleet.stop()

    asyncio.run(scene())
