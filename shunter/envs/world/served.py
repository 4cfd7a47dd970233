"""Scenarios as servers are scheduled: what runs is drained."""

from __future__ import annotations

from pathlib import Path

from shunter.envs.scenario.scenario import Scenario
from shunter.envs.world.world import World, make_world
from shunter.models.assumed import AssumedPerformance
from shunter.models.performance import PerformanceModel
from shunter.models.published.performance import ENGINE

__all__ = ["is_assumed", "served_world"]


def served_world(scenario: Scenario, performance: Path | PerformanceModel | None = None) -> World:
    """Compiles a scenario as a gateway has it, whatever its ``limits.preemption`` says.

    Args:
        scenario: What is served where.
        performance: Fitted performance model; None: published figures where llama.cpp serves on GPUs of the
            catalogue alone, else assumed from sizes.

    Raises:
        InputError: See ``make_world``.
    """
    limits = scenario.limits.model_copy(update={"preemption": "drain"})
    drained = scenario.model_copy(update={"limits": limits})
    return make_world(drained, AssumedPerformance() if is_assumed(scenario, performance) else performance)


def is_assumed(scenario: Scenario, performance: object = None) -> bool:
    """Whether ``served_world`` knows no better than to assume speeds from sizes."""
    is_published = scenario.engines == [ENGINE] and all(device.gpu is not None for device in scenario.devices)
    return performance is None and not is_published
