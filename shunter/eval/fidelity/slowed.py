"""Simulation on a machine as slow as the real one was: what is left of the error then is the simulator's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from shunter.agents.base import Policy
from shunter.envs.world.world import World
from shunter.eval.execution.course import MachineCourse, Stretch
from shunter.eval.execution.runs import Run, simulate
from shunter.eval.execution.sentinel import PARTS


def slowed(world: World, factors: Sequence[dict[str, float]]) -> World:
    """A world whose operations take longer than predicted.

    Args:
        world: The compiled scenario.
        factors: For each device by how much a ``load``, a ``prefill`` and a ``decode`` do; unloads go with
            loads, and KV copies, which are memory's, with decodes.
    """
    load, prefill, decode = (np.array([one[part] for one in factors])[:, None, None] for part in PARTS)
    tables = world.tables
    loads = ("load_s", "cold_load_s", "unload_s", "wake_s", "fall_asleep_s")
    times = {name: getattr(tables, name) * load for name in loads}
    copies = {name: getattr(tables, name) * decode[..., None] for name in ("kv_save_s", "kv_restore_s")}
    changed = tables.changed(**times)._replace(
        prefill_s=tables.prefill_s * prefill[..., None],
        step_s=tables.step_s * decode[..., None, None],
        **copies,
    )
    return replace(world, tables=changed)


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
