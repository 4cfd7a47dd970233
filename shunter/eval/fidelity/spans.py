"""Spans of a real run: how long what an event log tells apart took, and what it should have taken.

A row of a log is an operation that consists of several parts: KV saves, unloads and a load; or restores,
prefills and decode steps. First tokens cut it into spans. What each span holds follows from the rows before
it: which requests a device holds, and how many tokens they have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from shunter.envs.rules.durations import interpolate, step_s
from shunter.envs.state.state import Requests
from shunter.envs.world.world import World
from shunter.errors import InputError

__all__ = ["run_spans"]

LIVE, SAVED, DROPPED = "live", "saved", "dropped"


class Part(NamedTuple):
    """What a part of a span is predicted by: a target, for a device and a model by index."""

    target: str
    device: int
    model: int


@dataclass(frozen=True)
class Span:
    """A stretch of an operation.

    Attributes:
        measured_s: How long it took.
        parts_s: What each of its parts should have taken.
        start_s: When it began, since the start of the episode.
    """

    measured_s: float
    parts_s: dict[Part, float]
    start_s: float = 0.0

    @property
    def predicted_s(self) -> float:
        """What it should have taken in all."""
        return sum(self.parts_s.values())


@dataclass
class _Request:
    prompt_tokens: int
    decode_tokens: int
    generated: int = 0
    device: int = -1
    model: int = -1
    kv: str = DROPPED

    @property
    def held_tokens(self) -> int:
        return self.prompt_tokens + self.generated


@dataclass
class _Cutter:
    """Cuts one row into spans at times given in order."""

    last_s: float
    parts_s: dict[Part, float] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)

    def add(self, part: Part, seconds: float) -> None:
        self.parts_s[part] = self.parts_s.get(part, 0.0) + seconds

    def cut(self, at_s: float) -> None:
        if self.parts_s:
            self.spans.append(Span(at_s - self.last_s, self.parts_s, self.last_s))
        self.last_s, self.parts_s = at_s, {}


def run_spans(world: World, requests: Requests, rows: pd.DataFrame) -> list[Span]:
    """Cuts one run's operations into spans; what was cut off, or failed, is left out.

    Args:
        world: The run's scenario, with the performance model that predicts.
        requests: Requests of the run.
        rows: Its event log; shape (n_decisions, ...).

    Raises:
        InputError: The log does not fit the scenario.
    """
    return list(_Walk(world, requests).spans(rows))


class _Walk:
    """Follows a run through its log: which model is where, and how far each request is."""

    def __init__(self, world: World, requests: Requests) -> None:
        self.tables = world.tables
        self.devices = [d.name for d in world.scenario.devices]
        self.models = [m.name for m in world.scenario.models]
        self.gpu_layers = world.gpu_layers
        # Where the host's memory is limited a load may be from disk, which the log does not say.
        self.sleeps = world.scenario.limits.sleep != 0
        self.knows_loads = world.scenario.limits.host_memory_gb is None and not self.sleeps
        lengths = zip(requests.prompt_tokens.tolist(), requests.decode_tokens.tolist(), strict=True)
        self.requests = [_Request(*pair) for pair in lengths]
        self.resident: dict[tuple[int, int], int] = {}

    def spans(self, rows: pd.DataFrame) -> Iterator[Span]:
        done = rows[rows["operation"].isin(["run", "load", "evict"]) & rows["end_s"].notna()]
        records: list[dict[str, Any]] = done.to_dict("records")  # type: ignore[assignment]
        for row in records:
            device = self._index(self.devices, "device", row["device"])
            if isinstance(row["fault"], str):
                self._lose(device, row["lost"])
                continue
            model = self._index(self.models, "model", row["model"])
            level = self._index(self.gpu_layers[model], "gpu_layers", row["gpu_layers"])
            cutter = _Cutter(float(row["start_s"]))
            if row["operation"] == "run":
                self._run(cutter, row, (device, model, level))
            else:
                self._change(cutter, row, (device, model, level))
            cutter.cut(float(row["end_s"]))
            yield from cutter.spans

    def _index(self, known: Sequence[Any], what: str, value: Any) -> int:
        if value not in known:
            raise InputError(f"event log: {what}", f"be one of the scenario's: {list(known)}", value)
        return list(known).index(value)

    def _change(self, cutter: _Cutter, row: dict[str, Any], at: tuple[int, int, int]) -> None:
        """Evictions, and a load if it is one."""
        device, model, level = at
        for name in row["evicted"]:
            gone = self._index(self.models, "evicted", name)
            if not self.sleeps or (device, gone) in self.resident:  # else a sleeper is ended
                self._evict(cutter, device, gone)
        if self.sleeps:  # falling asleep and waking are no unloads and loads
            cutter.parts_s = {}
        if row["operation"] == "load":
            self.resident[device, model] = level
            cutter.add(Part("load_s", device, model), float(self.tables.load_s[at]))
            if not self.knows_loads:
                cutter.parts_s = {}

    def _lose(self, device: int, names: Sequence[str]) -> None:
        """An engine was started again: its models, and what their requests held on the device, are gone."""
        for model in (self._index(self.models, "lost", name) for name in names):
            self.resident.pop((device, model), None)
            for r in self.requests:
                if (r.device, r.model) == (device, model):
                    r.kv = DROPPED

    def _evict(self, cutter: _Cutter, device: int, model: int) -> None:
        if (device, model) not in self.resident:
            raise InputError("event log: evicted", "be resident before", self.models[model])
        at = device, model, self.resident.pop((device, model))
        saves = bool(self.tables.kv_can_save[at])
        for r in self.requests:
            if (r.device, r.model, r.kv) == (device, model, LIVE):
                if saves:
                    seconds = self._over(r.held_tokens - 1, self.tables.kv_save_s[at])
                    cutter.add(Part("kv_save_s", device, model), seconds)
                r.kv = SAVED if saves else DROPPED
        cutter.add(Part("unload_s", device, model), float(self.tables.unload_s[at]))

    def _run(self, cutter: _Cutter, row: dict[str, Any], at: tuple[int, int, int]) -> None:
        """Joins one after another, then decode steps."""
        device, model, _ = at
        batch = [self._request(int(i)) for i in row["request_ids"]]
        steps = []
        for r, tokens, first_s in zip(batch, row["tokens"], row["first_s"], strict=True):
            prefilled = self._join(cutter, r, at)
            if prefilled and first_s is not None and not np.isnan(first_s):
                cutter.cut(float(first_s))
            r.device, r.model, r.kv = device, model, LIVE
            r.generated += prefilled
            steps.append(int(tokens) - prefilled)
        if max(steps, default=0) != row["steps"] or min(steps, default=0) < 0:
            raise InputError("event log: steps", f"be {max(steps, default=0)}, by its tokens", row["steps"])
        self._decode(cutter, batch, np.array(steps), at)
        for r, ran, finish_s in zip(batch, steps, row["finish_s"], strict=True):
            r.generated += ran
            finished = finish_s is not None and not np.isnan(finish_s)
            if finished != (r.generated == r.decode_tokens):
                rule = "end requests at the lengths that the scenario draws for its seed"
                raise InputError("event log", rule, f"{r.generated} of {r.decode_tokens} tokens")
            if finished:
                r.kv = DROPPED

    def _request(self, index: int) -> _Request:
        if not 0 <= index < len(self.requests):
            rule = f"be below {len(self.requests)}, the scenario's requests"
            raise InputError("event log: request_ids", rule, index)
        return self.requests[index]

    def _join(self, cutter: _Cutter, r: _Request, at: tuple[int, int, int]) -> int:
        """Adds what a request needs before it can decode; returns the tokens that this makes."""
        device, model, _ = at
        if r.kv == LIVE:
            return 0
        if r.kv == SAVED:
            seconds = self._over(r.held_tokens - 1, self.tables.kv_restore_s[at])
            cutter.add(Part("kv_restore_s", device, model), seconds)
            return 0
        seconds = interpolate(float(r.held_tokens), self.tables.prefill_tokens, self.tables.prefill_s[at])
        cutter.add(Part("prefill_s", device, model), float(seconds))
        return 1

    def _decode(
        self, cutter: _Cutter, batch: list[_Request], steps: np.ndarray, at: tuple[int, int, int]
    ) -> None:
        """From one finish to the next the batch is the same and its mean context grows by one a step."""
        held = np.array([r.held_tokens for r in batch], dtype=np.float64)
        done = 0
        for until in np.unique(steps[steps > 0]).tolist():
            active = steps >= until
            context_tokens = float(held[active].mean()) + (done + until - 1) / 2
            seconds = (until - done) * step_s(self.tables, *at, int(active.sum()), context_tokens)
            cutter.add(Part("decode_step_s", at[0], at[1]), float(seconds))
            done = until

    def _over(self, tokens: float, seconds: np.ndarray) -> float:
        return float(interpolate(float(tokens), self.tables.context_tokens, seconds))
