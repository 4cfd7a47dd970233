"""Devices that are slower than predicted for stretches of time, and are not told of in advance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shunter.agents.registry import make_policy
from shunter.envs.gym.scheduling import SchedulingEnv
from shunter.envs.rules import drift
from shunter.envs.state.state import EVICT, LOAD, RUN
from shunter.envs.world.world import World
from shunter.errors import InputError
from shunter.eval.execution.batched import evaluate_batched
from shunter.train.search.trials import Trials
from shunter.train.settings import EvolutionSettings, load_config
from tests.envs.test_vector import KEYS
from tests.networks import random_policy


def certain(world: World) -> World:
    """The same, whose predictions are exact: what differs then is drift alone."""
    exact = world.tables.changed(load_halfwidth=0.0, prefill_halfwidth=0.0, step_halfwidth=0.0)
    return replace(world, tables=exact)


def test_a_device_is_slow_for_whole_stretches_and_half_of_them(fake_world: World) -> None:
    env = SchedulingEnv(world=certain(fake_world), noise="drift")
    policy, seen_at = make_policy("lru-keepalive"), {}
    stretch_ns = drift.STRETCH_SCALES * fake_world.time_scale_s * 1e9
    for seed in range(60):
        observation, _ = env.reset(seed=seed)
        over = False
        while not over:
            observation, _, terminated, truncated, _ = env.step(policy.act(observation))
            over = terminated or truncated
            for d, device in enumerate(env.batch.state.device[0]):
                if device["op_kind"] in (RUN, LOAD, EVICT) and not over:
                    key = (seed, d, int(device["op_start_ns"] / stretch_ns))
                    assert seen_at.setdefault(key, device["slower"]) == device["slower"]
    slower = np.array(list(seen_at.values()))
    assert len(slower) > 100
    assert np.mean(slower > 0) == pytest.approx(drift.SLOW_SHARE, abs=0.15)
    assert slower.min() >= 0
    assert slower.max() <= drift.MOST - 1


def test_what_a_device_does_takes_as_much_longer_and_features_stay_nominal(fake_world: World) -> None:
    world = certain(fake_world)
    ratios = []
    for seed in range(12):
        ends, nominal = {}, {}
        for noise in (False, "drift"):
            env = SchedulingEnv(world=world, noise=noise)
            observation, _ = env.reset(seed=seed)
            if noise == "drift":
                for name in KEYS:
                    np.testing.assert_array_equal(observation[name], nominal[name])
            nominal = observation
            env.step(int(np.flatnonzero(observation["candidates"][:, 1])[0]))
            device = env.batch.state.device[0, 0]
            ends[noise] = int(device["op_end_ns"] - device["op_start_ns"]), float(device["slower"])
        (plain_ns, none), (drifting_ns, slower) = ends.values()
        assert none == 0.0
        assert drifting_ns == pytest.approx((1 + slower) * plain_ns, abs=2)
        ratios.append(drifting_ns / plain_ns)
    assert min(ratios) == 1.0 < max(ratios) <= drift.MOST


def test_searches_and_evaluations_drift_when_told_to(fake_world: World) -> None:
    policy, seeds = random_policy(0, scale=0.3, width=0), range(8)
    played, evaluated = {}, {}
    for noise in (True, "drift"):
        played[noise] = Trials(fake_world, seeds, noise=noise).costs(policy.vector[None])[0][0]
        evaluated[noise] = evaluate_batched(fake_world, policy, seeds, noise=noise).response_mean_s
    assert played["drift"].mean() > played[True].mean()
    assert evaluated["drift"].mean() > evaluated[True].mean()


def test_a_training_is_asked_for_drift_by_name(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text("scenarios: [laptop]\nsettings: {noise: drift}\n", encoding="utf-8")
    assert load_config(file).settings == EvolutionSettings(noise="drift")
    assert EvolutionSettings(noise="drift").noise == "drift"
    with pytest.raises(InputError, match="--noise must be true, false or drift"):
        EvolutionSettings(noise="drifting")
