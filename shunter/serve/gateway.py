"""The core on a real clock: its events come from clients and servers, its effects start and end servers."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shunter.agents.base import Policy
from shunter.catalog.devices import parse_device
from shunter.envs.state.records import FAR_NS
from shunter.envs.world.world import World
from shunter.serve.boundary import Asked, Launch, Refused, Server, ServerFailed, Usage
from shunter.serve.core import Broken, Core, Dispatch, Effect, Job, Refuse, Requeued, Start
from shunter.serve.record import Recorder

__all__ = ["Gateway", "GatewaySettings", "launch_of"]

_TICK_S = 0.5
_CHARS_PER_TOKEN = 4.0
_LEARNING = 0.05
"""Weight of a new answer in what a model's tokens are long."""

_SURELY = 2.0
"""A prompt is beyond its context for sure if the estimate is so many times too long; else the server says."""


@dataclass(frozen=True)
class GatewaySettings:
    """What an operator decides about the gateway.

    Attributes:
        max_queue: Requests that may wait for one model; further ones are turned away with 429.
        timeout_s: Longest wait for a server, 504 after that.
        backoff_s: Seconds until a load that failed is tried again, doubled every time.
        attempts: Servers that a request may lose before it has failed.
        fallback: Why another policy than the one asked for decides; None: it does not.
    """

    max_queue: int = 512
    timeout_s: float = 1800.0
    backoff_s: float = 10.0
    attempts: int = 3
    fallback: str | None = None


@dataclass
class _Ticket:
    """A request as the HTTP side holds it."""

    gateway: Gateway
    asked: Asked
    job: Job
    id: int
    model: str
    sent: asyncio.Future[str]
    sends: int = 0
    over: bool = False
    server_url: str = ""

    async def server(self) -> str:
        self.server_url = await asyncio.shield(self.sent)
        self.sends = self.job.sends
        return self.server_url

    def progressed(self, tokens: int) -> None:
        self.gateway.progressed(self, tokens)

    def done(self, usage: Usage) -> None:
        self.gateway.done(self, usage)

    def gone(self, *, client: bool) -> None:
        self.gateway.gone(self, client=client)

    async def retry(self) -> bool:
        await asyncio.sleep(0.1 * (1 + self.job.attempts))  # a server that has ended is noticed meanwhile
        return self.gateway.lost(self)


@dataclass
class _Model:
    """What the gateway learns of a model's requests.

    Attributes:
        chars_per_token: Of prompts.
        answers: How many that was learned from.
        refused: Requests that were turned away.
        failed: Requests that got an error.
    """

    chars_per_token: float = _CHARS_PER_TOKEN
    answers: int = 0
    refused: int = 0
    failed: int = 0


