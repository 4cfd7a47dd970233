"""What an evaluation is asked to do, made of what a user named: worlds, policies, the performance model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from shunter.agents.base import Policy
from shunter.agents.imported import renamed
from shunter.agents.registry import make_policy
from shunter.agents.sb3 import SB3Policy
from shunter.engines.caller.entries import engine_entry
from shunter.envs.scenario.library import performance_of
from shunter.envs.scenario.scenario import Scenario, load_scenario
from shunter.envs.world.world import World, load_performance, make_world
from shunter.errors import InputError
from shunter.models.performance import PerformanceModel

__all__ = ["prepare"]


@dataclass(frozen=True)
class Asked:
    """What to evaluate.

    Attributes:
        worlds: The compiled scenario at each load.
        policies: Told apart by their names.
        sources: What each was made of, by its name.
        performance: The model that predicts.
    """

    worlds: list[World]
    policies: list[Policy]
    sources: dict[str, str]
    performance: PerformanceModel


def prepare(
    scenario: Scenario | str | Path,
    policies: Sequence[str | Policy],
    seeds: Sequence[int],
    *,
    performance: PerformanceModel | str | Path | None = None,
    engine: str | None = None,
    loads: Sequence[float] = (),
    duration_s: float | None = None,
    unpickle: bool = False,
) -> Asked:
    """Makes everything that ``evaluate_and_save`` was asked for; its arguments say what each is.

    Raises:
        InputError: Something that was asked for breaks a rule.
    """
    chosen = _scenario(scenario, engine, duration_s)
    made = [make_policy(one, unpickle=unpickle) if isinstance(one, str) else one for one in policies]
    tell_apart(policies, made)
    sources = _sources(policies, made)
    if performance is None and not isinstance(scenario, Scenario):
        performance = performance_of(scenario)
    model = load_performance(chosen, performance)
    world = make_world(chosen, model)
    worlds = [world.at_load(load) for load in dict.fromkeys(loads)] or [world]
    for policy in made:
        if isinstance(policy, SB3Policy):
            policy.check(world)
    _check_duration(worlds, seeds, duration_s)
    return Asked(worlds, made, sources, model)


def tell_apart(given: Sequence[str | Policy], made: Sequence[Policy]) -> None:
    """Calls policies of files by their files' names where they are not told apart by their own."""
    names = Counter(policy.name for policy in made)
    files = {
        number: Path(one).resolve().with_suffix("").parts[1:]
        for number, (one, policy) in enumerate(zip(given, made, strict=True))
        if isinstance(one, str) and names[policy.name] > 1 and Path(one).is_file()
    }
    for folders in range(max(map(len, files.values()), default=0)):
        called = {number: "-".join(parts[-folders - 1 :]) for number, parts in files.items()}
        for number, name in called.items():
            renamed(made[number], name)
        if len({policy.name for policy in made}) == len(made):
            return


def _sources(given: Sequence[str | Policy], made: Sequence[Policy]) -> dict[str, str]:
    """What each policy was made of, by its name."""
    names = [policy.name for policy in made]
    if len(set(names)) < len(names):
        raise InputError("--policy", "name each policy once, or as NAME=POLICY", names)
    return {name: one if isinstance(one, str) else name for name, one in zip(names, given, strict=True)}


def _scenario(given: Scenario | str | Path, engine: str | None, duration_s: float | None) -> Scenario:
    """The scenario on another engine, and with episodes that are cut off after so long or earlier."""
    scenario = given if isinstance(given, Scenario) else load_scenario(given)
    if engine is not None:
        engine_entry(engine, field="--engine")
        scenario = scenario.model_copy(update={"engine": engine})
    if duration_s is None:
        return scenario
    max_time_s = min(duration_s, scenario.limits.max_time_s)
    limits = scenario.limits.model_copy(update={"max_time_s": max_time_s})
    return scenario.model_copy(update={"limits": limits})


def _check_duration(worlds: Sequence[World], seeds: Sequence[int], limit_s: float | None) -> None:
    """Refuses requests that would still arrive when a run is cut off; in a closed loop nobody knows."""
    for world, seed in product(worlds, seeds):
        if limit_s is None or world.scenario.workload.closed_loop is not None:
            return
        last_s = float(world.draw(seed).arrival_ns.max()) * 1e-9
        if last_s > limit_s:
            rule = (
                f"be longer than the requests take to arrive: the last of seed {seed} comes at {last_s:.0f} s"
            )
            raise InputError("--duration", rule, f"{limit_s:g} s")
