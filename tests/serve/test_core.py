"""The gateway's core under every order of events that Hypothesis thinks of, on a virtual clock."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shunter.agents.registry import make_policy
from shunter.envs.scenario.scenario import Scenario
from shunter.envs.world.world import World, make_world
from shunter.errors import InputError
from shunter.serve.core import Core
from shunter.serve.effects import Broken, Dispatch, Job, Refuse, Start


def small_world(devices: int = 1, preemption: str = "drain", guard_s: float = 60.0) -> World:
    """Three models of which two fit a device at once."""
    return make_world(
        Scenario.parse(
            {
                "name": "three",
                "engine": "llama-cpp",
                "models": [
                    {
                        "name": "big",
                        "catalog": "Qwen2.5-14B",
                        "quantization": "Q4_K_M",
                        "levels": ["all", "60%"],
                    },
                    {"name": "small", "catalog": "Qwen2.5-3B", "quantization": "Q8_0"},
                    {"name": "other", "catalog": "Qwen3-8B", "quantization": "Q4_K_M"},
                ],
                "devices": [{"name": f"gpu{i}", "gpu": "RTX 4070 Ti"} for i in range(devices)],
                "workload": {"load": 0.5},
                "limits": {
                    "preemption": preemption,
                    "max_batch": 2,
                    "context_tokens": 512,
                    "guard_s": guard_s,
                },
            }
        )
    )


WORLDS = {count: small_world(count) for count in (1, 2)}


@dataclass
class Servers:
    """Servers as the core sees them: what it asked for, and what has not happened yet."""

    core: Core
    now_ns: int = 0
    running: dict[int, Job] = field(default_factory=dict)
    starting: dict[int, Start] = field(default_factory=dict)
    ended: dict[int, str] = field(default_factory=dict)
    held: set[tuple[int, int]] = field(default_factory=set)

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
                    self.held.discard((effect.device, model))
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
        self.obey()
        return job


EVENTS = st.tuples(
    st.sampled_from(
        ["arrive"] * 6
        + ["operation"] * 4
        + ["finish"] * 4
        + ["progress", "cancel", "fail", "memory", "crash", "break", "unload", "tick", "wait"]
    ),
    st.integers(0, 10_000),
    st.floats(0.0, 40.0),
)


def happen(servers: Servers, kind: str, which: int, seconds: float) -> None:
    core = servers.core
    servers.pass_time(seconds if kind == "wait" else seconds / 40)
    waiting = [job for job in core.jobs.values() if job.device < 0]
    running = list(servers.running.values())
    if kind == "arrive":
        servers.arrive(which % core.world.models)
    elif kind == "operation" and servers.starting:
        servers.end_operation(sorted(servers.starting)[which % len(servers.starting)])
    elif kind in ("fail", "memory") and servers.starting:
        device = sorted(servers.starting)[which % len(servers.starting)]
        if servers.starting[device].model >= 0:
            servers.end_operation(device, "no", memory=kind == "memory")
    elif kind == "finish" and running:
        servers.finish(running[which % len(running)])
    elif kind == "progress" and running:
        job = running[which % len(running)]
        core.progressed(servers.now_ns, job, job.tokens + 1)
    elif kind == "cancel" and core.jobs:
        job = [*waiting, *running][which % (len(waiting) + len(running))]
        servers.end(job.id, "cancelled")
        core.gone(servers.now_ns, job, client=True)
        servers.obey()
    elif kind == "break" and running:
        job = running[which % len(running)]
        sends = job.sends
        del servers.running[job.id]
        if not core.lost(servers.now_ns, job, sends):
            servers.end(job.id, "lost")
        servers.obey()
    elif kind == "crash" and servers.held:
        device, model = sorted(servers.held)[which % len(servers.held)]
        servers.held.discard((device, model))
        for number in [j.id for j in running if (j.device, j.model) == (device, model)]:
            del servers.running[number]
        core.died(servers.now_ns, device, model, "crashed")
        servers.obey()
    elif kind == "unload":
        core.unload(servers.now_ns, which % core.world.models)
        servers.obey()
    elif kind in ("tick", "wait"):
        core.tick(servers.now_ns)
        servers.obey()


def drain(servers: Servers) -> None:
    """From here on everything goes well: everyone is answered, and within a bounded time."""
    core = servers.core
    for _ in range(20 * (len(core.jobs) + 5)):
        if not core.jobs:
            break
        servers.pass_time(1.0)
        core.tick(servers.now_ns)
        servers.obey()
        for device in sorted(servers.starting):
            servers.end_operation(device)
        for job in list(servers.running.values()):
            servers.finish(job)
    assert not core.jobs, "somebody was never answered"
    assert not servers.running


@pytest.mark.parametrize(("devices", "policy"), [(1, "cost-greedy"), (2, "lru-keepalive"), (2, "random")])
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(events=st.lists(EVENTS, max_size=60))
def test_nothing_is_lost_nor_answered_twice(
    devices: int, policy: str, events: list[tuple[str, int, float]]
) -> None:
    servers = Servers(Core(WORLDS[devices], make_policy(policy), max_queue=5))
    arrived = 0
    for kind, which, seconds in events:
        happen(servers, kind, which, seconds)
    arrived = servers.core._count
    drain(servers)
    assert sorted(servers.ended) == list(range(arrived))


def test_a_model_that_never_loads_harms_nobody_else() -> None:
    servers = Servers(Core(WORLDS[1], make_policy("fifo-swap")))
    bad = servers.arrive(0)
    assert bad is not None
    servers.end_operation(0, "no such file")
    assert servers.ended == {bad.id: "Refuse"}
    assert servers.arrive(0) is None, "it is refused at once while it is known to fail"
    good = servers.arrive(1)
    assert good is not None
    servers.end_operation(0)
    assert good.id in servers.running
    servers.pass_time(11.0)
    servers.core.tick(servers.now_ns)
    assert servers.arrive(0) is not None, "and is tried again later"


def test_without_memory_it_is_loaded_alone_before_it_fails() -> None:
    servers = Servers(Core(WORLDS[1], make_policy("cost-greedy")))
    servers.arrive(1)
    servers.end_operation(0)
    (job,) = servers.running.values()
    servers.arrive(2)
    assert servers.starting[0].evict == ()
    servers.end_operation(0, "out of memory", memory=True)
    assert not servers.ended
    servers.finish(job)
    assert servers.starting[0].evict == (1,)
    servers.end_operation(0, "out of memory", memory=True)
    assert list(servers.ended.values()) == ["done", "Refuse"]


def test_what_is_evicted_runs_to_its_end_and_admits_nobody() -> None:
    servers = Servers(Core(WORLDS[1], make_policy("fifo-swap")))
    servers.arrive(0)
    servers.end_operation(0)
    (job,) = servers.running.values()
    servers.arrive(2)
    assert not servers.starting, "the load waits for the running request"
    late = servers.arrive(0)
    assert late is not None
    assert late.id not in servers.running
    servers.pass_time(100.0)
    servers.core.tick(servers.now_ns)
    servers.obey()
    assert not servers.starting
    servers.finish(job)
    assert servers.starting[0].evict == (0,)
    assert servers.starting[0].model == 2


def test_a_rare_model_waits_no_longer_than_the_guard_and_one_drain() -> None:
    """Model A every 2.5 s, B now and then, and one fits: B gets its turn."""
    world = small_world(guard_s=30.0)
    servers = Servers(Core(world, make_policy("cost-greedy:load_weight=10")))
    servers.arrive(0)
    servers.end_operation(0)
    rare = servers.arrive(2)
    assert rare is not None
    waited_s = 0.0
    while rare.id not in servers.running and waited_s < 200:
        servers.pass_time(2.5)
        waited_s += 2.5
        for job in list(servers.running.values()):
            servers.finish(job)
        servers.arrive(0)
        for device in sorted(servers.starting):
            servers.end_operation(device)
    assert waited_s <= 30.0 + 2 * 2.5


def test_a_policy_that_fails_is_replaced_decision_by_decision() -> None:
    class Failing:
        name = "failing"
        oracle = False

        def act(self, observation: dict[str, np.ndarray]) -> int:
            raise ValueError("no")

        def act_batch(self, observations: dict[str, np.ndarray]) -> np.ndarray:
            raise ValueError("no")

    servers = Servers(Core(WORLDS[1], Failing()))
    job = servers.arrive(1)
    assert job is not None
    servers.end_operation(0)
    assert job.id in servers.running
    assert servers.core.totals.fallbacks == servers.core.totals.decisions > 0


def test_servers_cannot_save_what_runs() -> None:
    with pytest.raises(InputError, match=r"limits\.preemption must be drain"):
        Core(small_world(preemption="save"), make_policy("cost-greedy"))
    with pytest.raises(InputError, match="oracle"):
        Core(WORLDS[1], make_policy("sjf-oracle"))


def test_an_answer_that_came_just_before_its_server_ended_is_no_second_request() -> None:
    servers = Servers(Core(WORLDS[1], make_policy("cost-greedy")))
    job = servers.arrive(1)
    assert job is not None
    servers.end_operation(0)
    servers.core.died(servers.now_ns, 0, 1, "crashed")
    servers.held.clear()
    servers.finish(job)
    assert servers.core.totals.served == 1
    assert not servers.core.jobs


def test_a_server_that_always_ends_is_not_loaded_again_and_again() -> None:
    """It may be loaded once more at once; after that it has to answer somebody, or it waits."""
    servers = Servers(Core(WORLDS[1], make_policy("cost-greedy")))
    servers.arrive(1)
    for _ in range(2):
        servers.end_operation(0)
        servers.running.clear()
        servers.held.clear()
        servers.core.died(servers.now_ns, 0, 1, "crashed")
        servers.obey()
    assert servers.core.failure(1) is not None
    assert list(servers.ended.values()) == ["Refuse"]
    servers.pass_time(11.0)
    servers.core.tick(servers.now_ns)
    job = servers.arrive(1)
    assert job is not None
    servers.end_operation(0)
    servers.finish(job)
    servers.held.clear()
    servers.core.died(servers.now_ns, 0, 1, "crashed")
    assert servers.core.failure(1) is None, "it has answered since"


def test_nothing_is_decided_while_nothing_happens() -> None:
    servers = Servers(Core(WORLDS[1], make_policy("cost-greedy")))
    servers.core.begin(0)
    for _ in range(100):
        servers.pass_time(0.5)
        servers.core.tick(servers.now_ns)
        servers.obey()
    wait_s = WORLDS[1].scenario.limits.max_wait_s
    assert servers.core.totals.decisions <= 50 / wait_s + 2
