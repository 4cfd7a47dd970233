"""Small random worlds, and random policies that are the same in every world: for property tests."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from shunter.agents.base import Policy
from shunter.envs.scenario.objective import with_objective
from shunter.envs.scenario.scenario import Scenario
from shunter.envs.state.state import Requests
from shunter.envs.state.tables import make_tables
from shunter.envs.world.asleep import kept_asleep_bytes
from shunter.envs.world.residents import with_residents
from shunter.envs.world.world import World
from shunter.errors import InputError
from shunter.eval.execution.backends import SimulatedBackend
from shunter.eval.execution.runs import Run, run_policy
from tests.fake_executor import TableDurations

ARRIVALS: list[dict[str, Any]] = [
    {},
    {"arrivals": {"gaps": "gamma", "cv": 3.0}},
    {"arrivals": {"gaps": "weibull", "cv": 0.5}},
    {"arrivals": {"bursts": {"factor": 4, "share": 0.2, "mean_s": 3.0}}},
    {"arrivals": {"diurnal": {"amplitude": 0.9, "period_s": 20.0}}},
    {"arrivals": {"steps": [{"span_s": 5.0, "factor": 1.0}, {"span_s": 2.0, "factor": 6.0}]}},
    {"sessions": {"turns": 3, "models": 1, "gap_s": 0.5}},
    {"popularity_drift_s": 5.0},
]
OBJECTIVES: list[dict[str, Any]] = [
    {},
    {"metric": "slowdown"},
    {"metric": "slo", "slo": {"ttft_s": 0.7, "tpot_s": 0.02}},
    {"metric": "money", "usd_per_hour": {"d0": {"busy": 3.0, "idle": 1.0}}, "waiting_price": 0.001},
]


@st.composite
def worlds(draw: st.DrawFn, *, host_limit: bool = True, requests: int = 16) -> World:
    """A world of 1 to 3 unequal devices and 1 to 5 models, its figures at random."""
    devices, models, levels = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    max_batch = draw(st.integers(1, 4))
    workload: dict[str, Any] = {"requests": requests, "prompt_scale": 0.1, "decode_scale": 0.1}
    if draw(st.booleans()):
        loop = {"users": draw(st.integers(1, 5)), "think_s": float(rng.uniform(0.05, 2.0))}
        workload |= {"closed_loop": loop}
    else:
        workload |= {"rate_per_s": float(rng.uniform(0.5, 8.0)), **draw(st.sampled_from(ARRIVALS))}
    scenario = Scenario.parse(
        {
            "name": "random",
            "engine": "fake",
            "models": [{"name": f"m{i}"} for i in range(models)],
            "devices": [{"name": f"d{i}", "device": "cuda:0-1GB"} for i in range(devices)],
            "workload": workload,
            "limits": {
                "max_batch": max_batch,
                "context_tokens": 256,
                "quantum_steps": draw(st.sampled_from([1, 3, 16, 64])),
                "quantum_s": float(rng.uniform(0.02, 1.0)),
                "guard_s": draw(st.sampled_from(["auto", "off", 0.1, 0.5, 3.0])),
                "max_wait_s": float(rng.uniform(0.05, 3.0)),
                "decision_s": draw(st.sampled_from([0.0, 0.00137])),
                "max_time_s": draw(st.sampled_from([3.0, 200.0])),
            },
            "objective": draw(st.sampled_from(OBJECTIVES)),
        }
    )
    return random_world(scenario, levels, rng, host_limit and draw(st.booleans()))


@st.composite
def keyed_worlds(draw: st.DrawFn, *, requests: int = 16) -> World:
    """A random world whose models have keys of their own, of every kind, as far as there is room."""
    world = draw(worlds(host_limit=False, requests=requests))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    models = [
        {
            "name": model.name,
            "max_batch": int(rng.integers(1, world.max_batch + 1)),
            "context_tokens": int(rng.choice([64, 256])),
            "lengths": rng.choice(["azure2023_conv", "mooncake_synthetic"]),
            "weight": float(rng.uniform(0.1, 3.0)),
            "ttl_s": float(rng.uniform(0.01, 2.0)) if rng.random() < 0.5 else None,
            "replicas_max": int(rng.integers(1, 4)) if rng.random() < 0.5 else None,
            "priority": int(rng.choice([0, 0, 1, 9])),
        }
        for model in world.scenario.models
    ]
    for key in ("pinned", "preload"):
        chosen = models[int(rng.integers(len(models)))]
        place = [True, world.scenario.devices[int(rng.integers(world.devices))].name]
        if rng.random() < 0.6 and not chosen.get("pinned"):
            chosen[key] = place[int(rng.integers(2))]
            chosen["ttl_s"] = None if key == "pinned" else chosen["ttl_s"]
    try:
        return with_keys(world, models)
    except InputError:  # no room for what is to stay
        return with_keys(world, [{**model, "pinned": False, "preload": False} for model in models])


@st.composite
def sleeping_worlds(draw: st.DrawFn, *, requests: int = 16, books: bool = False) -> World:
    """A random world, with keys of models or without, whose engines sleep at level 1 or 2.

    ``books``: one whose host's memory ``BookedDurations`` keep the books of, which know no sleepers.
    """
    world = draw(worlds(requests=requests) | keyed_worlds(requests=requests))
    level = draw(st.sampled_from([1, 2]))
    if books and level == 1:
        world = replace(world, tables=world.tables.changed(host_bytes=np.inf))
    return with_sleep(world, level, draw(st.integers(0, 2**32 - 1)))


def with_sleep(world: World, level: int, seed: int) -> World:
    """The world with sleep at a level, its figures at random."""
    rng, shape = np.random.default_rng(seed), world.levels
    asleep_mb = float(rng.choice([0.0, 5.0, 60.0, 400.0]))
    limits = {**world.scenario.limits.model_dump(), "sleep": level, "asleep_mb": asleep_mb}
    scenario = Scenario.parse({**world.scenario.model_dump(), "limits": limits})
    tables = world.tables.changed(
        sleep=level,
        wake_s=rng.uniform(0.01, 0.2, shape),
        fall_asleep_s=rng.uniform(0.001, 0.1, shape),
        wake_halfwidth=0.3,
        asleep_bytes=np.round(kept_asleep_bytes(scenario.limits, world.tables.footprint_bytes)),
    )
    return replace(world, scenario=scenario, tables=tables)


def with_keys(world: World, models: list[dict[str, Any]]) -> World:
    """The world with models of other keys."""
    scenario = Scenario.parse({**world.scenario.model_dump(), "models": models})
    tables = world.tables.changed(max_batch=[scenario.batch_of(model) for model in scenario.models])
    rows = np.linspace(1.0, 2.0, world.models)[:, None] * tables.remaining_tokens
    tables = with_residents(scenario, tables._replace(remaining_tokens=rows))
    return replace(world, scenario=scenario, tables=tables).with_guard(scenario.limits.guard_s)


def random_world(scenario: Scenario, levels: int, rng: np.random.Generator, host_limit: bool) -> World:
    """A scenario with durations and sizes drawn at random; every model fits every device at some level."""
    devices, models, limits = len(scenario.devices), len(scenario.models), scenario.limits
    shape, max_batch = (devices, models, levels), limits.max_batch
    share = np.linspace(1.0, 0.0, levels + 1)[:levels]
    weight = rng.uniform(0.1, 0.9, models).round(3) * 1e9
    footprint = (weight[None, :, None] * share + 1e6).round() * np.ones((devices, 1, 1))
    capacity = rng.uniform(0.5, 1.5, devices) * 1e9
    level_ok = footprint <= capacity[:, None, None]
    level_ok[:, :, -1] = True
    capacity = np.maximum(capacity, footprint[:, :, -1].max(axis=1)).round()
    grid = np.array([1.0, 16.0, 64.0, 256.0])
    speed = rng.uniform(0.5, 2.0, (*shape, 1))
    step_s = rng.uniform(0.002, 0.03) * speed[..., None] * (1 + 0.2 * np.arange(max_batch))[:, None]
    load_s = rng.uniform(0.05, 1.0, shape)
    tables = make_tables(
        level_ok=level_ok,
        gpu_share=np.broadcast_to(share, shape[1:]),
        footprint_bytes=footprint,
        capacity_bytes=capacity,
        load_s=load_s,
        cold_load_s=load_s * 3.1,
        weight_bytes=weight,
        host_bytes=float(weight.sum() * rng.uniform(0.3, 0.9)) if host_limit else np.inf,
        unload_s=rng.uniform(0.001, 0.1, shape),
        prefill_s=rng.uniform(1e-4, 1e-3) * speed * grid,
        prefill_tokens=grid,
        step_s=step_s * (1 + 0.3 * grid / grid[-1]),
        context_tokens=grid,
        kv_save_s=rng.uniform(1e-5, 1e-4) * speed * grid,
        kv_restore_s=rng.uniform(1e-5, 1e-4) * speed * grid,
        remaining_tokens=np.linspace(30.0, 1.0, 129),
        load_halfwidth=np.full(shape, 0.2),
        prefill_halfwidth=np.full(shape, 0.1),
        step_halfwidth=np.full(shape, 0.1),
        offload_sensitivity=np.ones((devices, models)),
        kv_can_save=rng.random((devices, models, 1)) < 0.5,
        quantum_steps=limits.quantum_steps,
        quantum_ns=round(limits.quantum_s * 1e9),
        max_wait_ns=round(limits.max_wait_s * 1e9),
        decision_ns=round(limits.decision_s * 1e9),
        max_time_ns=round(limits.max_time_s * 1e9),
        max_batch=max_batch,
        oracle=0,
        time_scale_s=1.0,
    )
    tables = with_objective(tables, scenario.objective, [d.name for d in scenario.devices])
    loop = scenario.workload.closed_loop
    rate_per_s = scenario.workload.rate_per_s or (loop.users / loop.think_s if loop else 1.0)
    gpu_layers = (tuple(range(levels, 0, -1)),) * models
    world = World(scenario, tables, gpu_layers, rate_per_s, np.ones(devices))
    return world.with_guard(limits.guard_s)


@dataclass
class ByName:
    """Takes legal actions by a hash of what they are called: the order of models does not matter.

    Attributes:
        world: Names its actions.
        seed: Of the hash.
        only: Names of models that it takes; None: all.
    """

    world: World
    seed: int = 0
    only: frozenset[str] | None = None
    name: str = "by-name"
    oracle: bool = False
    asked: int = field(default=0, init=False)

    def act(self, observation: dict[str, NDArray[Any]]) -> int:
        self.asked += 1
        legal = np.flatnonzero(observation["action_mask"])
        return int(max(legal, key=lambda a: self._score(int(a), observation["candidates"][a])))

    def act_batch(self, observations: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
        raise NotImplementedError

    def _score(self, action: int, candidate: NDArray[Any]) -> tuple[bool, float]:
        text = self.world.action_name(action)
        model = text.removeprefix("evict ").partition("@")[0]
        known = self.only is None or text == "wait" or model in self.only
        chance = zlib.crc32(f"{self.seed}/{self.asked}/{text}".encode()) / 2**32
        return known, chance + (0.5 if candidate[5] > 0 and candidate[2] == 0 else 0.0)


@dataclass(frozen=True)
class BookedDurations(TableDurations):
    """Keeps books of its own of what the host's memory holds; the devices share them."""

    host: OrderedDict[str, float] = field(default_factory=OrderedDict)

    def load_s(self, model: str, checkpoint: str, gpu_layers: int) -> float:
        tables, at = self.world.tables, self.at(model, gpu_layers)
        return float((tables.load_s if self._fetch(model) else tables.cold_load_s)[at])

    def wake_s(self, model: str, checkpoint: str, gpu_layers: int, level: int) -> float:
        tables, at = self.world.tables, self.at(model, gpu_layers)
        from_disk_s = 0.0 if level == 1 or self._fetch(model) else (tables.cold_load_s - tables.load_s)[at]
        return float(tables.wake_s[at] + from_disk_s)

    def _fetch(self, model: str) -> bool:
        """Reads a model's weights; returns whether the host held them."""
        assert self.world is not None
        names = [each.name for each in self.world.scenario.models]
        is_warm = model in self.host
        self.host[model] = float(self.world.tables.weight_bytes[names.index(model)])
        self.host.move_to_end(model)
        while sum(self.host.values()) > float(self.world.tables.host_bytes[0]):
            self.host.popitem(last=False)
        return is_warm


def filled_host(world: World) -> OrderedDict[str, float]:
    """What the host's memory holds when an episode begins."""
    host: OrderedDict[str, float] = OrderedDict()
    total = 0.0
    for model, size in zip(world.scenario.models, world.tables.weight_bytes, strict=True):
        total += float(size)
        if total <= float(world.tables.host_bytes[0]):
            host[model.name] = float(size)
    return host


def run_on(world: World, requests: Requests, policy: Policy) -> Run:
    """What a policy does with these requests in simulation."""
    return run_policy(
        world,
        requests,
        policy,
        seed=0,
        make_backend=lambda on_end: SimulatedBackend(world, requests, on_end),
        mode="simulated",
    )
