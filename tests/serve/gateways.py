"""A gateway before fake servers on one loop, and its clients."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import aiohttp

from shunter.agents.base import Policy
from shunter.agents.registry import make_policy
from shunter.envs.scenario.scenario import Scenario
from shunter.envs.world.world import World, make_world
from shunter.serve.boundary import Launch
from shunter.serve.core.core import Core
from shunter.serve.core.effects import Start
from shunter.serve.gateway.gateway import Gateway, GatewaySettings
from shunter.serve.gateway.record import Recorder
from shunter.serve.http.app import make_app
from shunter.serve.http.listen import listen
from shunter.serve.http.settings import HttpSettings
from shunter.serve.servers.fake.engine import FakeTask
from shunter.serve.servers.fake.server import FakeServer
from tests.serve.http import stub

SIZES = {"big": ("Qwen2.5-14B", "Q4_K_M"), "small": ("Qwen2.5-3B", "Q8_0"), "other": ("Qwen3-8B", "Q4_K_M")}
"""Of these ``big`` fits a device alone, and the two others together."""


def world(*names: str, devices: int = 1, limits: dict[str, Any] | None = None, **models: Any) -> World:
    """Some of three models; further keys of each by its name."""
    return _world(names or tuple(SIZES), devices, json.dumps(limits or {}), json.dumps(models))


@lru_cache
def _world(names: tuple[str, ...], devices: int, limits: str, models: str) -> World:
    keys = json.loads(models)
    return make_world(
        Scenario.parse(
            {
                "name": "three",
                "engine": "llama-cpp",
                "models": [
                    {"name": name, "catalog": SIZES[name][0], "quantization": SIZES[name][1]}
                    | keys.get(name, {})
                    for name in names
                ],
                "devices": [{"name": f"gpu{i}", "gpu": "RTX 4070 Ti"} for i in range(devices)],
                "workload": {"load": 0.5},
                "limits": {"preemption": "drain", "max_batch": 2, "context_tokens": 512, "guard_s": 60}
                | json.loads(limits),
            }
        )
    )


@dataclass
class Running:
    """A gateway, the servers that it ever made, and a client of it."""

    gateway: Gateway
    client: aiohttp.ClientSession
    made: list[FakeServer] = field(default_factory=list)

    def post(self, model: str, path: str = "/v1/chat/completions", **fields: Any) -> Any:
        """Asks for an answer."""
        body = {"model": model, "messages": [{"role": "user", "content": "Say something"}]} | fields
        return self.client.post(path, json=body)

    async def ask(self, model: str, path: str = "/v1/chat/completions", **fields: Any) -> Answer:
        """Asks for an answer and reads it all."""
        async with self.post(model, path, **fields) as got:
            return Answer(got.status, dict(got.headers), await got.read())

    def servers(self, model: str) -> list[FakeServer]:
        """All servers that were made for a model, the last one last."""
        return [server for server in self.made if server.launch.model == model]

    def tasks(self, model: str) -> list[FakeTask]:
        """All requests that servers of a model had."""
        return [task for server in self.servers(model) for task in server.tasks]

    def model(self, name: str) -> dict[str, Any]:
        """A model as the snapshot has it."""
        return next(one for one in self.gateway.snapshot()["models"] if one["name"] == name)

    def residents(self, device: int = 0) -> set[str]:
        """Names of what a device holds."""
        return {one["model"] for one in self.gateway.snapshot()["devices"][device]["residents"]}

    def is_empty(self) -> bool:
        """Whether nobody is in the system, and no server has anybody."""
        core = self.gateway.core
        core.check()
        busy = [task for server in self.made for task in server.engine.running if task is not None]
        return not core.jobs and not self.gateway._tickets and not busy


@dataclass(frozen=True)
class Answer:
    """What a client got."""

    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        """The answer's JSON."""
        return json.loads(self.raw)

    @property
    def code(self) -> str:
        """An error's code."""
        return str(self.body["error"]["code"])


@lru_cache
def _compile() -> None:
    """Has every rule compiled once: where none is kept yet, that takes longer than any scene may."""
    core = Core(world("small", "other"), make_policy("cost-greedy"))
    core.begin(0)
    for now_ns in range(1, 6):
        job = core.arrive(now_ns, 0, 1)
        for effect in core.take():
            if isinstance(effect, Start):
                core.ended(now_ns, effect.device, "no" if now_ns == 1 else None, memory=now_ns == 1)
        if now_ns == 2:
            core.lost(now_ns, job, job.sends)
        elif now_ns == 3:
            core.died(now_ns, 0, 0, "no")
        elif now_ns == 4:
            core.finished(now_ns, job, 1)
        core.gone(now_ns, job, client=True)
        core.tick(now_ns)
    core.pause(6, set())
    Core(world("small", "other"), make_policy("cost-greedy")).take_over(7, core, {(0, 0): 0}, [0, 1])


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs a scene, which must not hang."""
    _compile()
    stub.play(scene)


async def until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    """Waits until something holds."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, what
        await asyncio.sleep(0.005)


@asynccontextmanager
async def running(
    of: World | None = None,
    *,
    policy: Policy | str = "cost-greedy",
    shadow: Policy | None = None,
    recorder: Recorder | None = None,
    progress_s: float = 10.0,
    http: dict[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[Running]:
    """Runs a gateway; a model's ``args`` are those of its fake servers."""
    made: list[FakeServer] = []

    def make(engine: str, launch: Launch) -> FakeServer:
        made.append(FakeServer(launch, progress_s=progress_s, grace_s=0.1))
        return made[-1]

    of = of or world()
    chosen = make_policy(policy) if isinstance(policy, str) else policy
    gateway = Gateway(of, chosen, make, GatewaySettings(**settings), shadow=shadow, recorder=recorder)
    ours = replace(HttpSettings(port=0), **http or {})
    listening = await listen(make_app(gateway, ours), ours, drain_s=0.1)
    task = asyncio.create_task(gateway.run())
    try:
        async with aiohttp.ClientSession(listening.url, connector=aiohttp.TCPConnector(limit=0)) as client:
            yield Running(gateway, client, made)
        assert not task.done(), "the gateway has ended"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await gateway.stop()
        await listening.stop()