class Gateway:
    """Serves a world's models by a policy; see ``boundary.Scheduler`` for what it offers the HTTP side.

    Args:
        world: The compiled scenario.
        policy: Decides.
        make: Makes the server of a launch, for an engine's name.
        settings: What the operator decides.
        shadow: Is asked too, and only noted.
        recorder: Writes down what happens.
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
    ) -> None:
        self.world, self.settings, self._make = world, settings, make
        self._recorder = recorder
        self._begun_s = time.monotonic()
        self.core = self._core_of(world, policy, shadow)
        self._name_models()
        self._facts = [_Model() for _ in self.names]
        self._servers: dict[tuple[int, int], Server] = {}
        self._tickets: dict[int, _Ticket] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._followers: set[_Follower] = set()
        self._measured_bytes: list[int | None] = [None] * world.devices
        self._refused = 0
        self._closing = False
        if recorder is not None:
            recorder.follow(self.core, world)

    def _core_of(self, world: World, policy: Policy, shadow: Policy | None) -> Core:
        return Core(
            world,
            policy,
            shadow=shadow,
            max_queue=self.settings.max_queue,
            attempts=self.settings.attempts,
            backoff_s=self.settings.backoff_s,
            on_decision=self._decided,
        )

    def _name_models(self) -> None:
        models = self.world.scenario.models
        self.names = [model.name for model in models]
        self._index = {name: m for m, name in enumerate(self.names)}
        self._index |= {alias: m for m, model in enumerate(models) for alias in model.aliases}

    # Its life

    async def run(self) -> None:
        """Begins to decide, and goes on until cancelled."""
        self.core.begin(self.now_ns())
        self._act()
        while True:
            await asyncio.sleep(_TICK_S)
            self.core.tick(self.now_ns())
            self._expire()
            self._act()
            self._measure()

    async def drain(self, longest_s: float) -> None:
        """Waits until nobody is in the system, at most so long."""
        self._closing = True
        until_s = time.monotonic() + longest_s
        while self._tickets and time.monotonic() < until_s:
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """Ends all servers; whoever still waits is refused."""
        self._closing = True
        for ticket in list(self._tickets.values()):
            self._refuse(ticket, Refused(503, "shutting_down", "The gateway is shutting down.", 5.0))
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(server.stop() for server in self._servers.values()), return_exceptions=True)
        self._servers.clear()
        for follower in self._followers:
            follower.end()
        if self._recorder is not None:
            self._recorder.close()

    def now_ns(self) -> int:
        """Nanoseconds since the gateway was made."""
        return round((time.monotonic() - self._begun_s) * 1e9)

    async def change_world(self, world: World) -> list[str]:
        """Goes on with another scenario: only servers that are started otherwise in it end, when they may.

        Until these have run to their end nothing is loaded; all else goes on.

        Returns:
            What was changed, a line each.
        """
        if self.world.content() == world.content():
            return []
        kept, unwanted = self._compare(world)
        lines = [
            f"{self.names[m]} on {self.world.scenario.devices[d].name} is unloaded"
            for d, m in sorted(unwanted)
        ]
        self.core.pause(self.now_ns(), set(unwanted))
        self._act()
        while not self.core.is_quiet:
            await asyncio.sleep(0.02)
        kept, _ = self._compare(world)  # others may have ended meanwhile
        old, old_names, servers = self.core, self.names, self._servers
        core = self._core_of(world, old.policy, old.shadow)
        self.world, self.core = world, core
        facts = dict(zip(old_names, self._facts, strict=True))
        self._name_models()
        self._facts = [facts.get(name) or _Model() for name in self.names]
        self._measured_bytes = [None] * world.devices
        self._servers = {to: servers[at] for at, (to, _) in kept.items()}
        residents = dict(kept.values())
        moved = [self._index.get(name, -1) for name in old_names]
        devices = {at[0]: to[0] for at, (to, _) in kept.items()}
        for job in old.jobs.values():
            job.device = devices[job.device] if job.device >= 0 else -1
        for job in core.take_over(self.now_ns(), old, residents, moved):
            text = f"{old_names[job.model]} is not served any more."
            self._forget(self._tickets[job.id], Refused(404, "model_not_found", text))
        if self._recorder is not None:
            self._recorder.follow(core, world)
        self._act()
        return [*lines, *(f"{name} is new" for name in self.names if name not in old_names)]

    def _compare(
        self, world: World
    ) -> tuple[dict[tuple[int, int], tuple[tuple[int, int], int]], list[tuple[int, int]]]:
        """What of the residents another world keeps: place by place and level; and what it does not."""
        devices = [device.name for device in world.scenario.devices]
        names = [model.name for model in world.scenario.models]
        kept, unwanted = {}, []
        for device in range(self.world.devices):
            place = self.world.scenario.devices[device].name
            for model, level, _ in self.core.residents(device):
                layers, name = self.world.gpu_layers[model][level], self.names[model]
                to = (devices.index(place), names.index(name)) if place in devices and name in names else None
                ours = launch_of(self.world, device, model, level)
                if to and layers in world.gpu_layers[to[1]]:
                    at = world.gpu_layers[to[1]].index(layers)
                    if launch_of(world, *to, at) == ours and world.tables.level_ok[*to, at]:
                        kept[device, model] = (to, at)
                        continue
                unwanted.append((device, model))
        return kept, unwanted

    def change_policy(self, policy: Policy) -> None:
        """Another policy decides from now on."""
        self.core.policy = policy
        if self._recorder is not None:
            self._recorder.change_policy(policy.name)
        self._tell("champion", policy=policy.name)

    # What clients do

    def submit(self, asked: Asked) -> _Ticket:
        """See ``boundary.Scheduler.submit``."""
        try:
            model = self._admit(asked)
        except Refused as refused:
            self._refused += 1
            self._tell(
                "refused", model=asked.model if asked.model in self._index else None, code=refused.code
            )
            raise
        job = self.core.arrive(self.now_ns(), model, self._prompt_tokens(model, asked))
        ticket = _Ticket(
            self, asked, job, job.id, self.names[model], asyncio.get_running_loop().create_future()
        )
        self._tickets[job.id] = ticket
        self._tell("arrival", id=job.id, model=ticket.model)
        self._act()
        return ticket

    def _admit(self, asked: Asked) -> int:
        """The index of the model that is asked for.

        Raises:
            Refused: It cannot be.
        """
        if self._closing:
            raise Refused(503, "shutting_down", "The gateway is shutting down.", 5.0)
        if asked.model not in self._index:
            near = (
                difflib.get_close_matches(asked.model, self._index, n=3, cutoff=0.4) or list(self._index)[:5]
            )
            raise Refused(404, "model_not_found", f"No model {asked.model!r}; there are {', '.join(near)}.")
        model = self._index[asked.model]
        context = self.world.scenario.context_of(self.world.scenario.models[model])
        if self._prompt_tokens(model, asked) > _SURELY * context:
            text = f"The prompt is far beyond the model's context of {context} tokens."
            raise Refused(413, "context_length_exceeded", text)
        failure = self.core.failure(model)
        if failure is not None:
            left_s = max(1.0, (failure.until_ns - self.now_ns()) * 1e-9)
            raise Refused(503, "model_failed", f"{self.names[model]} did not load: {failure.reason}", left_s)
        if self.core.queued(model) >= self.settings.max_queue:
            wait_s = self.predicted_wait_s(model)
            text = f"{self.settings.max_queue} requests wait for {self.names[model]} already."
            raise Refused(429, "queue_full", text, wait_s)
        return model

    def _prompt_tokens(self, model: int, asked: Asked) -> int:
        return max(1, round(asked.prompt_chars / self._facts[model].chars_per_token))

    def progressed(self, ticket: _Ticket, tokens: int) -> None:
        """So many tokens of a request are out."""
        if ticket.job.first_ns < 0:
            self._tell("first", id=ticket.id, model=ticket.model)
        self.core.progressed(self.now_ns(), ticket.job, tokens)

    def done(self, ticket: _Ticket, usage: Usage) -> None:
        """A request has its answer."""
        if not self._close(ticket):
            return
        self._learn(ticket, usage)
        self.core.finished(self.now_ns(), ticket.job, usage.completion_tokens)
        self._write_down(ticket, "done", usage)
        self._tell("done", id=ticket.id, model=ticket.model)
        self._act()

    def gone(self, ticket: _Ticket, *, client: bool) -> None:
        """A request has ended early."""
        if not self._close(ticket):
            return
        self.core.gone(self.now_ns(), ticket.job, client=client)
        self._facts[ticket.job.model].failed += not client
        self._write_down(ticket, "cancelled" if client else "failed", Usage())
        self._tell("gone", id=ticket.id, model=ticket.model)
        self._act()

    def lost(self, ticket: _Ticket) -> bool:
        """A request has lost its server; whether it waits again."""
        if ticket.over or not self.core.lost(self.now_ns(), ticket.job, ticket.sends):
            self._close(ticket)
            return False
        self._act()
        return True

    def _close(self, ticket: _Ticket) -> bool:
        if ticket.over:
            return False
        ticket.over = True
        self._tickets.pop(ticket.id, None)
        return True

    def _refuse(self, ticket: _Ticket, refused: Refused) -> None:
        if not ticket.over:
            self.core.gone(self.now_ns(), ticket.job, client=False)
            self._forget(ticket, refused)
            self._act()

    def _forget(self, ticket: _Ticket, refused: Refused) -> None:
        """Ends a request that the core has no more."""
        if self._close(ticket):
            self._facts[ticket.job.model].failed += 1
            self._write_down(ticket, refused.code, Usage())
            self._tell("refused", id=ticket.id, model=ticket.model, code=refused.code)
            if not ticket.sent.done():
                ticket.sent.set_exception(refused)
                ticket.sent.exception()  # whoever waited may have left

    def _learn(self, ticket: _Ticket, usage: Usage) -> None:
        facts = self._facts[ticket.job.model]
        if usage.prompt_tokens and ticket.asked.prompt_chars:
            seen = ticket.asked.prompt_chars / usage.prompt_tokens
            facts.answers += 1
            weight = max(_LEARNING, 1.0 / (1 + facts.answers))
            facts.chars_per_token += weight * (seen - facts.chars_per_token)

    def _write_down(self, ticket: _Ticket, how: str, usage: Usage) -> None:
        if self._recorder is not None:
            self._recorder.request(ticket.asked, ticket.job, ticket.model, how, usage, self.now_ns())

    # What is to be done

    def _act(self) -> None:
        """Does what the core has decided."""
        for effect in self.core.take():
            self._do(effect)

    def _do(self, effect: Effect) -> None:
        if isinstance(effect, Start):
            self._spawn(self._operate(effect))
            return
        ticket = self._tickets.get(effect.id)
        if ticket is None:
            return
        if isinstance(effect, Dispatch):
            server = self._servers[effect.device, effect.model]
            device = self.world.scenario.devices[effect.device].name
            self._tell("dispatch", id=ticket.id, model=ticket.model, device=device)
            if not ticket.sent.done():
                ticket.sent.set_result(server.url)
        elif isinstance(effect, Requeued):
            ticket.sent = asyncio.get_running_loop().create_future()
        elif isinstance(effect, Refuse):
            failure = self.core.failure(ticket.job.model)
            why = "its model did not load" if failure is None else failure.reason
            left_s = 1.0 if failure is None else max(1.0, (failure.until_ns - self.now_ns()) * 1e-9)
            self._forget(ticket, Refused(503, "model_failed", f"{ticket.model}: {why}", left_s))
        elif isinstance(effect, Broken):
            self._forget(ticket, Refused(503, "server_failed", f"{ticket.model}: its server has ended."))

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _operate(self, start: Start) -> None:
        """Unloads what is evicted and loads what is wanted; tells the core how it went."""
        device = self.world.scenario.devices[start.device].name
        for model in start.evict:
            server = self._servers.pop((start.device, model), None)
            if server is not None:
                await server.stop()
            self._tell("unloaded", model=self.names[model], device=device)
        failure: ServerFailed | None = None
        if start.model >= 0:
            name, begun_s = self.names[start.model], time.monotonic()
            self._tell("load", model=name, device=device, reason="policy")
            try:
                server = await self._started(start)
            except ServerFailed as error:
                failure = error
                self._tell("failed", model=name, device=device, why=str(error))
                if self._recorder is not None:
                    self._recorder.failed(start.device, str(error))
            else:
                self._tell("ready", model=name, device=device, took_s=time.monotonic() - begun_s)
                self._servers[start.device, start.model] = server
                self._spawn(self._watch(start.device, start.model, server))
                self._note_memory(start.device, start.model, start.level, server)
        why = None if failure is None else str(failure)
        self.core.ended(self.now_ns(), start.device, why, memory=bool(failure and failure.out_of_memory))
        self._act()

    async def _started(self, start: Start) -> Server:
        server = self._make(*launch_of(self.world, start.device, start.model, start.level))
        try:
            await server.start()
        except asyncio.CancelledError:
            await server.stop()
            raise
        return server

    async def _watch(self, device: int, model: int, server: Server) -> None:
        """Tells the core when a server ends by itself."""
        failed = await server.exited()
        if self._servers.get((device, model)) is server:
            del self._servers[device, model]
            place = self.world.scenario.devices[device].name
            self._tell("failed", model=self.names[model], device=place, why=str(failed))
            self.core.died(self.now_ns(), device, model, str(failed))
            self._act()

    def _note_memory(self, device: int, model: int, level: int, server: Server) -> None:
        place = self.world.scenario.devices[device].device
        if place is None or parse_device(place).kind == "cpu":
            return  # the host's memory is nobody's budget there
        self.core.measured(device, model, level, server.memory_bytes()[0])

    def _measure(self) -> None:
        for device in range(self.world.devices):
            servers = [server for (d, _), server in self._servers.items() if d == device]
            with contextlib.suppress(OSError):
                self._measured_bytes[device] = sum(server.memory_bytes()[0] for server in servers)

    def _expire(self) -> None:
        """Turns away who has waited beyond the bound."""
        before_ns = self.now_ns() - round(self.settings.timeout_s * 1e9)
        for ticket in list(self._tickets.values()):
            if ticket.job.device < 0 and ticket.job.arrival_ns < before_ns:
                text = f"Waited {self.settings.timeout_s:g} s for {ticket.model}."
                self._refuse(ticket, Refused(504, "waited_too_long", text))

    # What there is

    def predicted_wait_s(self, model: int) -> float:
        """Seconds that a new request of a model is to expect until a server has it."""
        tables, core = self.world.tables, self.core
        fits = tables.level_ok[:, model].any(axis=1)
        batch = self.world.scenario.batch_of(self.world.scenario.models[model])
        decode = tables.remaining_tokens[min(model, len(tables.remaining_tokens) - 1), 0]
        step_s = tables.step_s[:, model, 0, batch - 1].mean(axis=1)
        is_here = core.state.place["resident"][:, model] >= 0
        load_s = np.where(is_here, 0.0, tables.load_s[:, model, 0])
        is_free = core.running(model) < batch and core.queued(model) == 0
        turns = 0.0 if is_free else (core.queued(model) + 1) / batch
        found = np.where(fits, load_s + turns * decode * step_s, np.inf).min()
        return float(found) if np.isfinite(found) else 0.0

    def models(self) -> list[dict[str, Any]]:
        """See ``boundary.Scheduler.models``."""
        scenario = self.world.scenario
        return [
            {
                "id": name,
                "aliases": list(model.aliases),
                "context_length": scenario.context_of(model),
                "status": self._state_of(m),
            }
            for m, (name, model) in enumerate(zip(self.names, scenario.models, strict=True))
        ]

    def _state_of(self, model: int) -> str:
        """What a model is, as a whole."""
        place = self.core.state.place
        if (place["resident"][:, model] >= 0).any():
            return "ready"
        for device in range(self.world.devices):
            operation = self.core.operation(device)
            if operation is not None and operation.kind == "load" and operation.model == model:
                return "loading"
        if (place["evicting"][:, model] >= 0).any():
            return "draining"
        return "failed" if self.core.failure(model) else "unloaded"

    def _oldest_ns(self, model: int) -> int | None:
        """Arrival of the request that waits longest for a model; None if none does."""
        waiting = [j.arrival_ns for j in self.core.jobs.values() if j.model == model and j.device < 0]
        return min(waiting, default=None)

    def snapshot(self) -> dict[str, Any]:
        """See ``boundary.Scheduler.snapshot``."""
        core = self.core
        return {
            "version": 1,
            "now_s": self.now_ns() * 1e-9,
            "policy": core.policy.name,
            "fallback": self.settings.fallback,
            "shadow": None if core.shadow is None else core.shadow.name,
            "guard_s": None if np.isinf(self.world.guard_s) else self.world.guard_s,
            "devices": [self._device(device) for device in range(self.world.devices)],
            "models": [self._model(model) for model in range(self.world.models)],
            "decisions": [
                {
                    "time_s": one.time_s,
                    "device": one.device,
                    "choice": one.choice,
                    "why": one.why,
                    "took_ms": one.took_ms,
                    "shadow": one.shadow,
                }
                for one in reversed(core.decisions)
            ],
            "totals": {
                "served": core.totals.served,
                "refused": self._refused,
                "cancelled": core.totals.cancelled,
                "failed": core.totals.failed,
                "loads": core.totals.loads,
                "evictions": core.totals.evictions,
                "decisions": core.totals.decisions,
            },
        }

    def _device(self, device: int) -> dict[str, Any]:
        core, scenario, now_ns = self.core, self.world.scenario, self.now_ns()
        operation = core.operation(device)
        doing = None
        if operation is not None:
            doing = {
                "kind": operation.kind if operation.started else "drain",
                "model": self.names[operation.model],
                "gpu_layers": self.world.gpu_layers[operation.model][operation.level],
                "since_s": (now_ns - operation.since_ns) * 1e-9,
                "expected_s": operation.expected_s or None,
            }
        residents = []
        for model, level, drains in core.residents(device):
            server = self._servers.get((device, model))
            running = sum(j.device == device and j.model == model for j in core.jobs.values())
            used_ns = int(core.state.place["last_used_ns"][device, model])
            residents.append(
                {
                    "model": self.names[model],
                    "gpu_layers": self.world.gpu_layers[model][level],
                    "state": "draining" if drains else "ready",
                    "running": running,
                    "max_batch": scenario.batch_of(scenario.models[model]),
                    "memory_bytes": float(core.tables.level["footprint_bytes"][device, model, level]),
                    "idle_s": 0.0 if running else max(0, now_ns - used_ns) * 1e-9,
                    "pid": None if server is None else server.pid,
                }
            )
        place = scenario.devices[device]
        return {
            "name": place.name,
            "text": place.text,
            "capacity_bytes": float(core.tables.device["capacity_bytes"][device]),
            "used_bytes": core.used_bytes(device),
            "measured_bytes": self._measured_bytes[device],
            "operation": doing,
            "residents": residents,
        }

    def _model(self, model: int) -> dict[str, Any]:
        core, facts = self.core, self._facts[model]
        oldest_ns, failure = self._oldest_ns(model), core.failure(model)
        return {
            "name": self.names[model],
            "aliases": list(self.world.scenario.models[model].aliases),
            "state": self._state_of(model),
            "queued": core.queued(model),
            "running": core.running(model),
            "oldest_wait_s": None if oldest_ns is None else (self.now_ns() - oldest_ns) * 1e-9,
            "predicted_wait_s": self.predicted_wait_s(model),
            "served": int(core.served[model]),
            "failed": facts.failed,
            "retry_in_s": None if failure is None else max(0, failure.until_ns - self.now_ns()) * 1e-9,
            "reason": None if failure is None else failure.reason,
        }

    def ready(self) -> str | None:
        """See ``boundary.Scheduler.ready``."""
        guard_ns = int(self.world.tables.guard_ns[0])
        bound_s = self.settings.timeout_s / 2 if guard_ns == FAR_NS else guard_ns * 1e-9
        for model, name in enumerate(self.names):
            oldest_ns = self._oldest_ns(model)
            if oldest_ns is not None and self.now_ns() - oldest_ns > 2e9 * bound_s:
                waited_s = (self.now_ns() - oldest_ns) * 1e-9
                return f"A request for {name} waits for {waited_s:.0f} s; its bound is {bound_s:.0f} s."
        return None

    def unload(self, model: str | None) -> list[str]:
        """See ``boundary.Scheduler.unload``."""
        if model is not None and model not in self._index:
            raise Refused(404, "model_not_found", f"No model {model!r}.")
        wanted = range(self.world.models) if model is None else [self._index[model]]
        found = [self.names[m] for m in wanted if self.core.unload(self.now_ns(), m)]
        self._act()
        return found

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """See ``boundary.Scheduler.events``."""
        follower = _Follower()
        self._followers.add(follower)
        try:
            while (event := await follower.next()) is not None:
                yield event
        finally:
            self._followers.discard(follower)

    def _tell(self, kind: str, **values: Any) -> None:
        if self._followers:
            event = {"type": kind, "time_s": self.now_ns() * 1e-9, **values}
            for follower in self._followers:
                follower.put(event)

    def _decided(self, decision: Any, device: int, choice: int, took_s: float) -> None:
        values = {"took_ms": decision.took_ms, "fallback": decision.fallback, "shadow": decision.shadow}
        self._tell("decision", device=decision.device, choice=decision.choice, why=decision.why, **values)
        if self._recorder is not None:
            self._recorder.decision(device, choice, took_s)


@dataclass(eq=False)
class _Follower:
    """Somebody who is told what happens; who is slow loses the oldest."""

    _waiting: deque[dict[str, Any] | None] = field(default_factory=lambda: deque(maxlen=10_000))
    _there: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, event: dict[str, Any] | None) -> None:
        self._waiting.append(event)
        self._there.set()

    def end(self) -> None:
        self.put(None)

    async def next(self) -> dict[str, Any] | None:
        while not self._waiting:
            self._there.clear()
            await self._there.wait()
        return self._waiting.popleft()


def launch_of(world: World, device: int, model: int, level: int) -> tuple[str, Launch]:
    """The engine of a model on a device, and what its server is started with."""
    scenario = world.scenario
    asked, place = scenario.models[model], scenario.devices[device]
    return scenario.engine_of(asked), Launch(
        model=asked.name,
        checkpoint=str(asked.checkpoint),
        device=str(place.device),
        gpu_layers=world.gpu_layers[model][level],
        context_tokens=scenario.context_of(asked),
        max_batch=scenario.batch_of(asked),
        kv_type=asked.kv_type or "f16",
        args=tuple(asked.args),
        memory_bytes=round(float(world.tables.footprint_bytes[device, model, level])),
    )
