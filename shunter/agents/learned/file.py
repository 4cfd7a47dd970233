"""What a policy was trained on, as its file records it, and how far a scenario is from that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shunter.agents.base import Policy
from shunter.agents.learned.policy import LearnedPolicy
from shunter.envs.scenario.fields import Strict
from shunter.envs.state.tables import Tables
from shunter.envs.workload.shares import shares_of
from shunter.envs.world.world import World

__all__ = ["FACTS", "TrainedOn", "distance_from_training", "load_of", "training_of", "training_record"]

TOLERANCE = 0.01
"""How far beyond a range still counts as within it."""


class Fact(NamedTuple):
    """A fact of a world that a policy may depend on.

    Attributes:
        text: What it is called.
        unit: After ``scale`` is divided out; ``count`` for whole numbers, ``yes`` for what holds (1) or not.
        scale: What it is divided by when shown.
    """

    text: str
    unit: str = ""
    scale: float = 1.0

    def show(self, value: float) -> str:
        """A value with its unit."""
        if self.unit == "yes":
            return "yes" if value else "no"
        return f"{value / self.scale:.3g} {self.unit}".removesuffix("count").strip()


FACTS = {
    "devices": Fact("devices", "count"),
    "models": Fact("models", "count"),
    "actions": Fact("candidates of a decision", "count"),
    "max_batch": Fact("requests in a batch", "count"),
    "capacity_share": Fact("load"),
    "device_bytes": Fact("device memory", "GB", 1e9),
    "model_bytes": Fact("model weights", "GB", 1e9),
    "models_per_device": Fact("models per device"),
    "weights_over_memory": Fact("weights of all models over memory of all devices"),
    "all_fit": Fact("all models fit at once", "yes"),
    "memory_ratio": Fact("largest over smallest device memory"),
    "speed_ratio": Fact("fastest over slowest device"),
    "popularity_top": Fact("most popular model's share of requests", "%", 0.01),
    "popularity_least": Fact("least popular model's share of requests", "%", 0.01),
    "rarest_gap": Fact("time between requests of the least popular model", "time scales"),
    "decode_bytes_per_s": Fact("weights over a decode step", "GB/s", 1e9),
    "load_bytes_per_s": Fact("weights over a load", "GB/s", 1e9),
}
"""What is compared, where a policy's file has it. ``decode_bytes_per_s`` is the memory bandwidth that a
device effectively has, with one request in the batch and as many layers on the device as fit: data sheets are
not known of every device. A device's speed is that of a mean request. Shares of requests are left out where
a session's requests ask for the same models. Older files have ``load``, which meant another share.
"""

Ranges = dict[str, tuple[float, float]]


class TrainedOn(Strict):
    """Where a policy comes from.

    Attributes:
        scenarios: Names of the scenarios, sorted.
        models: Names of the models, sorted.
        devices: Devices as the scenarios name them, sorted.
        loads: Loads of the worlds, ascending.
        steps: Decisions trained for.
        seed: Seed of the training.
        settings: Everything else that was set.
        task: Digest of the worlds and of what training started from; empty in older files.
        ranges: For each of ``FACTS`` the lowest and the highest value over the worlds in which it is known.
    """

    scenarios: list[str]
    models: list[str]
    devices: list[str]
    loads: list[float]
    steps: int
    seed: int
    settings: dict[str, Any]
    task: str = ""
    ranges: dict[str, tuple[float, float]]


def load_of(world: World) -> float:
    """The load at which a world's requests arrive, as scenarios mean ``load``: undoes ``World.rate_at``."""
    return world.rate_per_s / world.rate_at(1.0)


