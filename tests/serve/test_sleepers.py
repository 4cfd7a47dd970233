"""Gateways whose servers sleep, in storms: clients leave, servers die or fail, scenarios change."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache

import aiohttp
import pytest

from shunter.agents.registry import make_policy
from shunter.envs.scenario.scenario import Scenario
from shunter.envs.world.served import served_world
from shunter.envs.world.world import World
from shunter.errors import InputError
from shunter.serve.boundary import Launch, ServerFailed
from shunter.serve.gateway import gateway as gateways
from shunter.serve.gateway.gateway import Gateway, GatewaySettings
from shunter.serve.http.app import make_app
from shunter.serve.http.listen import listen
from shunter.serve.http.settings import HttpSettings
from shunter.serve.servers.fake.server import FakeServer
from tests.serve.gateways import SIZES, Running, play, until

FATES = ("well",) * 16 + ("fails", "breaks", "dies", "late")
ASLEEP = 0.1
"""Share of its memory that a sleeper keeps."""


@lru_cache
def sleeping_world(step_s: float, devices: int) -> World:
    """Three models of which one or two fit a device; what they are started with tells worlds apart."""
    args = ["--step-s", str(step_s)]
    models = [
        {"name": name, "catalog": size[0], "quantization": size[1], "args": args if name != "big" else []}
        for name, size in SIZES.items()
    ]
    places = [{"name": f"gpu{d}", "device": f"cuda:{d}", "gpu": "RTX 4070 Ti"} for d in range(devices)]
    limits = {"preemption": "drain", "max_batch": 2, "context_tokens": 512, "guard_s": 60}
    data = {"name": "three", "engine": "vllm", "models": models, "devices": places, "limits": limits}
    return served_world(Scenario.parse({**data, "workload": {"load": 0.5}}))


class Storm:
    """What goes wrong, and what may never be."""

    def __init__(self, seed: int, devices: int) -> None:
        self.random, self.devices = random.Random(seed), devices
        self.made: list[Sleepy] = []
        self.over: list[str] = []
        self.calm = False

    def make(self, engine: str, launch: Launch) -> Sleepy:
        self.made.append(Sleepy(launch, self))
        return self.made[-1]

    async def weather(self, server: Sleepy, what: str) -> None:
        """Something may go wrong while a server does something."""
        await asyncio.sleep(self.random.choice((0, 0, 0.002, 0.02)))
        fate = "well" if self.calm else self.random.choice(FATES)
        if fate == "fails":
            raise ServerFailed(f"{what} fails")
        if fate == "breaks":
            raise ValueError(f"{what} breaks")
        if fate in ("dies", "late") and server.pid:
            server.crash()
        if fate == "dies":
            await asyncio.sleep(0.005)
            raise ServerFailed(f"died in {what}")

    def look(self, device: str) -> None:
        """Notes a device that holds more than it has."""
        there = [server for server in self.made if server.launch.device == device]
        held = sum(server.held_bytes for server in there)
        capacity = sleeping_world(0.001, self.devices).scenario.devices[0].memory_bytes
        if held > capacity:
            self.over.append(f"{device} holds {held / 1e9:.1f} GB of {capacity / 1e9:.1f} GB")


class Sleepy(FakeServer):
    """A fake server that sleeps as vLLM's does."""

    def __init__(self, launch: Launch, storm: Storm) -> None:
        super().__init__(launch, progress_s=0.3, grace_s=0.01)
        self.storm, self.share, self.stopped = storm, 0.0, False

    async def start(self) -> None:
        self.share = 1.0
        self.storm.look(self.launch.device)
        try:
            await super().start()
            await self.storm.weather(self, "start")
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        await super().stop()
        self.stopped = True

    async def sleep(self, level: int) -> None:
        await self.storm.weather(self, "sleep")
        self.share = ASLEEP

    async def wake(self) -> None:
        self.share = 1.0
        self.storm.look(self.launch.device)
        await self.storm.weather(self, "wake")

    @property
    def held_bytes(self) -> int:
        """What it really takes: one that has died holds it until it is stopped, by its children."""
        return 0 if self.stopped else int(self.share * (self.launch.memory_bytes or 0))

    def memory_bytes(self) -> tuple[int, int]:
        if not self.pid and not self.storm.calm and self.storm.random.random() < 0.1:
            raise ProcessLookupError
        return self.held_bytes, 0


