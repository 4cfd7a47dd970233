"""The worlds of a training: what a step costs in each, and how a policy does in all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from shunter.agents.base import Policy
from shunter.agents.learned import PRIOR
from shunter.agents.registry import POLICIES, make_policy
from shunter.envs.seed_ranges import SEED_RANGES
from shunter.envs.supply import environment_key
from shunter.envs.world import World
from shunter.train.selection import log_mean_responses
from shunter.train.twins import play_twin

__all__ = ["Course", "Validation", "at_rate", "make_course"]

REFERENCE_SEEDS = SEED_RANGES["reference"]
"""Workload seeds on which the reference policy's number in system is measured."""


@dataclass(frozen=True)
class Course:
    """A world to train in.

    Attributes:
        world: The compiled scenario at one load.
        cost: What the reference policy, tuned cost-greedy, accrues of the world's objective per time scale:
            the unit of its costs, so that heavily loaded worlds do not drown the others.
    """

    world: World
    cost: float


def at_rate(world: World, rate_per_s: float) -> World:
    """The world at another arrival rate, its episodes cut off at ten times what they should take.

    So a policy that waits forever comes to an end too.
    """
    limits = world.scenario.limits
    expected_s = world.scenario.workload.requests / rate_per_s + 10 * world.time_scale_s
    max_time_s = min(limits.max_time_s, 10 * expected_s)
    scenario = world.scenario.model_copy(
        update={"limits": limits.model_copy(update={"max_time_s": max_time_s})}
    )
    tables = world.tables.changed(max_time_ns=round(max_time_s * 1e9))
    return replace(world, scenario=scenario, tables=tables, rate_per_s=rate_per_s)


def make_course(world: World, rate_per_s: float | None = None) -> Course:
    """Measures a world's unit of cost, at another arrival rate if one is given."""
    world = at_rate(world, world.rate_per_s if rate_per_s is None else rate_per_s)
    traces = [play_twin(world, environment_key(seed, 0), 0) for seed in REFERENCE_SEEDS]
    cost = sum(float(trace.costs[-1]) for trace in traces)
    time = sum(float(trace.times[-1]) for trace in traces)
    return Course(world, max(1e-3, cost / time))


class Validation:
    """Scores policies against the best single heuristic on the same requests.

    Args:
        worlds: To score in.
        seeds: Of the workloads, the same in every world.

    Attributes:
        baseline: The heuristic with the lowest geometric mean of responses over the worlds.
    """

    def __init__(self, worlds: Sequence[World], seeds: Sequence[int]) -> None:
        self.worlds, self.seeds = worlds, seeds
        policies = {policy.name: policy for policy in (PRIOR, *map(make_policy, POLICIES))}
        policies = {name: policy for name, policy in policies.items() if not getattr(policy, "oracle", False)}
        scores = {name: log_mean_responses(worlds, policy, seeds) for name, policy in policies.items()}
        self.baseline = min(scores, key=lambda name: scores[name].mean())
        self._baseline = scores[self.baseline]

    def ratio(self, policy: Policy) -> float:
        """Geometric mean over worlds of its mean response over the baseline's."""
        own = log_mean_responses(self.worlds, policy, self.seeds)
        return float(np.exp((own - self._baseline).mean()))
