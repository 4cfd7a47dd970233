"""``shunter serve`` as a function: a gateway with its HTTP side and its signals."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from shunter.agents.base import Policy
from shunter.agents.learned.file import distance_from_training
from shunter.agents.registry import make_policy
from shunter.envs.scenario.scenario import Scenario, load_scenario
from shunter.envs.world.world import World, make_world
from shunter.errors import InputError, ShunterError
from shunter.models.assumed import AssumedPerformance
from shunter.serve.boundary import Launch, Server
from shunter.serve.core import Core, Start
from shunter.serve.gateway import Gateway, GatewaySettings, launch_of
from shunter.serve.http.app import make_app
from shunter.serve.http.listen import listen
from shunter.serve.http.settings import HttpSettings
from shunter.serve.record import Recorder
from shunter.serve.servers.leftovers import reap_leftovers
from shunter.serve.servers.making import make_server
from shunter.serve.servers.starting import ServerSettings

__all__ = ["SHIPPED", "Serving", "serve"]

SHIPPED = "shipped"
"""Name by which the policy that shunter ships is asked for."""

_FALLBACK = "cost-greedy"
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
    drain_s: float = 60.0


def drained(scenario: Scenario) -> Scenario:
    """The scenario as servers are scheduled: what runs is drained.

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
    limits = scenario.limits.model_copy(update={"preemption": "drain"})
    return scenario.model_copy(update={"limits": limits})


def world_of(what: Serving) -> World:
    """The compiled scenario to serve.

    Raises:
        InputError: A field of the scenario breaks a rule.
    """
    scenario = drained(load_scenario(what.scenario))
    if what.performance is None and any(device.gpu is None for device in scenario.devices):
        return make_world(scenario, AssumedPerformance())
    return make_world(scenario, what.performance)


def policy_of(name: str, world: World) -> tuple[Policy, str | None]:
    """The policy to decide by, and why it is not the one that was asked for.

    The shipped policy gives way to cost-greedy where the scenario is unlike all that it was trained on.
    """
    if name != SHIPPED:
        return make_policy(name), None
    path = Path(__file__).parents[1] / "data" / "policies" / "generalist.safetensors"
    policy = make_policy(str(path))
    beyond = distance_from_training(policy, world)
    if not beyond:
        return policy, None
    more = f" and {len(beyond) - 1} things more" if len(beyond) > 1 else ""
    return make_policy(_FALLBACK), f"the shipped policy has not seen the like of this: {beyond[0]}{more}"


async def serve(what: Serving, say: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT; SIGHUP reads the scenario again.

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
    settings = replace(what.gateway, fallback=fallback)
    make = partial(_make, what.servers)
    gateway = Gateway(world, policy, make, settings, shadow=shadow, recorder=recorder)
    for device in range(world.devices):  # binaries and options are looked at before the first client comes
        for model in range(world.models):
            _make(what.servers, *launch_of(world, device, model, 0))
    rehearse(world, policy)
    listening = await listen(make_app(gateway, what.http), what.http, drain_s=what.drain_s)
    loop, ending = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: loop.create_task(_read_again(what, gateway, say)))
    say(f"{listening.url} serves {', '.join(gateway.names)} by {policy.name}")
    if fallback is not None:
        say(f"not by the policy that shunter ships: {fallback}")
    running = [loop.create_task(gateway.run())]
    if what.policy.startswith("models:/"):
        running.append(loop.create_task(_follow_champion(what.policy, gateway, say)))
    try:
        done, _ = await asyncio.wait(
            [*running, loop.create_task(ending.wait())], return_when="FIRST_COMPLETED"
        )
        for task in done:
            task.result()
        say("ending: what runs may end, nothing more is taken")
        await gateway.drain(what.drain_s)
    finally:
        for task in running:
            task.cancel()
        await gateway.stop()
        with contextlib.suppress(Exception):
            await listening.stop()


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


async def _read_again(what: Serving, gateway: Gateway, say: Callable[[str], None]) -> None:
    """Takes up a changed scenario; the old one stays if it is wrong."""
    try:
        world = await asyncio.to_thread(world_of, what)
        lines = await gateway.change_world(world)
    except ShunterError as error:
        say(f"the scenario stays as it was: {error}")
        return
    say(f"the scenario was read again: {'; '.join(lines) or 'nothing has changed'}")


async def _follow_champion(uri: str, gateway: Gateway, say: Callable[[str], None]) -> None:
    """Takes up a policy that has become champion; no request notices."""
    known = gateway.core.policy.name
    while True:
        await asyncio.sleep(_CHAMPION_S)
        try:
            policy = await asyncio.to_thread(make_policy, uri)
        except Exception as error:  # a registry may be away for a while
            say(f"{uri} could not be looked up: {error}")
            continue
        if policy.name != known:
            known = policy.name
            gateway.change_policy(policy)
            say(f"{policy.name} decides from now on")
