"""The worlds of a PPO training: what a step costs in each."""

from __future__ import annotations

from dataclasses import dataclass

from shunter.envs.sim.supply import environment_key
from shunter.envs.workload.seed_ranges import SEED_RANGES
from shunter.envs.world.world import World
from shunter.train.ppo.twins import play_twin
from shunter.train.validation import cut_off_late

__all__ = ["Course", "make_course"]

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


def make_course(world: World) -> Course:
    """Measures a world's unit of cost."""
    world = cut_off_late(world)
    traces = [play_twin(world, environment_key(seed, 0), 0) for seed in REFERENCE_SEEDS]
    cost = sum(float(trace.costs[-1]) for trace in traces)
    time = sum(float(trace.times[-1]) for trace in traces)
    return Course(world, max(1e-3, cost / time))
