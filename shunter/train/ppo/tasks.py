"""The worlds of a PPO training, and what a step costs in each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shunter.agents.learned.base_policy import TUNED_COST_GREEDY
from shunter.envs.gym.vector import observation
from shunter.envs.sim.batch import Batch
from shunter.envs.sim.supply import environment_key
from shunter.envs.workload.seed_ranges import SEED_RANGES
from shunter.envs.world.world import World
from shunter.train.validation import cut_off_late

REFERENCE_SEEDS = SEED_RANGES["reference"]
"""Workload seeds on which the reference policy's number in system is measured."""


@dataclass(frozen=True)
class TrainingTask:
    """A world to train in.

    Attributes:
        world: The compiled scenario at one load.
        cost: What the reference policy, tuned cost-greedy, accrues of the world's objective per time scale:
            the unit of its costs, so that heavily loaded worlds do not drown the others.
        decisions: How many an episode of the reference policy takes, at most of those measured.
    """

    world: World
    cost: float
    decisions: int = 1


def make_task(world: World) -> TrainingTask:
    """Measures a world's unit of cost, and how long its episodes are."""
    world = cut_off_late(world)
    batch = Batch(world, len(REFERENCE_SEEDS), autoreset=False)
    out = batch.reset([environment_key(seed, 0) for seed in REFERENCE_SEEDS])
    running = np.ones(batch.environments, np.bool_)
    cost, time, decisions = 0.0, 0.0, 0
    while running.any():
        out = batch.step(TUNED_COST_GREEDY.act_batch(observation(out, copy=False)))
        cost -= float(out.result["reward"][running].sum())
        time += float(out.result["elapsed"][running].sum())
        decisions += 1
        running &= ~(out.result["terminated"] | out.result["truncated"])
    return TrainingTask(world, max(1e-3, cost / time), decisions)
