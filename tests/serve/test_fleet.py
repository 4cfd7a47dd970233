"""Servers that sleep instead of ending."""

from __future__ import annotations

import asyncio

import pytest

from shunter.serve.boundary import Launch, Server, ServerFailed
from shunter.serve.gateway import fleet
from shunter.serve.gateway.fleet import Fleet


class Dozer(Server):
    """A server that sleeps, and keeps 10 bytes then."""

    def __init__(self, launch: Launch) -> None:
        self.launch, self.did, self.wakes = launch, [], True
        self.taken = 0
        self.died, self.may_stop, self.may_wake = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.may_stop.set()
        self.may_wake.set()
        self.error: Exception = ServerFailed("no")

    async def start(self) -> None:
        self.did.append("start")
        self.taken = 100

    async def stop(self) -> None:
        await self.may_stop.wait()
        self.did.append("stop")
        self.taken = 0

    async def exited(self) -> ServerFailed:
        await self.died.wait()
        return ServerFailed("it ended")

    def memory_bytes(self) -> tuple[int, int]:
        if self.taken < 0:
            raise ProcessLookupError
        return self.taken, 0

    async def sleep(self, level: int) -> None:
        if not self.wakes:
            raise self.error
        self.did.append(f"sleep {level}")
        self.taken = 10

    async def wake(self) -> None:
        await self.may_wake.wait()
        if not self.wakes:
            raise self.error
        self.did.append("wake")
        self.taken = 100


def launch(model: str, context_tokens: int = 512) -> Launch:
    return Launch(model, "/m", "cuda:0", None, context_tokens, 4)


class Scene:
    def __init__(self, sleep_level: int = 1) -> None:
        self.made: list[Dozer] = []
        self.told: list[tuple[int, int, str]] = []
        self.happened: list[tuple[str, int, int]] = []
        self.fleet = Fleet(self.make, self.ended, sleep_level, lambda *at: self.happened.append(at))

    def ended(self, device: int, model: int, failed: ServerFailed) -> None:
        self.told.append((device, model, str(failed)))

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
        told = [(what, model) for what, _, model in one.happened]
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


async def ticks(count: int = 20) -> None:
    """Lets whatever can happen without any time happen."""
    for _ in range(count):
        await asyncio.sleep(0)


def test_what_is_left_of_a_server_that_ended_is_ended_before_the_next_load_there() -> None:
    async def scene() -> None:
        one = Scene()
        await one.fleet.load(0, 0, "vllm", launch("a"))
        one.made[0].may_stop.clear()
        one.made[0].died.set()
        await ticks()
        assert one.told == [(0, 0, "it ended")], "it is told at once"
        again = asyncio.create_task(one.fleet.load(0, 0, "vllm", launch("a")))
        other = asyncio.create_task(one.fleet.load(1, 1, "vllm", launch("b")))
        await ticks()
        assert other.done(), "another device does not wait for it"
        assert not again.done()
        one.made[0].may_stop.set()
        await again
        assert one.made[0].did == ["start", "stop"]
        await one.fleet.stop()

    asyncio.run(scene())


def test_a_server_that_is_given_up_is_told_of_once_and_ended() -> None:
    async def scene() -> None:
        one = Scene()
        await one.fleet.load(0, 0, "vllm", launch("a"))
        one.fleet.end(0, 0, ServerFailed("it said nothing"))
        await ticks()
        one.made[0].died.set()
        await ticks()
        assert one.told == [(0, 0, "it said nothing")]
        assert one.made[0].did == ["start", "stop"]
        assert not one.fleet.servers
        await one.fleet.stop()

    asyncio.run(scene())


@pytest.mark.parametrize("wakes", [True, False])
def test_one_that_ends_while_it_wakes_answers_nobody(wakes: bool) -> None:
    async def scene() -> None:
        one = Scene()
        await one.fleet.load(0, 0, "vllm", launch("a"))
        await one.fleet.unload(0, 0)
        one.made[0].may_wake.clear()
        loading = asyncio.create_task(one.fleet.load(0, 0, "vllm", launch("a")))
        await ticks()
        one.made[0].wakes = wakes
        one.made[0].died.set()
        await ticks()
        one.made[0].may_wake.set()
        await loading
        assert one.fleet.servers == {(0, 0): one.made[1]}
        assert one.made[0].did[-1] == "stop"
        assert not one.told, "nobody was served by it"
        await one.fleet.stop()

    asyncio.run(scene())


def test_whatever_goes_wrong_with_a_sleeper_the_device_goes_on() -> None:
    async def scene() -> None:
        one = Scene()
        await one.fleet.load(0, 0, "vllm", launch("a"))
        one.made[0].wakes, one.made[0].error = False, ValueError("no JSON")
        await one.fleet.unload(0, 0)
        assert one.made[0].did == ["start", "stop"]
        assert not one.fleet.servers
        await one.fleet.load(0, 0, "vllm", launch("a"))
        await one.fleet.unload(0, 0)
        one.made[1].wakes, one.made[1].error = False, ValueError("no JSON")
        await one.fleet.load(0, 0, "vllm", launch("a"))
        assert one.made[1].did[-1] == "stop"
        await one.fleet.unload(0, 0)
        one.made[2].taken = -1
        await one.fleet.load(0, 1, "vllm", launch("b"), 50.0)
        assert one.made[2].did[-1] == "stop", "what cannot be measured may be in the way"
        await one.fleet.stop()

    asyncio.run(scene())


def test_one_that_does_not_end_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "_LONGEST_END_S", 0.01)

    async def scene() -> None:
        one = Scene(0)
        await one.fleet.load(0, 0, "vllm", launch("a"))
        one.made[0].may_stop.clear()
        await one.fleet.unload(0, 0)
        await one.fleet.load(0, 0, "vllm", launch("a"))
        one.made[1].may_stop.clear()
        one.made[1].died.set()
        await ticks()
        await one.fleet.load(0, 0, "vllm", launch("a"))
        assert one.fleet.servers == {(0, 0): one.made[2]}
        await one.fleet.stop()

    asyncio.run(asyncio.wait_for(scene(), 10.0))


def test_after_another_scenario_a_load_waits_for_the_sleepers_of_the_last() -> None:
    async def scene() -> None:
        one = Scene()
        await one.fleet.load(0, 0, "vllm", launch("a"))
        await one.fleet.unload(0, 0)
        one.made[0].may_stop.clear()
        one.fleet.move({})
        loading = asyncio.create_task(one.fleet.load(0, 0, "vllm", launch("b"), 0.0))
        await ticks()
        assert not loading.done()
        one.made[0].may_stop.set()
        await loading
        await one.fleet.stop()

    asyncio.run(scene())


def test_a_stop_in_the_midst_of_a_wake_or_an_end_leaves_no_server() -> None:
    async def scene() -> None:
        one = Scene()
        for model in (0, 1):
            await one.fleet.load(0, model, "vllm", launch("ab"[model]))
            await one.fleet.unload(0, model)
        one.made[0].may_wake.clear()
        one.fleet.spawn(one.fleet.load(0, 0, "vllm", launch("a")))
        await ticks()
        one.fleet.move({})
        one.made[1].may_stop.clear()
        await ticks()
        asyncio.get_running_loop().call_later(0.01, one.made[1].may_stop.set)
        await one.fleet.stop()
        assert [server.did[-1] for server in one.made] == ["stop", "stop"]

    asyncio.run(scene())
