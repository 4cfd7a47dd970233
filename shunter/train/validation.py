"""How a policy does in the worlds of a training, against the best single heuristic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from shunter.agents.learned.policy import LearnedPolicy
from shunter.envs.world.world import World
from shunter.train.search.trials import Trials, score_of
from shunter.train.selection import heuristics, log_costs


def cut_off_late(world: World) -> World:
    """The world with its episodes cut off where environments do so by default: ``World.late_s``."""
    limits = world.scenario.limits
    max_time_s = min(limits.max_time_s, world.late_s)
    scenario = world.scenario.model_copy(
        update={"limits": limits.model_copy(update={"max_time_s": max_time_s})}
    )
    tables = world.tables.changed(max_time_ns=round(max_time_s * 1e9))
    return replace(world, scenario=scenario, tables=tables)


class PolicyValidation:
    """Scores policies against the best single heuristic on the same requests.

    Args:
        worlds: Worlds to score in.
        seeds: Seeds of the workloads, the same in every world.

    Attributes:
        baseline: The heuristic that costs least of what is trained for, geometric mean over the worlds.
    """

    def __init__(self, worlds: Sequence[World], seeds: Sequence[int]) -> None:
        self.worlds, self.seeds = worlds, seeds
        scores = {name: log_costs(worlds, policy, seeds) for name, policy in heuristics(worlds).items()}
        self.baseline = min(scores, key=lambda name: scores[name].mean())
        self._baseline = scores[self.baseline]

    def ratio(self, policy: LearnedPolicy) -> float:
        """Geometric mean over worlds of what it costs over what the baseline costs."""
        own = []
        for world in self.worlds:  # what ``log_costs`` gives, without tables of requests
            trials = Trials(world, self.seeds, width=policy.width, score=score_of(world))
            own.append(np.log(trials.costs(policy.vector[None])[0].mean()))
        return float(np.exp((np.array(own) - self._baseline).mean()))