@asynccontextmanager
async def sleeping(storm: Storm) -> AsyncIterator[Running]:
    settings = GatewaySettings(sleep_level=1, backoff_s=0.02, hang_after_s=1.0)
    world = sleeping_world(0.001, storm.devices)
    gateway = Gateway(world, make_policy("cost-greedy"), storm.make, settings)
    ours = HttpSettings(port=0)
    listening = await listen(make_app(gateway, ours), ours, drain_s=0.1)
    task = asyncio.create_task(gateway.run())
    try:
        async with aiohttp.ClientSession(listening.url, connector=aiohttp.TCPConnector(limit=0)) as client:
            yield Running(gateway, client, storm.made)  # type: ignore[arg-type]
        assert not task.done(), "the gateway has ended"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await gateway.stop()
        await listening.stop()


async def client(run: Running, storm: Storm, count: int) -> list[int]:
    """Asks again and again, and now and then leaves."""
    got, chance = [], storm.random
    for _ in range(count):
        model, stream = chance.choice(list(SIZES)), chance.random() < 0.5
        asked = run.ask(model, stream=stream, max_tokens=chance.randint(1, 8))
        try:
            got.append((await asyncio.wait_for(asked, 0.01 if chance.random() < 0.2 else 15.0)).status)
        except TimeoutError:
            got.append(499)
    return got


async def chaos(run: Running, storm: Storm) -> None:
    """Kills servers, awake or asleep, and changes the scenario."""
    while True:
        await asyncio.sleep(storm.random.random() * 0.05)
        alive = [server for server in storm.made if server.pid]
        if alive and storm.random.random() < 0.5:
            storm.random.choice(alive).crash()
        if storm.random.random() < 0.1:
            step_s = storm.random.choice((0.001, 0.002))
            await run.gateway.change_world(sleeping_world(step_s, storm.devices))


@pytest.mark.parametrize(("seed", "devices"), [(0, 1), (1, 1), (2, 2)])
def test_a_storm_leaves_everyone_answered_and_no_device_blocked(
    seed: int, devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateways, "_TICK_S", 0.02)
    storm = Storm(seed, devices)

    async def scene() -> None:
        async with sleeping(storm) as run:
            harm = asyncio.create_task(chaos(run, storm))
            got = await asyncio.gather(*(client(run, storm, 12) for _ in range(8)))
            assert not harm.done(), harm.exception()
            harm.cancel()
            await asyncio.gather(harm, return_exceptions=True)
            assert {status for one in got for status in one} <= {200, 499, 502, 503, 504}
            storm.calm = True
            fleet, core = run.gateway.fleet, run.gateway.core
            await until(run.is_empty, "somebody was never answered", 10.0)
            await until(lambda: not any(map(core.operation, range(devices))), "a device is blocked", 10.0)
            for model in SIZES:
                await until(lambda m=model: run.model(m)["state"] != "failed", "it may be tried again")
                assert (await run.ask(model, max_tokens=2)).status == 200
            await until(run.is_empty, "somebody is still there")

            def is_known() -> bool:
                held = {(d, m) for d in range(devices) for m, _, _ in core.residents(d)}
                there = {*fleet.servers.values(), *fleet.asleep.values()}
                return set(fleet.servers) == held and there == {s for s in storm.made if s.pid}

            await until(is_known, "a server that nobody knows, or that has died")
            assert not storm.over
        assert not any(server.pid for server in storm.made)

    play(scene)


def test_a_scenario_says_no_other_sleep_than_the_gateway_has() -> None:
    scenario = sleeping_world(0.01, 1).scenario
    limits = scenario.limits.model_copy(update={"sleep": 1})
    world = served_world(scenario.model_copy(update={"limits": limits}))
    assert world.tables.sleep[0] == 1
    for level in (0, 2):
        with pytest.raises(
            InputError, match=rf"limits\.sleep must be 0, or what --sleep is: {level}\. Got 1"
        ):
            gateway_of(world, level)
    gateway = gateway_of(world, 1)
    assert gateway.core.tables.sleep[0] == 0  # its fleet knows who sleeps


def gateway_of(world: World, sleep_level: int) -> Gateway:
    settings = GatewaySettings(sleep_level=sleep_level)
    return Gateway(world, make_policy("cost-greedy"), lambda _, launch: FakeServer(launch), settings)
