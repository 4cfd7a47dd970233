"""How many real runs tell policies apart on this machine, and how long they take: said before any is made."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shunter.agents.base import Policy
from shunter.envs.world.world import World
from shunter.errors import ShunterError
from shunter.eval.execution.runs import simulate
from shunter.eval.metrics.changes import RESOLUTION, TYPICAL_SPREAD, runs_needed
from shunter.eval.read_back import read_results
from shunter.eval.saved import FILES
from shunter.profiling.dataset.fingerprint import hardware_id

__all__ = ["plan_runs"]

SIMULATED_SEEDS = 3
"""Request sequences whose simulation says how long a run takes."""


@dataclass(frozen=True)
class RunPlan:
    """How many real runs a wished resolution takes.

    Attributes:
        resolution: The difference of mean responses that is to be found, relative.
        spread: By how much the log ratio of two policies differs from round to round.
        runs: Runs of each policy.
        policies: How many policies.
        run_s: Mean duration of a run, as simulated.
        reports: Earlier reports of this machine and engine that the spread is from; 0: it is assumed.
        unread: Reports beside them that cannot be read, and why.
    """

    resolution: float
    spread: float
    runs: int
    policies: int
    run_s: float
    reports: int
    unread: tuple[str, ...] = ()

    @property
    def duration_s(self) -> float:
        """Seconds that all runs take."""
        return self.runs * self.policies * self.run_s

    def words(self) -> list[str]:
        """The plan as lines, the answer first."""
        minutes = max(1, math.ceil(self.duration_s / 60))
        of = f"{self.reports} earlier reports" if self.reports > 1 else "an earlier report"
        basis = f"of {of} here" if self.reports else "assumed: no report of this machine and engine is here"
        return [
            f"To tell {self.resolution:.0%} apart here: about {self.runs} runs a policy, {minutes} min "
            f"({self.policies} policies, {self.run_s:.0f} s a run; their spread {self.spread:.0%}, {basis}).",
            f"As --seeds {self.runs}, or fewer seeds with --repeats. Found four times out of five, at 95 %.",
            *(f"Note: not read: {line}" for line in self.unread),
        ]


def plan_runs(
    world: World, policies: Sequence[Policy], reports: Path, *, resolution: float = RESOLUTION
) -> RunPlan:
    """Plans real runs from simulated durations and the spread of earlier real runs.

    Args:
        world: The compiled scenario.
        policies: Those to tell apart.
        reports: Folder whose folders may hold earlier evaluations.
        resolution: The difference to find, relative.
    """
    unread: list[str] = []
    earlier = [found for found in _results(reports, unread) if _is_like(found, world)]
    spreads = [one["real_runs"]["spread"] for one in earlier]
    spread = float(np.sqrt(np.mean(np.square(spreads)))) if spreads else TYPICAL_SPREAD
    seeds = range(SIMULATED_SEEDS)
    run_s = float(
        np.mean([simulate(world, policy, seed).makespan_s for policy in policies for seed in seeds])
    )
    return RunPlan(
        resolution,
        spread,
        runs_needed(spread, resolution),
        len(policies),
        run_s,
        len(earlier),
        tuple(unread),
    )


def _results(folder: Path, unread: list[str]) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob(f"*/{FILES['results']}")):
        try:
            yield read_results(path)
        except ShunterError as error:
            unread.append(str(error))


def _is_like(result: dict[str, Any], world: World) -> bool:
    """Whether real runs of this machine and engine are in it, and enough to have a spread."""
    runs = result.get("real_runs")
    same = (
        result["scenario"].get("engine") == world.scenario.engine
        and result["provenance"].get("machine_id") == hardware_id()
    )
    return same and isinstance(runs, dict) and isinstance(runs.get("spread"), float)
