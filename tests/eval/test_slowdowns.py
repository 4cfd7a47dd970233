"""Machines that are not as fast as predicted, in simulation: courses of factors, and who follows them."""

from __future__ import annotations

import numpy as np
import pytest

from shunter.agents.registry import make_policy
from shunter.envs.world.world import World
from shunter.errors import InputError
from shunter.eval.execution.backends import SimulatedBackend
from shunter.eval.execution.follow import LOADS, QUANTA, Follower
from shunter.eval.execution.runs import run_policy, simulate
from shunter.eval.execution.sentinel import PARTS
from shunter.eval.execution.slowdowns import Slowdowns, slowed
from tests.eval.test_follow import followed
from tests.eval.test_machine import FACTOR


def steady(world: World, factor: float) -> Slowdowns:
    return Slowdowns(np.zeros(1), np.full((1, world.devices, len(PARTS)), factor))


def test_a_steady_course_is_a_slower_world(fake_world: World) -> None:
    """``fifo-swap`` decides alike whatever it is told of durations."""
    policy = make_policy("fifo-swap")
    expected = simulate(slowed(fake_world, [dict.fromkeys(PARTS, 2.0)] * fake_world.devices), policy, 0)
    found = simulate(fake_world, policy, 0, slowdowns=steady(fake_world, 2.0))
    assert found.requests.equals(expected.requests)
    assert not found.requests.equals(simulate(fake_world, policy, 0).requests)


def test_factors_hold_for_operations_that_begin_from_then_on(fake_world: World) -> None:
    policy = make_policy("fifo-swap")
    before = simulate(fake_world, policy, 0)
    half_s = before.makespan_s / 2
    factors = np.ones((2, fake_world.devices, len(PARTS)))
    factors[1] = 3.0
    after = simulate(fake_world, policy, 0, slowdowns=Slowdowns(np.array([0.0, half_s]), factors))
    as_before = before.requests.finish_s < half_s
    assert as_before.any()
    assert after.requests.finish_s[as_before].equals(before.requests.finish_s[as_before])
    assert (after.requests.finish_s[~as_before] >= before.requests.finish_s[~as_before]).all()
    assert after.makespan_s > before.makespan_s


def test_who_follows_decides_as_on_a_real_machine_as_slow(fake_world: World) -> None:
    ours = simulate(
        fake_world, make_policy("lru-keepalive"), 0, slowdowns=steady(fake_world, FACTOR), follow=True
    )
    theirs = followed(fake_world, Follower(fake_world.tables))
    assert ours.requests.model.equals(theirs.requests.model)
    np.testing.assert_allclose(ours.requests.finish_s, theirs.requests.finish_s, atol=1e-5)


def test_a_follower_learns_from_operations_that_have_ended(fake_world: World) -> None:
    follower, requests = Follower(fake_world.tables, time_constant_s=1.0), fake_world.draw(0)
    run_policy(
        fake_world,
        requests,
        make_policy("lru-keepalive"),
        seed=0,
        make_backend=lambda on_end: SimulatedBackend(
            fake_world, requests, on_end, steady(fake_world, 2.0), follower
        ),
        mode="simulated",
        follower=follower,
    )
    for kind in (LOADS, QUANTA):
        assert follower.slowdown(0, kind) == pytest.approx(2.0, rel=0.25)


def test_on_a_machine_as_predicted_who_follows_decides_alike(fake_world: World) -> None:
    policy = make_policy("cost-greedy")
    plain, follows = (simulate(fake_world, policy, 1, follow=follow) for follow in (False, True))
    assert follows.requests.equals(plain.requests)


@pytest.mark.parametrize(
    ("at_s", "factors", "field"),
    [
        ([1.0], np.ones((1, 2, 3)), "at_s"),
        ([0.0, 0.0], np.ones((2, 2, 3)), "at_s"),
        ([], np.ones((0, 2, 3)), "at_s"),
        ([0.0], np.ones((2, 2, 3)), "factors"),
        ([0.0], np.ones((1, 2, 2)), "factors"),
        ([0.0], np.full((1, 2, 3), np.nan), "factors"),
        ([0.0], np.zeros((1, 2, 3)), "factors"),
        ([0.0], np.full((1, 2, 3), 101.0), "factors"),
    ],
)
def test_what_is_no_course_is_refused(at_s: list[float], factors: np.ndarray, field: str) -> None:
    with pytest.raises(InputError, match=f"^{field}"):
        Slowdowns(np.array(at_s), factors)


def test_a_course_of_other_devices_is_refused(fake_world: World) -> None:
    course = Slowdowns(np.zeros(1), np.ones((1, fake_world.devices + 1, len(PARTS))))
    with pytest.raises(InputError, match="devices"):
        simulate(fake_world, make_policy("fifo-swap"), 0, slowdowns=course)
