"""Options of real runs: interpreters, deadlines, chaos, and the time that a run may take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shunter.cli.options import seconds
from shunter.envs.scenario.scenario import Scenario
from shunter.envs.world.world import World
from shunter.errors import InputError
from shunter.eval.execution.chaos import parse_chaos
from shunter.eval.execution.station import Deadline

__all__ = ["check_duration", "real_options", "with_duration"]


def real_options(
    scenario: Scenario, *, real: bool, python: Sequence[str] | None, hang_after: str, chaos: str | None
) -> dict[str, Any]:
    """What ``open_engines`` is told beside the world.

    Raises:
        InputError: An option cannot be read, names an engine that the scenario does not use, or asks for
            chaos without --real.
    """
    if chaos is not None and not real:
        raise InputError("--chaos", "be given with --real: the simulator's engines never fail", chaos)
    return {
        "python": _interpreters(scenario, python or ()),
        "deadline": Deadline(least_s=seconds("--hang-after", hang_after)),
        "chaos": None if chaos is None else parse_chaos(chaos),
    }


def _interpreters(scenario: Scenario, given: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in given:
        engine, separator, path = text.partition("=")
        if not separator:
            found.update(dict.fromkeys(scenario.engines, text))
        elif engine in scenario.engines:
            found[engine] = path
        else:
            used = ", ".join(scenario.engines)
            raise InputError("--python", f"name an engine that the scenario uses ({used})", text)
    return found


def with_duration(scenario: Scenario, limit_s: float) -> Scenario:
    """A scenario whose episodes are cut off after so long, or as early as before."""
    limits = scenario.limits.model_copy(update={"max_time_s": min(limit_s, scenario.limits.max_time_s)})
    return scenario.model_copy(update={"limits": limits})


def check_duration(world: World, seeds: Sequence[int], limit_s: float) -> None:
    """Refuses requests that would still arrive when a run is cut off.

    Raises:
        InputError: Those of a seed do; in a closed loop nobody knows, and none is refused.
    """
    if world.scenario.workload.closed_loop is not None:
        return
    for seed in seeds:
        last_s = float(world.draw(seed).arrival_ns.max()) * 1e-9
        if last_s > limit_s:
            rule = (
                f"be longer than the requests take to arrive: the last of seed {seed} comes at {last_s:.0f} s"
            )
            raise InputError("--duration", rule, f"{limit_s:g} s")
