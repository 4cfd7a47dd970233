"""The core on a real clock: its events come from clients and servers, its effects start and end servers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from shunter.agents.base import Policy
from shunter.agents.parameters import for_world
from shunter.envs.world.world import World
from shunter.errors import InputError, UnknownNameError
from shunter.serve.boundary import Asked, Launch, Refused, Server, ServerFailed, Usage
from shunter.serve.core.core import Core
from shunter.serve.core.effects import Broken, Dispatch, Effect, Job, Refuse, Requeued, Start
from shunter.serve.core.learning import keep_learned
from shunter.serve.gateway.admission import Facts, admit
from shunter.serve.gateway.fleet import Fleet
from shunter.serve.gateway.lateness import end_late, silent_tokens
from shunter.serve.gateway.launches import Kept, alike, compare
from shunter.serve.gateway.operating import note_memory, operate
from shunter.serve.gateway.record import Recorder
from shunter.serve.gateway.showing import list_models, snapshot, why_not_ready
from shunter.serve.gateway.telling import Teller
from shunter.serve.gateway.ticket import GatewayTicket

__all__ = ["Gateway", "GatewaySettings"]

_LOG = logging.getLogger(__name__)

_TICK_S = 0.5
_POLL_S = 0.02


@dataclass(frozen=True)
class GatewaySettings:
    """What an operator decides about the gateway.

    Attributes:
        max_queue: Requests that may wait for one model; further ones are turned away with 429.
        timeout_s: Longest wait for a server, 504 after that.
        backoff_s: Seconds until a load that failed is tried again, doubled every time.
        attempts: Servers that a request may lose before it has failed.
        hang_after_s: Longest that a server may say nothing to a request that it has, beside ten times what
            is predicted; then it is ended, and started again.
        sleep_level: Servers that can sleep (vLLM) do instead of ending: 1, weights stay in the host's memory;
            2, they are dropped; 0: they end.
    """

    max_queue: int = 512
    timeout_s: float = 1800.0
    backoff_s: float = 10.0
    attempts: int = 3
    hang_after_s: float = 300.0
    sleep_level: int = 0


class Gateway:
    """Serves a world's models by a policy; see ``boundary.Scheduler`` for what it offers the HTTP side.

    Args:
        world: The compiled scenario.
        policy: Decides.
        make: Makes the server of a launch, for an engine's name.
        settings: What the operator decides.
        shadow: Is asked too, and only noted.
        recorder: Writes down what happens.
        fallback: Why another policy than the one asked for decides; None: it does not.
    """

    def __init__(
        self,
        world: World,
        policy: Policy,
        make: Callable[[str, Launch], Server],
        settings: GatewaySettings,
        *,
        shadow: Policy | None = None,
        recorder: Recorder | None = None,
        fallback: str | None = None,
    ) -> None:
        self.world, self.settings, self.fallback = world, settings, fallback
        self.recorder, self._begun_s = recorder, time.monotonic()
        self._teller = Teller(self)
        self.tell = self._teller.tell
        self.core = self._core_of(world, policy, shadow)
        self._name_models()
        self.facts = [Facts() for _ in self.names]
        self.fleet = Fleet(make, self._ended, settings.sleep_level, self._teller.server)
        self._tickets: dict[int, GatewayTicket] = {}
        self.measured_bytes: list[int | None] = [None] * world.devices
        self.refused, self.closing, self._changing = 0, False, asyncio.Lock()
        if recorder is not None:
            recorder.follow(self.core, world)

    def _core_of(self, world: World, policy: Policy, shadow: Policy | None) -> Core:
        level, ours = world.scenario.limits.sleep, self.settings.sleep_level
        if level not in (0, ours):
            raise InputError("limits.sleep", f"be 0, or what --sleep is: {ours}", level)
        return Core(
            world,
            policy,
            shadow=shadow,
            max_queue=self.settings.max_queue,
            attempts=self.settings.attempts,
            backoff_s=self.settings.backoff_s,
            hang_after_s=self.settings.hang_after_s,
            watch=self._teller,
        )

    def _name_models(self) -> None:
        models = self.world.scenario.models
        self.names = [model.name for model in models]
        self.index = {name: m for m, name in enumerate(self.names)}
        self.index |= {alias: m for m, model in enumerate(models) for alias in model.aliases}

    # Its life

    async def run(self) -> None:
        """Begins to decide, and goes on until cancelled."""
        self.core.begin(self.now_ns())
        self.act()
        while True:
            await asyncio.sleep(_TICK_S)
            self.core.tick(self.now_ns())
            end_late(self)
            self.act()
            self.measured_bytes = [self.fleet.memory_bytes(d) for d in range(self.world.devices)]

    async def drain(self, longest_s: float) -> None:
        """Waits until nobody is in the system, at most so long."""
        self.closing = True
        until_s = time.monotonic() + longest_s
        while self._tickets and time.monotonic() < until_s:
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """Ends all servers; whoever still waits is refused."""
        self.closing = True
        for ticket in self.tickets():
            self.refuse(ticket, Refused(503, "shutting_down", "The gateway is shutting down.", 5.0))
        if self.recorder is not None:
            self.recorder.close()
        await self.fleet.stop()
        self._teller.followers.end()

    def now_ns(self) -> int:
        """Nanoseconds since the gateway was made."""
        return round((time.monotonic() - self._begun_s) * 1e9)

    async def change_world(self, world: World) -> list[str]:
        """Goes on with another scenario: only servers that are started otherwise in it end, when they may.

        Until these have run to their end nothing is loaded; all else goes on.

        Returns:
            What was changed, a line each.
        """
        async with self._changing:
            return await self._change_world(world)

    async def _change_world(self, world: World) -> list[str]:
        if self.world.content() == world.content():
            return ["nothing has changed"]
        core = self._core_of(world, self.core.policy, self.core.shadow)
        try:
            kept, ended = await self._make_way(world)
        except BaseException:
            self.core.pause(self.now_ns(), None)
            self.act()
            raise
        old, old_names = self.core, self.names
        core.policy = for_world(old.policy, world)  # a champion may have come meanwhile
        self.world, self.core = world, core
        facts = dict(zip(old_names, self.facts, strict=True))
        self._name_models()
        self.facts = [facts.get(name) or Facts() for name in self.names]
        self.measured_bytes = [None] * world.devices
        self.fleet.move({at: to for at, (to, _) in kept.items()})
        residents = dict(kept.values())
        moved = [self.index.get(name, -1) for name in old_names]
        devices = {at[0]: to[0] for at, (to, _) in kept.items()}
        for job in old.jobs.values():
            job.device = devices[job.device] if job.device >= 0 else -1
        if self.recorder is not None:
            self.recorder.follow(core, world)
        keep_learned(old.world.tables, old.tables, core.tables, alike(old.world, world))
        for (device, model), level in residents.items():
            note_memory(self, device, model, level)
        for job in core.take_over(self.now_ns(), old, residents, moved):
            ticket = self._tickets[job.id]
            self._forget(ticket, Refused(404, "model_not_found", f"{ticket.model} is not served any more."))
        self.act()
        lines = [*ended, *(f"{name} is new" for name in self.names if name not in old_names)]
        return lines or ["what is loaded stays as it is"]

    async def _make_way(self, world: World) -> tuple[Kept, list[str]]:
        """Has all unloaded that is another in a world; what stays, and a line for each that does not."""
        ended: dict[str, None] = {}
        while True:
            kept, unwanted = compare(self.core, world)
            if self.core.paused and self.core.is_quiet and not unwanted:
                return kept, list(ended)
            for device, model in unwanted:
                ended[f"{self.names[model]} on {self.world.scenario.devices[device].name} is unloaded"] = None
            self.core.pause(self.now_ns(), set(unwanted))
            self.act()
            await asyncio.sleep(_POLL_S)

    def change_policy(self, policy: Policy, fallback: str | None = None) -> None:
        """Another policy decides from now on; ``fallback`` is why it is not the one asked for."""
        self.core.policy, self.fallback = for_world(policy, self.world), fallback
        if self.recorder is not None:
            self.recorder.change_policy(policy.name)
        self.tell("champion", policy=policy.name)

    # What clients do

    def submit(self, asked: Asked) -> GatewayTicket:
        """See ``boundary.Scheduler.submit``."""
        try:
            model = admit(self, asked)
        except Refused as refused:
            self.refused += 1
            self.tell("refused", model=asked.model if asked.model in self.index else None, code=refused.code)
            raise
        context_tokens = self.world.scenario.context_of(self.world.scenario.models[model])
        prompt_tokens = self.facts[model].prompt_tokens(asked)
        silent = silent_tokens(asked, context_tokens)
        job = self.core.arrive(self.now_ns(), model, prompt_tokens, silent)
        ticket = GatewayTicket(
            self, asked, job, job.id, self.names[model], asyncio.get_running_loop().create_future()
        )
        self._tickets[job.id] = ticket
        self.tell("arrival", id=job.id, model=ticket.model)
        self.act()
        return ticket

    def progressed(self, ticket: GatewayTicket, tokens: int) -> None:
        """So many tokens of a request are out."""
        if ticket.job.first_ns < 0:
            self.tell("first", id=ticket.id, model=ticket.model)
        self.core.progressed(self.now_ns(), ticket.job, tokens)

    def done(self, ticket: GatewayTicket, usage: Usage) -> None:
        """A request has its answer."""
        if not self._close(ticket):
            return
        self.facts[ticket.job.model].learn(ticket.asked, usage)
        self.core.finished(self.now_ns(), ticket.job, usage.completion_tokens)
        self._write_down(ticket, "done", usage)
        self.tell("done", id=ticket.id, model=ticket.model)
        self.act()

    def gone(self, ticket: GatewayTicket, *, client: bool) -> None:
        """A request has ended early."""
        if not self._close(ticket):
            return
        self.core.gone(self.now_ns(), ticket.job, client=client)
        self.facts[ticket.job.model].failed += not client
        self._write_down(ticket, "cancelled" if client else "failed", Usage())
        self.tell("gone", id=ticket.id, model=ticket.model)
        self.act()

    def lost(self, ticket: GatewayTicket) -> bool:
        """A request has lost its server; whether it waits again."""
        if ticket.over:
            return False
        waits = self.core.lost(self.now_ns(), ticket.job, ticket.sends)
        if not waits:
            text = f"{ticket.model}: its servers failed too often."
            self._forget(ticket, Refused(503, "server_failed", text))
        self.act()
        return waits

    def _close(self, ticket: GatewayTicket) -> bool:
        if ticket.over:
            return False
        ticket.over = True
        self._tickets.pop(ticket.id, None)
        return True

    def tickets(self) -> list[GatewayTicket]:
        """The requests that are in the system."""
        return list(self._tickets.values())

    def refuse(self, ticket: GatewayTicket, refused: Refused) -> None:
        """Ends a request that its server, if it has one, says nothing to yet."""
        if not ticket.over:
            self.core.gone(self.now_ns(), ticket.job, client=False)
            self._forget(ticket, refused)
            self.act()

    def cut(self, job: Job, refused: Refused) -> None:
        """Ends a request that a server has, which says nothing."""
        ticket = self._tickets[job.id]
        self._forget(ticket, refused)
        ticket.cut(refused)

    def _forget(self, ticket: GatewayTicket, refused: Refused) -> None:
        """Ends a request that the core has no more."""
        if self._close(ticket):
            if ticket.job.model >= 0:
                self.facts[ticket.job.model].failed += 1
            self._write_down(ticket, refused.code, Usage())
            self.tell("refused", id=ticket.id, model=ticket.model, code=refused.code)
            if not ticket.sent.done():
                ticket.sent.set_exception(refused)
                ticket.sent.exception()  # whoever waited may have left

    def _write_down(self, ticket: GatewayTicket, how: str, usage: Usage) -> None:
        if self.recorder is not None:
            self.recorder.request(ticket.asked, ticket.job, ticket.model, how, usage, self.now_ns())

    # What is to be done

    def act(self) -> None:
        """Does what the core has decided."""
        for effect in self.core.take():
            self._do(effect)

    def _do(self, effect: Effect) -> None:
        if isinstance(effect, Start):
            self.fleet.spawn(operate(self, effect))
            return
        ticket = self._tickets.get(effect.id)
        if ticket is None:
            return
        if isinstance(effect, Dispatch):
            server = self.fleet.servers[effect.device, effect.model]
            device = self.world.scenario.devices[effect.device].name
            self.tell("dispatch", id=ticket.id, model=ticket.model, device=device)
            if not ticket.sent.done():
                ticket.sent.set_result((server.url, ticket.job.sends))
        elif isinstance(effect, Requeued):
            ticket.sent = asyncio.get_running_loop().create_future()
        elif isinstance(effect, Refuse):
            failure = self.core.failure(ticket.job.model)
            why = "its model did not load" if failure is None else failure.reason
            left_s = 1.0 if failure is None else max(1.0, (failure.until_ns - self.now_ns()) * 1e-9)
            self._forget(ticket, Refused(503, "model_failed", f"{ticket.model}: {why}", left_s))
        elif isinstance(effect, Broken):
            self._forget(ticket, Refused(503, "server_failed", f"{ticket.model}: its server has ended."))

    def _ended(self, device: int, model: int, failed: ServerFailed) -> None:
        """A server has ended by itself."""
        place = self.world.scenario.devices[device].name
        self.tell("failed", model=self.names[model], device=place, why=str(failed))
        self.core.died(self.now_ns(), device, model, str(failed))
        self.act()

    # What there is

    def models(self) -> list[dict[str, Any]]:
        """See ``boundary.Scheduler.models``."""
        return list_models(self)

    def snapshot(self) -> dict[str, Any]:
        """See ``boundary.Scheduler.snapshot``."""
        return snapshot(self)

    def ready(self) -> str | None:
        """See ``boundary.Scheduler.ready``."""
        return why_not_ready(self)

    def unload(self, model: str | None) -> list[str]:
        """See ``boundary.Scheduler.unload``."""
        if model is not None and model not in self.index:
            raise Refused(404, "model_not_found", str(UnknownNameError("model", model, self.index)))
        wanted = range(self.world.models) if model is None else [self.index[model]]
        found = [self.names[m] for m in wanted if self.core.unload(self.now_ns(), m)]
        self.act()
        return found

    def events(self) -> AsyncIterator[dict[str, Any]]:
        """See ``boundary.Scheduler.events``."""
        return self._teller.followers.follow()
