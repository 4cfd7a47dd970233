"""``shunter serve`` as a function: a gateway with its HTTP side and its signals."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from shunter.agents.base import Policy
from shunter.agents.learned.file import distance_from_training
from shunter.agents.learned.shipped import SHIPPED, shipped_policy
from shunter.agents.model_uri import version_uri
from shunter.agents.registry import make_policy
from shunter.envs.scenario.scenario import Scenario, load_scenario
from shunter.envs.scenario.workload import AssumedWorkload
from shunter.envs.world.served import served_world
from shunter.envs.world.world import World
from shunter.errors import InputError
from shunter.serve.boundary import Launch, Server
from shunter.serve.core.chooser import FALLBACK
from shunter.serve.core.core import Core
from shunter.serve.core.effects import Start
from shunter.serve.gateway.gateway import Gateway, GatewaySettings
from shunter.serve.gateway.launches import launch_of
from shunter.serve.gateway.record import Recorder
from shunter.serve.http.app import make_app
from shunter.serve.http.listen import Listening, listen
from shunter.serve.http.settings import HttpSettings
from shunter.serve.servers.making import make_server
from shunter.serve.servers.processes.leftovers import reap_leftovers
from shunter.serve.servers.starting import ServerSettings

__all__ = ["SHIPPED", "Serving", "serve"]

"""Name by which the policy that shunter ships is asked for."""

_CHAMPION_S = 30.0


@dataclass(frozen=True)
class Serving:
    """What ``serve`` is to do.

    Attributes:
        scenario: Scenario file.
        performance: Fitted performance model; None: published figures for GPUs of the catalogue, else
            assumed from sizes.
        policy: Name, policy file, ``models:/NAME@ALIAS``, or ``shipped``.
        shadow: Another one that is asked too and only noted.
        http: How it listens.
        gateway: Bounds on queues and waits.
        servers: How servers are started.
        record: Folder that requests and decisions are written to; None: nowhere.
        log_text: Whether texts of requests and answers are written there too.
        drain_s: Longest wait for running requests when it is told to end.
    """

    scenario: Path
    servers: ServerSettings
    performance: Path | None = None
    policy: str = SHIPPED
    shadow: str | None = None
    http: HttpSettings = field(default_factory=HttpSettings)
    gateway: GatewaySettings = field(default_factory=GatewaySettings)
    record: Path | None = None
    log_text: bool = False
    drain_s: float = 60.0


def servable(scenario: Scenario) -> Scenario:
    """The scenario, which can be served.

    Raises:
        InputError: A model or a device is not a real one.
    """
    for device in scenario.devices:
        if device.device is None:
            rule = "be given to serve on, like cuda:0-20GB or cpu"
            raise InputError(f"devices.{device.name}.device", rule, device.device)
    for model in scenario.models:
        if model.checkpoint is None:
            raise InputError(f"models.{model.name}.checkpoint", "be given to serve it", model.checkpoint)
        if not model.checkpoint.exists():
            raise InputError(f"models.{model.name}.checkpoint", "be there", str(model.checkpoint))
    return scenario


def world_of(what: Serving) -> World:
    """The compiled scenario to serve.

    Raises:
        InputError: A field of the scenario breaks a rule, or what its servers need is not there.
    """
    world = served_world(servable(load_scenario(what.scenario, served=True)), what.performance)
    for device in range(world.devices):  # binaries and options are looked at before the first client comes
        for model in range(world.models):
            _make(what.servers, *launch_of(world, device, model, 0))
    return world


def policy_of(name: str, world: World) -> tuple[Policy, str | None]:
    """The policy to decide by, and why it is not the one that was asked for.

    The shipped policy gives way to cost-greedy where the scenario is unlike all that it was trained on.
    """
    if name.startswith("models:/"):
        return make_policy(version_uri(name)), None  # by its number, so that records say which it was
    if name != SHIPPED:
        return make_policy(name), None
    policy = shipped_policy()
    # How much will be asked for nobody knows: what a scenario says of it is a guess.
    beyond = [line for line in distance_from_training(policy, world) if not line.startswith("load: ")]
    if not beyond:
        return policy, None
    more = f" and {len(beyond) - 1} things more" if len(beyond) > 1 else ""
    return make_policy(FALLBACK), f"the shipped policy has not seen the like of this: {beyond[0]}{more}"


async def serve(what: Serving, say: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT, a second of which ends it at once; SIGHUP reads the scenario again.

    Args:
        what: What to do.
        say: Called with a line for people, now and then.

    Raises:
        InputError: A field of the scenario or an option breaks a rule.
    """
    world = world_of(what)
    policy, fallback = policy_of(what.policy, world)
    shadow = None if what.shadow is None else make_policy(what.shadow)
    reaped = reap_leftovers(what.servers.state_dir)
    if reaped:
        say(f"ended {len(reaped)} servers that a gateway before left behind")
    recorder = None if what.record is None else Recorder(what.record, world, policy.name)
    make = partial(_make, what.servers)
    gateway = Gateway(world, policy, make, what.gateway, shadow=shadow, recorder=recorder, fallback=fallback)
    rehearse(world, policy)
    texts = recorder.texts if recorder is not None and what.log_text else None
    if texts is not None:
        say(f"warning: what clients ask and are answered is written to {texts} (--log-text)")
    app = make_app(gateway, what.http, text_log=texts)
    listening = await listen(app, what.http, drain_s=what.drain_s)
    ending, at_once, again = asyncio.Event(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        (at_once if ending.is_set() else ending).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGHUP, again.set)
    say(f"{listening.url} serves {', '.join(gateway.names)} by {policy.name}")
    if fallback is not None:
        say(f"not by the policy that shunter ships: {fallback}")
    workload = world.scenario.workload
    if isinstance(workload, AssumedWorkload):
        say(f"the scenario has no workload: {workload.load:.0%} of what its devices can serve is expected")
    tasks = [gateway.run(), _read_again(what, gateway, again, say)]
    if what.policy.startswith("models:/"):
        tasks.append(_follow_champion(what.policy, gateway, say))
    running = [loop.create_task(task) for task in tasks]
    try:
        await _first_of(*running, ending.wait())
        say("ending: what runs may end, nothing more is taken")
        await _first_of(gateway.drain(what.drain_s), at_once.wait())
    finally:
        for task in running:
            task.cancel()
        # What is not ended then is ended by the kernel, with this process.
        await _first_of(_ended(gateway, listening), at_once.wait())
        say(summary(gateway))


