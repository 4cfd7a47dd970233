from __future__ import annotations

import re

from shunter.agents.heuristics.cost_greedy import CostGreedy
from shunter.envs.gym.rendering import describe
from shunter.envs.gym.scheduling import SchedulingEnv
from shunter.envs.world.world import World


def played(world: World, steps: int) -> tuple[SchedulingEnv, tuple[int, int]]:
    env, policy = SchedulingEnv(world=world, render_mode="ansi"), CostGreedy()
    seen, _ = env.reset(seed=0)
    last = (0, 0)
    for _ in range(steps):
        last = env.device, policy.act(seen)
        seen, *_ = env.step(last[1])
    return env, last


def test_a_new_episode_is_empty(fake_world: World) -> None:
    text = describe(fake_world, played(fake_world, 0)[0].batch.state.of(0))
    assert text.startswith("t = 0.000 s: 0 requests in the system, 0 served")
    assert text.count("nothing") == fake_world.devices
    assert "last:" not in text


def test_devices_residents_and_queues_are_in_it(fake_world: World) -> None:
    env, last = played(fake_world, 20)
    state = env.batch.state.of(0)
    lines = describe(fake_world, state, last).splitlines()
    assert len(lines) == 2 + fake_world.devices + fake_world.models
    assert lines[1] == f"last: d{last[0]} chose {fake_world.action_name(last[1])}"
    for line, model, queue in zip(
        lines[-fake_world.models :], fake_world.scenario.models, state.model["queue_length"], strict=True
    ):
        assert line.split()[:2] == [model.name, str(queue)]
        assert line.count("#") == queue
    resident = state.place["resident"] >= 0
    for line, here in zip(lines[2:], resident, strict=False):
        held = re.split("asks|waits|runs|loads|evicts", line)[0]
        for model, there in zip(fake_world.scenario.models, here, strict=True):
            assert (f"{model.name}@" in held) == there


def test_bars_of_long_queues_end(fake_world: World) -> None:
    env, _ = played(fake_world, 0)
    state = env.batch.state.of(0)
    state.model["queue_length"][0] = 1000
    line = next(line for line in describe(fake_world, state).splitlines() if "1000 (0 running)" in line)
    assert len(line) < 80
    assert line.endswith("#+")
