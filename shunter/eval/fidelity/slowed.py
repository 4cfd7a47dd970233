"""Simulation on a machine as slow as the real one was: what is left of the error then is the simulator's."""

from __future__ import annotations

import numpy as np

from shunter.agents.base import Policy
from shunter.envs.world.world import World
from shunter.eval.execution.course import MachineCourse, Stretch
from shunter.eval.execution.runs import Run, simulate
from shunter.eval.execution.sentinel import PARTS
from shunter.eval.execution.slowdowns import slowed

__all__ = ["simulate_slowed"]


def simulate_slowed(world: World, policy: Policy, course: MachineCourse, stretch: Stretch) -> Run | None:
    """Simulates a real run at the speed that the sentinel saw around it; None where it saw none.

    Args:
        world: The compiled scenario.
        policy: The policy that ran.
        course: The machine while it ran.
        stretch: When it ran.
    """
    factors = [
        {part: course.slowdown(stretch, part, device.name) for part in PARTS}
        for device in world.scenario.devices
    ]
    if not all(np.isfinite(value) for one in factors for value in one.values()):
        return None
    return simulate(slowed(world, factors), policy, stretch.turn.seed)
