"""The gateway's core in histories that Hypothesis thinks of: clients, servers and clocks on a virtual clock.

Whatever happens in whatever order, nobody is lost, nobody is answered twice, nothing is sent to a server that
is not there, memory stays within its budget, no server is ended that still says something, and once all goes
well everyone is answered soon, by servers that say nothing any more too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from benchmarks.form import Row, at_least, at_most, reported
from shunter.agents.registry import make_policy
from shunter.envs.scenario.scenario import Scenario
from shunter.envs.world.world import World, make_world
from shunter.serve.core.core import Core
from shunter.serve.core.effects import Broken, Dispatch, Job, Refuse, Start

__all__ = ["HISTORIES", "Servers", "histories_rows", "play", "small_world"]

MAX_QUEUE, HANG_AFTER_S = 5, 5.0
_MODELS: tuple[dict[str, Any], ...] = (
    {"name": "big", "catalog": "Qwen2.5-14B", "quantization": "Q4_K_M", "levels": ["all", "60%"]},
    {"name": "small", "catalog": "Qwen2.5-3B", "quantization": "Q8_0"},
    {"name": "other", "catalog": "Qwen3-8B", "quantization": "Q4_K_M"},
)
_KEYS: dict[str, dict[str, Any]] = {
    "big": {"priority": 2, "max_batch": 1},
    "small": {"ttl_s": 20.0, "preload": True},
    "other": {"ttl_s": 5.0, "replicas_max": 1},
}


def small_world(
    devices: int = 1, preemption: str = "drain", guard_s: float = 60.0, *, keys: bool = False
) -> World:
    """Three models of which two fit a device at once; perhaps with priority, TTL and what is loaded first."""
    models = [model | _KEYS[model["name"]] if keys else model for model in _MODELS]
    limits = {"preemption": preemption, "max_batch": 2, "context_tokens": 512, "guard_s": guard_s}
    return make_world(
        Scenario.parse(
            {
                "name": "three",
                "engine": "llama-cpp",
                "models": models,
                "devices": [{"name": f"gpu{i}", "gpu": "RTX 4070 Ti"} for i in range(devices)],
                "workload": {"load": 0.5},
                "limits": limits,
            }
        )
    )


@dataclass
class Servers:
    """Servers as the core sees them: what it asked for, and what has not happened yet."""

    core: Core
    now_ns: int = 0
    running: dict[int, Job] = field(default_factory=dict)
    starting: dict[int, Start] = field(default_factory=dict)
    ended: dict[int, str] = field(default_factory=dict)
    held: set[tuple[int, int]] = field(default_factory=set)
    silent: set[tuple[int, int]] = field(default_factory=set)
    arrived: int = 0

    def pass_time(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)

    def obey(self) -> None:
        """Does at once what can be done at once, and keeps the rest for later events."""
        for effect in self.core.take():
            if isinstance(effect, Dispatch):
                assert (effect.device, effect.model) in self.held, "sent to a server that is not there"
                assert effect.id not in self.running, "sent twice"
                assert effect.id not in self.ended
                self.running[effect.id] = self.core.jobs[effect.id]
            elif isinstance(effect, Start):
                assert effect.device not in self.starting, "two operations on one device"
                for model in effect.evict:
                    busy = [j for j in self.running.values() if (j.device, j.model) == (effect.device, model)]
                    assert not busy, "unloaded under a running request"
                    self.lose(effect.device, model)
                self.starting[effect.device] = effect
            elif isinstance(effect, Refuse | Broken):
                self.end(effect.id, type(effect).__name__)
        self.core.check()

    def end(self, number: int, how: str) -> None:
        assert number not in self.ended, "answered twice"
        self.ended[number] = how
        self.running.pop(number, None)

    def end_operation(self, device: int, failure: str | None = None, *, memory: bool = False) -> None:
        start = self.starting.pop(device)
        if failure is None and start.model >= 0:
            self.held.add((device, start.model))
            assert (device, start.model) not in self.silent
        self.core.ended(self.now_ns, device, failure, memory=memory)
        self.obey()

    def finish(self, job: Job, tokens: int = 3) -> None:
        self.end(job.id, "done")
        self.core.finished(self.now_ns, job, tokens)
        self.obey()

    def arrive(self, model: int) -> Job | None:
        if self.core.queued(model) >= self.core.max_queue or self.core.failure(model):
            return None
        job = self.core.arrive(self.now_ns, model, 20)
        self.arrived += 1
        self.obey()
        return job

    def tick(self) -> None:
        """What the gateway does now and then: servers that say nothing any more are ended."""
        self.core.tick(self.now_ns)
        self.obey()
        for job in self.heard():  # slow, but alive
            job.quiet_ns = self.now_ns
        for job in self.core.stuck(self.now_ns):
            assert (job.device, job.model) in self.silent, "ended though it says something"
            self.crash(job.device, job.model)
            assert self.ended[job.id] == "Broken", "who waited for it is told"

    def lose(self, device: int, model: int) -> None:
        """A server is gone, and whatever was wrong with it."""
        self.held.discard((device, model))
        self.silent.discard((device, model))

    def crash(self, device: int, model: int) -> None:
        self.lose(device, model)
        for number in [j.id for j in self.running.values() if (j.device, j.model) == (device, model)]:
            del self.running[number]
        self.core.died(self.now_ns, device, model, "crashed")
        self.obey()

    def heard(self) -> list[Job]:
        """Running requests whose servers say something."""
        return [job for job in self.running.values() if (job.device, job.model) not in self.silent]

    def work(self) -> None:
        """A second in which all that was begun ends well, but for what servers keep to themselves."""
        self.pass_time(1.0)
        self.tick()
        for device in sorted(self.starting):
            self.end_operation(device)
        for job in self.heard():
            self.finish(job)

    def reload(self, unwanted: set[tuple[int, int]]) -> None:
        """The scenario is read again: another core goes on once this one is quiet."""
        old = self.core
        old.pause(self.now_ns, unwanted & self.held)
        self.obey()
        for _ in range(100):
            if old.is_quiet:
                break
            self.work()
        assert old.is_quiet, "a reload never ends"
        new = Core(old.world, old.policy, max_queue=old.max_queue, hang_after_s=old.hang_after_s)
        residents = {
            (device, model): level
            for device in range(old.world.devices)
            for model, level, _ in old.residents(device)
        }
        self.core = new
        lost = new.take_over(self.now_ns, old, residents, list(range(old.world.models)))
        assert not lost
        self.obey()


Event = tuple[str, int, float]

EVENTS = st.tuples(
    st.sampled_from(
        ["arrive"] * 6
        + ["operation"] * 4
        + ["finish"] * 4
        + ["progress", "cancel", "fail", "memory", "crash", "break", "unload", "tick", "wait", "reload"]
        + ["hang"]
    ),
    st.integers(0, 10_000),
    st.floats(0.0, 40.0),
)
HISTORIES = st.lists(EVENTS, min_size=12, max_size=60)
"""A load that hangs is what no event ends, until the client has enough of it."""


def happen(servers: Servers, kind: str, which: int, seconds: float) -> None:
    """One event; nothing happens where it has no object."""
    servers.pass_time(seconds if kind == "wait" else seconds / 40)
    running = list(servers.running.values()) if kind == "break" else servers.heard()
    if kind == "arrive":
        servers.arrive(which % servers.core.world.models)
    elif kind in ("operation", "fail", "memory") and servers.starting:
        _end_some(servers, kind, which)
    elif kind in ("finish", "progress", "break") and running:
        _answer(servers, kind, running[which % len(running)])
    elif kind == "cancel":
        _cancel(servers, which)
    elif kind in ("crash", "hang") and servers.held:
        at = sorted(servers.held)[which % len(servers.held)]
        if kind == "hang":
            servers.silent.add(at)
        else:
            servers.crash(*at)
    elif kind == "unload":
        servers.core.unload(servers.now_ns, which % servers.core.world.models)
    elif kind in ("tick", "wait"):
        servers.tick()
    elif kind == "reload":
        servers.reload({pair for k, pair in enumerate(sorted(servers.held)) if which >> k & 1})
    servers.obey()


def _end_some(servers: Servers, kind: str, which: int) -> None:
    device = sorted(servers.starting)[which % len(servers.starting)]
    if kind == "operation":
        servers.end_operation(device)
    elif servers.starting[device].model >= 0:
        servers.end_operation(device, "no", memory=kind == "memory")


def _answer(servers: Servers, kind: str, job: Job) -> None:
    core = servers.core
    if kind == "finish":
        servers.finish(job)
    elif kind == "progress":
        job.quiet_ns = servers.now_ns
        core.progressed(servers.now_ns, job, job.tokens + 1)
    else:
        sends = job.sends
        del servers.running[job.id]
        if not core.lost(servers.now_ns, job, sends):
            servers.end(job.id, "lost")


def _cancel(servers: Servers, which: int) -> None:
    waiting = [job for job in servers.core.jobs.values() if job.device < 0]
    there = [*waiting, *servers.running.values()]
    if there:
        job = there[which % len(there)]
        servers.end(job.id, "cancelled")
        servers.core.gone(servers.now_ns, job, client=True)


def drain(servers: Servers) -> None:
    """From here on everything goes well: everyone is answered, and within a bounded time."""
    for _ in range(20 * (len(servers.core.jobs) + 5)):
        if not servers.core.jobs:
            break
        servers.work()
    assert not servers.core.jobs, "somebody was never answered"
    assert not servers.running


def play(world: World, policy: str, history: Sequence[Event]) -> int:
    """Plays a history to a good end; returns how many requests it had.

    Raises:
        AssertionError: A rule of this module does not hold.
    """
    core = Core(world, make_policy(policy), max_queue=MAX_QUEUE, hang_after_s=HANG_AFTER_S)
    servers = Servers(core)
    servers.core.begin(0)
    servers.obey()
    for event in history:
        happen(servers, *event)
    arrived = servers.arrived
    drain(servers)
    assert sorted(servers.ended) == list(range(arrived)), "somebody was lost"
    return arrived


def histories_rows(count: int, policies: Sequence[str]) -> list[Row]:
    """Plays about so many histories, shared out among worlds and policies."""
    worlds = {
        f"{devices} of them{', with priorities, TTL and preload' if keys else ''}": small_world(
            devices, keys=keys
        )
        for devices in (1, 2)
        for keys in (False, True)
    }
    each = -(-count // (len(worlds) * len(policies)))
    played = requests = 0
    failures: list[str] = []
    begun_s = time.monotonic()
    for name, world in worlds.items():
        for policy in policies:
            found, of_them, failure = _explore(world, policy, each)
            played, requests = played + found, requests + of_them
            failures += [f"{Path(policy).stem}, {name}: {failure}"] if failure else []
    note = f"{requests} requests in {time.monotonic() - begun_s:.0f} s; {len(worlds)} worlds; "
    note += ", ".join(Path(policy).stem for policy in policies)
    return [
        at_least(reported("histories of the core", played, note=note), count),
        at_most(reported("histories that failed", len(failures), note="; ".join(failures)), 0),
    ]


def _explore(world: World, policy: str, count: int) -> tuple[int, int, str]:
    """Histories that were played, their requests, and what went wrong in one; empty: nothing."""
    seen = [0, 0]

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(history=HISTORIES)
    def check(history: list[Event]) -> None:
        seen[0] += 1
        seen[1] += play(world, policy, history)

    try:
        check()
    except Exception as error:  # what goes wrong is what is counted
        notes = getattr(error, "__notes__", [])
        return seen[0], seen[1], " ".join([f"{type(error).__name__} {error}", *notes])[:600]
    return seen[0], seen[1], ""
