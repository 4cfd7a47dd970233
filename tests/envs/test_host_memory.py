from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shunter.envs.gym.scheduling import SchedulingEnv
from shunter.envs.observation.features import FEATURES
from shunter.envs.world.world import World, make_world
from shunter.errors import InputError
from shunter.models.performance import PerformanceModel
from tests.worlds import fake_scenario

CACHED, SWAP = FEATURES.index("cached"), FEATURES.index("swap_time")


def test_a_limited_host_needs_a_profile_of_cold_loads(
    fake_checkpoints: dict[str, Path], fake_performance: PerformanceModel
) -> None:
    limits = {"context_tokens": 256, "host_memory_gb": 0.05}
    with pytest.raises(InputError, match=r"must be profiled for load_s.* Got 'fake cpu:1-threads cold'"):
        make_world(fake_scenario(fake_checkpoints, limits=limits), fake_performance)


def test_features_show_what_a_load_takes_from_where_the_weights_are(fake_world: World) -> None:
    weights, load_s = fake_world.tables.weight_bytes, fake_world.tables.load_s
    tables = fake_world.tables.changed(host_bytes=float(weights[0]), cold_load_s=3 * load_s)
    env = SchedulingEnv(world=replace(fake_world, tables=tables))
    seen, _ = env.reset(seed=0)
    by_model = seen["candidates"][:-1][: fake_world.models * fake_world.levels[2]]
    by_model = by_model.reshape(*fake_world.levels[1:], -1)
    np.testing.assert_array_equal(by_model[:, 0, CACHED], [1, 0, 0])
    factors = by_model[:, 0, SWAP] * fake_world.time_scale_s / load_s[env.device, :, 0]
    np.testing.assert_allclose(factors, [1, 3, 3], rtol=1e-5)
    assert (SchedulingEnv(world=fake_world).reset(seed=0)[0]["candidates"][0, CACHED]) == 1


def test_what_is_too_large_for_the_host_is_read_from_disk_every_time(fake_world: World) -> None:
    tables = fake_world.tables.changed(host_bytes=1.0, cold_load_s=3 * fake_world.tables.load_s)
    env = SchedulingEnv(world=replace(fake_world, tables=tables))
    env.reset(seed=0)
    env.step(0)
    device = env.batch.state.device[0, 0]
    load_s = (device["op_end_ns"] - device["op_start_ns"]) * 1e-9
    assert load_s == pytest.approx(3 * fake_world.tables.load_s[0, 0, 0], abs=1e-6)
    assert (env.batch.state.model["cached"] == 0).all()
