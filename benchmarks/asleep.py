"""What it is worth that engines sleep instead of ending, in simulation: mean responses, on the same requests.

``python -m benchmarks.asleep [--quick] --json PATH``; under a minute. What waking takes is published, not
measured (``shunter.models.published.loads``); a load from nothing is the weights' alone, without the start of
an engine, which sleep saves too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.form import Row, main, reported
from benchmarks.paired import paired
from shunter.agents.registry import make_policy
from shunter.envs.scenario.scenario import Scenario, load_scenario
from shunter.envs.workload.seed_ranges import SEED_RANGES
from shunter.envs.world.world import World, make_world
from shunter.eval.execution.batched import Batched, evaluate_batched

SCENARIOS = ("paper-a6000", "two-gpu-unequal")
POLICIES = ("lru-keepalive", "cost-greedy")
LEVELS = (0, 1, 2)


def run(quick: bool) -> list[Row]:
    """Every scenario with every policy; fewer seeds if quick."""
    seeds = list(SEED_RANGES["benchmark"])[: 4 if quick else None]
    return [row for name in SCENARIOS for policy in POLICIES for row in _rows(name, policy, seeds)]


def sleeping(name: str, level: int) -> World:
    """A scenario of the library on vLLM, whose models sleep at a level; 0: they are unloaded."""
    data = load_scenario(name).model_dump(mode="json")
    return make_world(
        Scenario.parse({**data, "engine": "vllm", "limits": {**data["limits"], "sleep": level}})
    )


def _rows(name: str, policy: str, seeds: Sequence[int]) -> Iterator[Row]:
    done = [evaluate_batched(sleeping(name, level), make_policy(policy), seeds) for level in LEVELS]
    awake = done[0].response_mean_s
    for level, played in zip(LEVELS, done, strict=True):
        mean_s, cell = played.response_mean_s, f"{name}, {policy}, sleep {level}"
        counts = f"{_each(played, 'swaps'):.3g} loads, {_each(played, 'evictions'):.3g} evictions"
        note = f"{len(seeds)} seeds; {counts}"
        yield reported(f"{cell}: mean response", float(mean_s.mean()), "s", note=note)
        if level:
            change = paired(mean_s[None], awake[None])
            metric, note = f"{cell}: change of mean response", "over sleep 0, on the same requests"
            yield reported(metric, change.change, interval=change.interval(), note=note)


def _each(played: Batched, count: str) -> float:
    """Mean over episodes of what is counted in them."""
    return float(np.mean([counts[count] for counts in played.counts]))


def _main(argv: Sequence[str] | None = None) -> int:
    return main("asleep", run, "Mean responses where evicted models sleep, in simulation.", argv)


if __name__ == "__main__":
    sys.exit(_main())
