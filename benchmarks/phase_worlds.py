"""Worlds and rules of ``python -m benchmarks.preemption_phase``.

Four ways to share a device, each by a few known rules. To **preempt** is to evict a model with started,
unfinished requests, which costs a reload later; models that are resident together may take turns in all four.

========  =================  ==================
way       evicts unfinished  levels
========  =================  ==================
wait      no                 whole models
preempt   yes                whole models
offload   no                 all levels
both      yes                all levels
========  =================  ==================

A whole model is one at the highest level that the device can hold: the largest may not fit as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.agents.base import Policy, is_, value
from shunter.agents.registry import make_policy
from shunter.envs.scenario.scenario import load_scenario
from shunter.envs.world.world import World, make_world

__all__ = ["WAYS", "KeepStarted", "Rule", "Setting", "one_level", "phase_world", "rules"]

WAYS = ("wait", "preempt", "offload", "both")
REQUESTS = 300


class KeepStarted:
    """Leaves a policy only actions that evict no resident with started requests.

    Args:
        inner: Decides among the others.
    """

    def __init__(self, inner: Policy) -> None:
        self.inner = inner
        self.name = f"keep-started({inner.name})"
        self.oracle = inner.oracle

    def act(self, observation: dict[str, NDArray[Any]]) -> int:
        """Chooses for one observation."""
        return self.inner.act({**observation, "action_mask": self._left(observation)})

    def act_batch(self, observations: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
        """Chooses for a batch of observations; returns shape (batch,)."""
        return self.inner.act_batch({**observations, "action_mask": self._left(observations)})

    def _left(self, observation: dict[str, NDArray[Any]]) -> NDArray[np.int8]:
        """Without evictions of started residents, and without loads that need one or change such a level."""
        candidates, legal = observation["candidates"], observation["action_mask"] > 0
        evict, load = is_(candidates, "evict"), is_(candidates, "load")
        started, resident = value(candidates, "started") > 0, value(candidates, "resident_here") > 0
        spare = np.where(evict & resident & ~started, value(candidates, "footprint"), 0.0)
        # Features are float32: a load that needs every spare byte but a millionth is left out.
        lacks = value(candidates, "shortage") > spare.sum(axis=-1, keepdims=True) - 1e-6
        needs = load & (value(candidates, "shortage") > 0) & lacks
        left = legal & ~(evict & started) & ~needs & ~(load & resident & started)
        return np.where(left.any(axis=-1, keepdims=True), left, legal).astype(np.int8)


@dataclass(frozen=True)
class Rule:
    """A policy that shares a device in one of the four ways.

    Attributes:
        way: One of ``WAYS``.
        text: The policy as ``make_policy`` reads it.
        levels: Which each model may have: ``whole``, ``all``, or only its ``least``, so that most fit.
    """

    way: str
    text: str
    levels: str = "all"

    @property
    def policy(self) -> Policy:
        """Made, and kept from evicting residents with started requests where the way asks for that."""
        policy = make_policy(self.text)
        return KeepStarted(policy) if self.way in ("wait", "offload") else policy

    @property
    def name(self) -> str:
        """In tables."""
        return f"{self.text.partition(':')[0]}, {self.levels} levels"

    def world(self, world: World) -> World:
        """The world with the levels that it may use."""
        return world if self.levels == "all" else one_level(world, least=self.levels == "least")


def rules(tuned: dict[str, str]) -> tuple[Rule, ...]:
    """The rules of all ways.

    Args:
        tuned: Heuristics with their parameters, by name.
    """
    greedy, pressure = tuned["cost-greedy"], tuned["pressure-greedy"]
    beside = "lru-keepalive:partial=beside"
    return (
        *(Rule("wait", text, "whole") for text in (greedy, pressure, tuned["exhaustive"], "never-preempt")),
        *(Rule("preempt", text, "whole") for text in (greedy, pressure, tuned["fifo-collated"])),
        *(Rule("offload", text) for text in (greedy, beside)),
        *(Rule("offload", text, "least") for text in (greedy, pressure)),
        *(Rule("both", text) for text in (greedy, beside)),
        *(Rule("both", text, "least") for text in (greedy, pressure)),
    )


@dataclass(frozen=True)
class Setting:
    """One cell of the diagram, but for the load.

    Attributes:
        machine: Scenario of the library.
        reload: Factor on all load and unload times.
        length: Factor on decode lengths.
    """

    machine: str
    reload: float
    length: float


def phase_world(setting: Setting) -> World:
    """A machine whose loads and answers take other times; the unit of time follows."""
    scenario = load_scenario(setting.machine)
    changes = {
        "requests": REQUESTS,
        "decode_scale": scenario.workload.decode_scale * setting.length,
        "capacity_rate_per_s": None,
    }
    workload = scenario.workload.model_copy(update=changes)
    world = make_world(scenario.model_copy(update={"workload": workload}))
    tables, more = world.tables, setting.reload - 1.0
    changed = tables.changed(
        **{name: setting.reload * getattr(tables, name) for name in ("load_s", "cold_load_s", "unload_s")},
        time_scale_s=world.time_scale_s + more * float(tables.load_s[tables.level_ok].mean()),
    )
    return replace(world, tables=changed)


def one_level(world: World, *, least: bool) -> World:
    """The same world with one level of each model on each device: the highest that fits, or the least."""
    ok = world.tables.level_ok
    order = ok[..., ::-1] if least else ok
    first = order & (np.cumsum(order, axis=-1) == 1)
    return replace(world, tables=world.tables.changed(level_ok=first[..., ::-1] if least else first))
