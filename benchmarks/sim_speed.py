"""How fast the simulator is, observation and mask included, side by side in one run.

Every figure is the best of some repeats, so that what else the machine does counts least; the interval is
from the slowest repeat to the fastest.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import gymnasium
import numpy as np

from benchmarks.form import Row, at_least, at_most, main, reported
from benchmarks.sim_policies import Choose, cost_greedy, first_legal, random_legal
from benchmarks.sim_worlds import synthetic_world
from shunter.envs.gym import scheduling, vector
from shunter.envs.gym.scheduling import SchedulingEnv
from shunter.envs.gym.vector import SchedulingVectorEnv
from shunter.envs.sim.batch import Batch
from shunter.envs.sim.supply import environment_key
from shunter.envs.world.world import World

FIRST_STEP = """
import time
from benchmarks.sim_worlds import synthetic_world
world = synthetic_world(rate_per_s=0.4)
begun_s = time.perf_counter()
from shunter.envs.gym.scheduling import SchedulingEnv
env = SchedulingEnv(world=world)
seen, _ = env.reset(seed=0)
env.step(int(seen["action_mask"].argmax()))
print(time.perf_counter() - begun_s)
"""

IMPORT = """
import time
begun_s = time.perf_counter()
import shunter.envs
print(time.perf_counter() - begun_s)
"""


@dataclass
class Runner:
    """A batch that a compiled policy decides for."""

    world: World
    environments: int
    choose: Choose = cost_greedy
    threads: int = 1

    def __post_init__(self) -> None:
        self.batch = Batch(self.world, self.environments, autoreset=True, threads=self.threads)
        self.out = self.batch.reset([environment_key(0, e) for e in range(self.environments)])
        self.actions = np.zeros(self.environments, np.int64)
        self.steps = 0

    def run(self, steps: int) -> tuple[float, float]:
        """Decisions and requests per second over so many steps of the batch."""
        taken, begun_s = self.taken(), time.perf_counter()
        for _ in range(steps):
            self.steps += 1
            self.choose(self.out.candidates, self.out.mask, self.steps, self.actions)
            self.out = self.batch.step(self.actions)
        spent_s = time.perf_counter() - begun_s
        return steps * self.environments / spent_s, (self.taken() - taken) / spent_s

    def taken(self) -> int:
        """Requests that arrived so far."""
        return int(self.batch.state.clock["taken"].sum())


def spread(values: list[float]) -> tuple[float, tuple[float, float]]:
    """The best value, and the interval of all."""
    return max(values), (min(values), max(values))


def batched(quick: bool) -> list[Row]:
    """One device: one thread and two, in turns, and what policies change."""
    world = synthetic_world(rate_per_s=0.4)
    # Long enough that every ring is filled anew within a repeat: drawing requests is part of the cost.
    # Few enough for one core's cache; two threads share many, as handing work over costs some microseconds.
    few, many, steps, repeats = 128, 1024, 1500, 3 if quick else 8
    alone = Runner(world, few)
    one, two = Runner(world, many), Runner(world, many, threads=2)
    others = {c.__name__: Runner(world, few, c) for c in (random_legal, first_legal)}
    for runner in (one, two):
        runner.run(steps)
    for runner in (alone, *others.values()):
        runner.run(steps * many // few)
    singles = [alone.run(steps * many // few) for _ in range(repeats)]
    pairs = [(one.run(steps), two.run(steps)) for _ in range(repeats)]
    note = f"cost-greedy; 6 models, 3 levels, batch 8, 1 device, {few} environments"
    decisions, interval = spread([a[0] for a in singles])
    rows = [
        at_least(Row("decisions, batched, one thread", decisions, "1/s", interval, note=note), 600e3),
    ]
    requests, interval = spread([a[1] for a in singles])
    rows.append(at_least(Row("requests, batched, one thread", requests, "1/s", interval, note=note), 100e3))
    ratio = float(np.median([b[0] / a[0] for a, b in pairs]))
    ratios = (min(b[0] / a[0] for a, b in pairs), max(b[0] / a[0] for a, b in pairs))
    load = f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    load = f"median of pairs in turns, {many} environments; {load}"
    rows.append(at_least(Row("two threads over one", ratio, "", ratios, note=load), 1.4))
    value, interval = spread([a[0] for a, _ in pairs])
    rows.append(reported(f"decisions, {many} environments", value, "1/s", interval=interval))
    for name, runner in others.items():
        value, interval = spread([runner.run(steps * many // few)[0] for _ in range(2)])
        rows.append(reported(f"decisions, batched, {name}", value, "1/s", interval=interval))
    two.batch.close()
    return rows


def large(quick: bool) -> list[Row]:
    """Many devices and models."""
    runner = Runner(synthetic_world(40, 8, rate_per_s=2.0), 64)
    runner.run(1000)
    value, interval = spread([runner.run(1000)[0] for _ in range(3 if quick else 8)])
    note = "cost-greedy; 40 models, 3 levels, 8 devices, 64 environments, one thread"
    return [at_least(Row("decisions, 8 devices and 40 models", value, "1/s", interval, note=note), 60e3)]


def single(quick: bool) -> list[Row]:
    """One environment, made by Gymnasium, a compiled policy deciding."""
    world = synthetic_world(rate_per_s=0.4)
    env = gymnasium.make("shunter/Scheduling-v0", world=world)
    inner = env.unwrapped
    if not isinstance(inner, SchedulingEnv):
        raise TypeError(f"gymnasium made a {type(inner).__name__}")
    actions = np.zeros(1, np.int64)

    def rate(count: int) -> float:
        env.reset(seed=0)
        stepping_s = 0.0
        for number in range(count):
            cost_greedy(inner.batch.out.candidates, inner.batch.out.mask, number, actions)
            begun_s = time.perf_counter()
            _, _, terminated, truncated, _ = env.step(actions[0])
            stepping_s += time.perf_counter() - begun_s
            if terminated or truncated:
                env.reset()
        return count / stepping_s

    rate(1000)
    value, interval = spread([rate(3000) for _ in range(5 if quick else 15)])
    return [at_least(Row("Env.step through Gymnasium", value, "1/s", interval), 40e3)]


def checks(quick: bool) -> list[Row]:
    """What looking at actions costs: steps with the checks over steps without, in turns."""
    world = synthetic_world(rate_per_s=0.4)
    one, many = SchedulingEnv(world=world), SchedulingVectorEnv(64, world=world)
    action, actions = np.int64(0), np.zeros(64, np.int64)

    def single_s(count: int) -> float:
        one.reset(seed=0)
        begun_s = time.perf_counter()
        for _ in range(count):
            if any(one.step(action)[2:4]):
                one.reset(seed=0)
        return (time.perf_counter() - begun_s) / count

    def batch_s(count: int) -> float:
        many.reset(seed=0)  # the same decisions each time
        begun_s = time.perf_counter()
        for _ in range(count):
            many.step(actions)
        return (time.perf_counter() - begun_s) / count

    cases: tuple[tuple[str, Any, str, Callable[[int], float], int], ...] = (
        ("Env.step", scheduling, "check_action", single_s, 2000),
        ("a step of 64 environments", vector, "check_actions", batch_s, 400),
    )
    rows = []
    for what, module, name, seconds, count in cases:
        seconds(count)
        ratios = []
        for _ in range(15 if quick else 60):
            checked = seconds(count)
            with mock.patch.object(module, name, lambda given, *_: given):
                unchecked = seconds(count)
            ratios.append((checked + seconds(count)) / (2 * unchecked))
        low, value, high = map(float, np.quantile(ratios, [0.25, 0.5, 0.75]))
        note = "median and quartiles of steps with over steps without, each between two with"
        rows.append(
            at_most(Row(f"{what}, actions checked over not", value, "", (low, high), note=note), 1.03)
        )
    return rows


def memory(quick: bool) -> list[Row]:
    """What an episode of many requests needs more than one of few, at its peak."""
    count = 200_000 if quick else 1_000_000

    def peak_bytes(requests: int) -> int:
        runner = Runner(synthetic_world(rate_per_s=0.4, requests=requests), 1)
        tracemalloc.start()
        while runner.taken() < requests:
            runner.run(1000)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak + sum(records.nbytes for records in runner.batch.state)

    peak_bytes(2000)
    few, many = peak_bytes(10_000), peak_bytes(count)
    note = f"peak of one environment's memory over {count} requests, over that of 10,000: {few / 1e6:.1f} MB"
    return [at_most(Row("memory, many requests over few", many / few, note=note), 1.1)]


def start_up(quick: bool) -> list[Row]:
    """New processes, compiled code cached."""

    def seconds(code: str) -> list[float]:
        command = [sys.executable, "-c", code]
        runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(3)]
        return [float(run.stdout) for run in runs]

    first, imported = seconds(FIRST_STEP), seconds(IMPORT)
    return [
        at_most(Row("first step of a new process", min(first), "s", (min(first), max(first))), 2.0),
        at_most(Row("import of shunter.envs", min(imported), "s", (min(imported), max(imported))), 1.0),
    ]


PARTS: tuple[Callable[[bool], list[Row]], ...] = (batched, large, single, checks, memory, start_up)


def run(quick: bool) -> list[Row]:
    return [row for part in PARTS for row in part(quick)]


if __name__ == "__main__":
    sys.exit(main("sim_speed", run, "Decisions and requests that the simulator does per second."))
