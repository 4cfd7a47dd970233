"""Worlds whose requests were recorded, and whose loads take what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from shunter.envs.state.state import Requests
from shunter.envs.world.world import World
from shunter.eval.timeline import each
from shunter.eval.traffic.record import good_loads

__all__ = ["SequencesWorld", "StretchesWorld", "measured_loads"]

_SLACK_S = 36_000.0
_LONGEST = 5.0
"""A stretch that lasts longer than this many times the mean one holds a pause that teaches nothing."""


class MeasuredLoad(NamedTuple):
    """What loading a model on a device took.

    Attributes:
        device: Name of the device.
        model: Name of the model.
        loads: How many were measured.
        measured_s: Their median, evictions before them taken off as predicted.
        predicted_s: What the performance model says.
    """

    device: str
    model: str
    loads: int
    measured_s: float
    predicted_s: float


class EndedLoad(NamedTuple):
    """A load of an event log, by indices of a world.

    Attributes:
        device: Index of the device.
        model: Index of the model.
        level: Index of its level.
        took_s: Seconds, evictions before it included.
        evicted_s: What each of these evictions is predicted to take, by index of its model.
    """

    device: int
    model: int
    level: int
    took_s: float
    evicted_s: dict[int, float]


def ended_loads(world: World, events: pd.DataFrame) -> Iterator[EndedLoad]:
    """The loads of an event log that ended well; those that the world does not know are passed over."""
    devices = {device.name: d for d, device in enumerate(world.scenario.devices)}
    models = {model.name: m for m, model in enumerate(world.scenario.models)}
    for row in each(good_loads(events)):
        d, m = devices.get(row.device, -1), models.get(row.model, -1)
        if d >= 0 and m >= 0 and int(row.gpu_layers) in world.gpu_layers[m]:
            gone = [models[name] for name in row.evicted if name in models]
            evicted_s = {g: float(world.tables.unload_s[d, g].max()) for g in gone}
            level = world.gpu_layers[m].index(int(row.gpu_layers))
            yield EndedLoad(d, m, level, float(row.end_s - row.start_s), evicted_s)


def measured_loads(world: World, events: pd.DataFrame) -> tuple[World, list[MeasuredLoad]]:
    """The world with loads that take what they took; levels never loaded change by their model's factor.

    Args:
        world: The compiled scenario.
        events: The event log of a gateway.
    """
    load_s, found = world.tables.load_s.copy(), []
    by_place: dict[tuple[int, int], list[EndedLoad]] = {}
    for load in ended_loads(world, events):
        by_place.setdefault((load.device, load.model), []).append(load)
    for (d, m), loads in sorted(by_place.items()):
        took_s = np.array([load.took_s - sum(load.evicted_s.values()) for load in loads])
        predicted_s = world.tables.load_s[d, m, [load.level for load in loads]]
        load_s[d, m] *= float(np.median(np.maximum(took_s, 1e-3) / predicted_s))
        names = world.scenario.devices[d].name, world.scenario.models[m].name
        found.append(
            MeasuredLoad(*names, len(loads), float(np.median(took_s)), float(np.median(predicted_s)))
        )
    return replace(world, tables=world.tables.changed(load_s=load_s)), found


def _content(requests: Requests) -> bytes:
    return b"".join(values.tobytes() for values in requests)


@dataclass(frozen=True)
class SequencesWorld(World):
    """A world whose episodes are given: that of seed k is the k-th.

    Attributes:
        sequences: Requests of each episode.
    """

    sequences: tuple[Requests, ...] = ()

    @classmethod
    def of(cls, world: World, sequences: Sequence[Requests]) -> SequencesWorld:
        """The world with these episodes, which are not cut off for how long they last."""
        longest_s = max(float(one.arrival_ns[-1]) for one in sequences) * 1e-9 + _SLACK_S
        return cls(**_fields(_lasting(world, longest_s)), sequences=tuple(sequences))

    @property
    def seeds(self) -> range:
        """Those of all episodes."""
        return range(len(self.sequences))

    def content(self) -> bytes:
        """See ``World.content``."""
        return super().content() + b"".join(map(_content, self.sequences))

    def draw(self, seed: int) -> Requests:
        """See ``World.draw``."""
        return self.sequences[seed]

    def chunks(self, seed: int) -> Iterator[Requests]:
        """See ``World.chunks``."""
        yield self.draw(seed)


@dataclass(frozen=True)
class StretchesWorld(World):
    """A world whose episodes are random stretches of recorded requests.

    Attributes:
        trace: All of them.
        starts: Where stretches may begin.
    """

    trace: Requests | None = None
    starts: tuple[int, ...] = ()

    @classmethod
    def of(cls, world: World, trace: Requests, count: int) -> StretchesWorld:
        """The world with stretches of so many requests; at least as many must have been recorded."""
        starts = np.arange(len(trace.arrival_ns) - count + 1)
        last_s = trace.arrival_ns * 1e-9
        lasted_s = last_s[starts + count - 1] - last_s[starts]
        rate_per_s = count / max(1e-3, float(lasted_s.mean()))
        kept = starts[lasted_s <= _LONGEST * count / rate_per_s]
        workload = world.scenario.workload.model_copy(update={"requests": count})
        scenario = world.scenario.model_copy(update={"workload": workload})
        at_rate = replace(world, scenario=scenario, rate_per_s=rate_per_s)
        longest_s = float(lasted_s.max()) + _SLACK_S
        return cls(**_fields(_lasting(at_rate, longest_s)), trace=trace, starts=tuple(kept.tolist()))

    def content(self) -> bytes:
        """See ``World.content``."""
        return super().content() + (b"" if self.trace is None else _content(self.trace))

    def draw(self, seed: int) -> Requests:
        """See ``World.draw``."""
        if self.trace is None:
            return super().draw(seed)
        first = self.starts[int(np.random.default_rng(seed).integers(len(self.starts)))]
        part = slice(first, first + self.scenario.workload.requests)
        arrival_ns, *others = (values[part] for values in self.trace)
        return Requests(arrival_ns - arrival_ns[0] + round(1e9 / self.rate_per_s), *others)

    def chunks(self, seed: int) -> Iterator[Requests]:
        """See ``World.chunks``."""
        yield self.draw(seed)


def _lasting(world: World, longest_s: float) -> World:
    limits = world.scenario.limits
    max_time_s = max(limits.max_time_s, longest_s)
    scenario = world.scenario.model_copy(
        update={"limits": limits.model_copy(update={"max_time_s": max_time_s})}
    )
    tables = world.tables.changed(max_time_ns=round(max_time_s * 1e9))
    return replace(world, scenario=scenario, tables=tables)


def _fields(world: World) -> dict[str, Any]:
    return {name: getattr(world, name) for name in World.__dataclass_fields__}