async def _first_of(*waited: Awaitable[Any]) -> None:
    """Waits for one of several, and cancels the others but for tasks of somebody else."""
    tasks = [asyncio.ensure_future(one) for one in waited]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task, one in zip(tasks, waited, strict=True):
            if task is not one:
                task.cancel()


async def _ended(gateway: Gateway, listening: Listening) -> None:
    await gateway.stop()
    with contextlib.suppress(Exception):
        await listening.stop()


def summary(gateway: Gateway) -> str:
    """What a gateway has done, in a line."""
    totals, shadow = gateway.core.totals, gateway.core.shadow
    line = (
        f"served {totals.served} requests, {totals.failed} failed, {totals.cancelled} were cancelled; "
        f"{totals.loads} loads, {totals.evictions} evictions"
    )
    if shadow is None:
        return line
    return f"{line}; {shadow.name} would have decided {totals.differed} of {totals.compared} times otherwise"


def rehearse(world: World, policy: Policy) -> None:
    """Plays a request on a core of its own: where no compiled code is kept yet, it is compiled here.

    The first decision would take a minute otherwise, in which the gateway answers nobody.
    """
    core = Core(world, policy)
    core.begin(0)
    job = core.arrive(1, 0, 1)
    for effect in core.take():
        if isinstance(effect, Start):
            core.ended(2, effect.device)
    core.finished(3, job, 1)
    core.gone(5, core.arrive(4, 0, 1), client=True)


def _make(settings: ServerSettings, engine: str, launch: Launch) -> Server:
    return make_server(engine, launch, settings)


async def _read_again(
    what: Serving, gateway: Gateway, again: asyncio.Event, say: Callable[[str], None]
) -> None:
    """Takes up a changed scenario whenever it is told to; the old one stays if it is wrong."""
    while True:
        await again.wait()
        again.clear()
        try:
            world = await asyncio.to_thread(world_of, what)
            policy, fallback = await asyncio.to_thread(policy_of, what.policy, world)
            lines = await gateway.change_world(world)
        except Exception as error:  # whatever is wrong with a file, what is served goes on
            say(f"the scenario stays as it was: {error}")
            continue
        if what.policy == SHIPPED and policy.name != gateway.core.policy.name:
            gateway.change_policy(policy, fallback)
            lines.append(f"{policy.name} decides" + (f": {fallback}" if fallback else ""))
        say(f"the scenario was read again: {'; '.join(lines)}")


async def _follow_champion(uri: str, gateway: Gateway, say: Callable[[str], None]) -> None:
    """Takes up a policy that has become champion; no request notices."""
    known = gateway.core.policy.name
    while True:
        await asyncio.sleep(_CHAMPION_S)
        try:
            policy, _ = await asyncio.to_thread(policy_of, uri, gateway.world)
        except Exception as error:  # a registry may be away for a while
            say(f"{uri} could not be looked up: {error}")
            continue
        if policy.name != known:
            known = policy.name
            gateway.change_policy(policy)
            say(f"{policy.name} decides from now on")
