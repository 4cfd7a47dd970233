"""The gateway's core under every order of events that Hypothesis thinks of, on a virtual clock."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from benchmarks.serve_histories import HISTORIES, Event, Servers, play, small_world
from shunter.agents.registry import make_policy
from shunter.errors import InputError
from shunter.serve.core.core import Core
from shunter.serve.core.effects import Job

WORLDS = {count: small_world(count) for count in (1, 2)}
KEYS = small_world(2, keys=True)


@pytest.mark.parametrize(
    ("devices", "policy"), [(1, "cost-greedy"), (2, "lru-keepalive"), (2, "random"), (0, "cost-greedy")]
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=HISTORIES)
def test_nothing_is_lost_nor_answered_twice(devices: int, policy: str, history: list[Event]) -> None:
    play(WORLDS[devices] if devices else KEYS, policy, history)


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


def test_a_policy_whose_times_are_in_seconds_decides_by_itself() -> None:
    servers = Servers(Core(WORLDS[1], make_policy("fifo-collated:max_wait_s=30")))
    servers.arrive(1)
    assert servers.core.totals.decisions > servers.core.totals.fallbacks == 0


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


def silent_after(servers: Servers, job: Job, step_s: float = 0.5) -> float:
    """Seconds until the server of a request counts as stuck."""
    since_ns = job.quiet_ns
    while not servers.core.stuck(servers.now_ns):
        servers.pass_time(step_s)
    return (servers.now_ns - since_ns) * 1e-9


def test_a_server_that_says_nothing_is_given_up_and_only_who_waited_longest_fails() -> None:
    servers = Servers(Core(WORLDS[1], make_policy("cost-greedy"), hang_after_s=30.0))
    first = servers.arrive(1)
    servers.end_operation(0)
    servers.pass_time(5.0)
    second, third = servers.arrive(1), servers.arrive(1)
    assert first is not None
    assert second is not None
    assert third is not None
    assert set(servers.running) == {first.id, second.id}, "the third waits: its server takes two"
    servers.silent.add((0, 1))
    servers.pass_time(30.0)
    assert silent_after(servers, first) > 30.0
    servers.tick()
    assert servers.ended == {first.id: "Broken"}
    assert servers.starting[0].model == 1, "it is loaded again at once"
    servers.end_operation(0)
    assert set(servers.running) == {second.id, third.id}
    assert (second.attempts, third.attempts) == (1, 0), "nobody was sent to a server that was given up"
    servers.silent.add((0, 1))
    silent_after(servers, second)
    servers.tick()
    assert servers.core.failure(1) is not None, "the second time it waits, as after loads that failed"
    assert servers.ended == {first.id: "Broken", second.id: "Broken", third.id: "Refuse"}


def test_silence_is_borne_as_long_as_is_predicted_and_a_live_stream_for_ever() -> None:
    servers = Servers(Core(WORLDS[1], make_policy("cost-greedy"), hang_after_s=30.0))
    tables = servers.core.tables
    stream = servers.core.arrive(0, 1, 20)
    servers.obey()
    servers.end_operation(0)
    for _ in range(1000):
        servers.pass_time(29.0)
        stream.quiet_ns = servers.now_ns
        assert not servers.core.stuck(servers.now_ns)
    assert silent_after(servers, stream, 0.01) < 31.0, "a token's time is short"

    servers = Servers(Core(WORLDS[1], make_policy("cost-greedy"), hang_after_s=30.0))
    whole = servers.core.arrive(0, 1, 20, 100_000)
    servers.obey()
    servers.end_operation(0)
    least_s = 30.0 + 10.0 * 100_000 * float(tables.step_s[0, 1, 0, 1, -1])
    assert least_s <= silent_after(servers, whole) < 1.1 * least_s


def test_nobody_is_silent_to_a_client_that_takes_nothing() -> None:
    servers = Servers(Core(WORLDS[1], make_policy("cost-greedy"), hang_after_s=30.0))
    job = servers.arrive(1)
    servers.end_operation(0)
    assert job is not None
    job.quiet_ns = -1
    servers.pass_time(1e6)
    assert not servers.core.stuck(servers.now_ns)
