"""Predicted durations that follow the machine: what is estimated, and what tables then say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from shunter.agents.registry import make_policy
from shunter.envs.world.world import World
from shunter.eval.execution.backends import EngineBackend
from shunter.eval.execution.clocks import VirtualClock
from shunter.eval.execution.follow import LARGEST_STEP, LOADS, QUANTA, TIME_CONSTANT_S, Follower
from shunter.eval.execution.runs import Run, run_policy
from tests.eval.test_machine import FACTOR, executors

DURATIONS = ("load_s", "cold_load_s", "unload_s", "prefill_s", "step_s", "kv_save_s", "kv_restore_s")


def followed(world: World, follower: Follower) -> Run:
    """A run on a machine that is slower than when profiled, alike in all."""
    engines, requests = executors(world), world.draw(0)
    clock = VirtualClock([engine.workers["fake"].clock for engine in engines])
    return run_policy(
        world,
        requests,
        make_policy("lru-keepalive"),
        seed=0,
        make_backend=lambda on_end: EngineBackend(
            world, requests, on_end, engines, clock, [512] * world.models, 0, follower
        ),
        mode="real",
        follower=follower,
    )


def test_a_real_run_finds_out_how_slow_its_machine_is(fake_world: World) -> None:
    predicted = {name: getattr(fake_world.tables, name).copy() for name in DURATIONS}
    follower = Follower(fake_world.tables, time_constant_s=1.0)
    followed(fake_world, follower)
    busy = [d for d in range(fake_world.devices) if follower.slowdown(d, QUANTA) != 1.0]
    assert busy
    for device in busy:
        assert follower.slowdown(device, QUANTA) == pytest.approx(FACTOR, rel=0.05)
        assert follower.slowdown(device, LOADS) == pytest.approx(FACTOR, rel=0.25)
        np.testing.assert_allclose(
            follower.tables.step_s[device],
            follower.slowdown(device, QUANTA) * predicted["step_s"][device],
        )
    for name in DURATIONS:
        np.testing.assert_array_equal(getattr(fake_world.tables, name), predicted[name])


def test_on_a_machine_as_fast_as_predicted_nothing_moves(fake_world: World) -> None:
    follower = Follower(fake_world.tables)
    follower.saw(0, QUANTA, 2.0, 2.0)
    assert follower.slowdown(0, QUANTA) == 1.0
    for name in DURATIONS:
        np.testing.assert_array_equal(getattr(follower.tables, name), getattr(fake_world.tables, name))


def test_after_a_time_constant_of_work_it_has_gone_63_percent_of_the_way(fake_world: World) -> None:
    follower, operations = Follower(fake_world.tables), 100
    for _ in range(operations):
        follower.saw(0, QUANTA, TIME_CONSTANT_S / operations / 1.5, TIME_CONSTANT_S / operations)
    assert math.log(follower.slowdown(0, QUANTA)) == pytest.approx((1 - math.exp(-1)) * math.log(1.5))
    assert follower.slowdown(1, QUANTA) == follower.slowdown(0, LOADS) == 1.0


def test_one_odd_operation_is_no_trend(fake_world: World) -> None:
    follower = Follower(fake_world.tables)
    follower.saw(0, LOADS, 0.01, 1.0)
    moved = math.log(follower.slowdown(0, LOADS))
    assert 0 < moved == pytest.approx(-math.expm1(-1.0 / TIME_CONSTANT_S) * LARGEST_STEP)
    follower.saw(0, LOADS, 0.0, 1.0)
    assert math.log(follower.slowdown(0, LOADS)) == moved


def test_a_load_takes_none_of_what_quanta_are_slower(fake_world: World) -> None:
    follower = Follower(fake_world.tables)
    follower.saw(0, QUANTA, 1.0, 2.0)
    for name in ("load_s", "cold_load_s", "unload_s"):
        np.testing.assert_array_equal(getattr(follower.tables, name), getattr(fake_world.tables, name))
    assert (follower.tables.prefill_s[0] > fake_world.tables.prefill_s[0]).all()
    np.testing.assert_array_equal(follower.tables.prefill_s[1:], fake_world.tables.prefill_s[1:])