def world_facts(world: World) -> Ranges:
    """The lowest and the highest value of each of ``FACTS`` in a world, as far as they are known."""
    tables = world.tables
    top = tables.level_ok.argmax(-1)[..., None]  # levels are in descending order of layers on the device
    fits = tables.level_ok.any(-1)
    serving_s = world.service_s[np.isfinite(world.service_s)]

    def rates(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        at_top = np.take_along_axis(seconds, top, -1)[..., 0]
        per_s: NDArray[np.float64] = (tables.weight_bytes / np.maximum(at_top, 1e-9))[fits]
        return per_s

    values: dict[str, Any] = {
        "devices": world.devices,
        "models": world.models,
        "actions": world.actions,
        "max_batch": world.max_batch,
        "capacity_share": load_of(world),
        "device_bytes": tables.capacity_bytes,
        "model_bytes": tables.weight_bytes,
        "models_per_device": world.models / world.devices,
        "weights_over_memory": tables.weight_bytes.sum() / tables.capacity_bytes.sum(),
        "all_fit": _all_fit(tables),
        "memory_ratio": tables.capacity_bytes.max() / tables.capacity_bytes.min(),
        "speed_ratio": serving_s.max() / serving_s.min(),
        "decode_bytes_per_s": rates(tables.step_s[..., 0, 0]),
        "load_bytes_per_s": rates(tables.load_s),
        **_popularity_facts(world),
    }
    return {name: (float(np.min(value)), float(np.max(value))) for name, value in values.items()}


def _popularity_facts(world: World) -> dict[str, float]:
    """Nothing where not each request asks for a model of its own; models never asked for do not count."""
    workload = world.scenario.workload
    if workload.sessions or (workload.replay and workload.replay.models == "session"):
        return {}
    shares = shares_of(world.scenario)
    shares = shares[shares > 0]
    gap_s = 1.0 / (world.rate_per_s * shares.min())
    return {
        "popularity_top": shares.max(),
        "popularity_least": shares.min(),
        "rarest_gap": gap_s / world.time_scale_s,
    }


def _all_fit(tables: Tables) -> bool:
    """Whether the devices hold all models at their highest levels: the largest first, where it fits best."""
    left = tables.capacity_bytes.copy()
    sizes = tables.footprint_bytes[:, :, 0]
    for model in np.argsort(-sizes.min(0)):
        after = left - sizes[:, model]
        if after.max() < 0:
            return False
        device = np.where(after >= 0, after, np.inf).argmin()
        left[device] = after[device]
    return True


def training_record(
    worlds: Sequence[World], *, steps: int, seed: int, settings: Mapping[str, Any], task: str = ""
) -> dict[str, str]:
    """Metadata of a policy file that says what the policy was trained on.

    Args:
        worlds: Worlds trained in.
        steps: Decisions trained for.
        seed: Seed of the training.
        settings: All other settings of the training, as plain data.
        task: Digest of the worlds and of what training started from.
    """
    facts = [world_facts(world) for world in worlds]
    scenarios = [world.scenario for world in worlds]
    training = TrainedOn(
        scenarios=sorted({s.name for s in scenarios}),
        models=sorted({m.name for s in scenarios for m in s.models}),
        devices=sorted({d.text for s in scenarios for d in s.devices}),
        loads=sorted({round(load_of(world), 4) for world in worlds}),
        steps=steps,
        seed=seed,
        settings=dict(settings),
        task=task,
        ranges={name: ends for name in FACTS if (ends := _ends([f[name] for f in facts if name in f]))},
    )
    return {"training": training.model_dump_json()}


def _ends(ranges: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """The lowest and the highest of several ranges; None if there are none."""
    return (min(low for low, _ in ranges), max(high for _, high in ranges)) if ranges else None


def training_of(policy: LearnedPolicy) -> TrainedOn | None:
    """What the policy's file says of its training; None if nothing.

    Raises:
        BrokenFileError: It says so in no form of ours.
    """
    return policy.recorded("training", TrainedOn, "training")


def distance_from_training(policy: Policy, world: World) -> list[str]:
    """How far a world is beyond what a policy was trained on.

    Returns:
        A line for each fact out of range; none for policies that were not trained.
    """
    if not isinstance(policy, LearnedPolicy):
        return []
    training = training_of(policy)
    if training is None:
        return ["its file does not say what it was trained on"]
    lines = []
    for name, (low, high) in world_facts(world).items():
        if name in training.ranges:
            lines += _beyond(FACTS[name], low, high, *training.ranges[name])
    return lines


def _beyond(fact: Fact, low: float, high: float, known_low: float, known_high: float) -> list[str]:
    lines = []
    if low < known_low * (1 - TOLERANCE):
        lines.append(_line(fact, low, "from", known_low))
    if high > known_high * (1 + TOLERANCE):
        lines.append(_line(fact, high, "up to", known_high))
    return lines


def _line(fact: Fact, value: float, bound: str, known: float) -> str:
    if fact.unit == "yes":
        return f"{fact.text}: {fact.show(value)}, never so in training"
    if fact.unit == "count":
        by = f"{abs(value - known):.0f} {'more' if value > known else 'fewer'}"
    else:
        by = f"{abs(value / known - 1):.0%} {'above' if value > known else 'below'}"
    return f"{fact.text}: {fact.show(value)}, trained {bound} {fact.show(known)} ({by})"
