"""The sentinel: one small piece of work, measured again and again, so that the machine's speed is known.

On each device, while nothing is resident there: a model that is quick to load, a short prompt and a few
steps, such as the profile measured them; how much longer they take now is the machine. Where the profile
has no such measurement, what the tables predict stands for it, as far as that is right.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shunter.engines.base import EngineError
from shunter.envs.rules.durations import interpolate, step_s
from shunter.envs.world.world import World
from shunter.eval.execution.device_executor import DeviceExecutor
from shunter.eval.execution.operations import Join, Operation, Outcome

__all__ = ["PARTS", "Reading", "Sentinel"]

PROMPT_TOKENS = 16
STEPS = 8
REQUESTS = 3
"""Requests of one measurement; the median counts."""

MOST_SHARE = 0.02
"""Share of the engines' time that measuring may take, but for the first and the last time."""

AS_SURE = 1.25
"""Models whose steps are predicted within so many times the narrowest interval are as good a sentinel."""

_REQUEST = "sentinel"
PARTS = ("load", "prefill", "decode")


@dataclass(frozen=True)
class Reading:
    """The sentinel's cell on one device, once.

    Attributes:
        at_s: Monotonic time in the middle of it.
        device: Name of the device.
        measured_s: Seconds of a load, a prefill and the decode.
        expected_s: The same as the profile measured them, but for the load, or as the tables predict them.
        uncertainty: Half width of the 90 % interval of what is expected, relative.
        profiled: Whether the profile measured it.
    """

    at_s: float
    device: str
    measured_s: dict[str, float]
    expected_s: dict[str, float]
    uncertainty: float
    profiled: bool = False

    def slowdown(self, part: str | None = None) -> float:
        """How many times as long as expected a part took; None: prefill and decode together."""
        parts = ("prefill", "decode") if part is None else (part,)
        return sum(self.measured_s[p] for p in parts) / sum(self.expected_s[p] for p in parts)


@dataclass
class Sentinel:
    """Measures, and says what it saw at any time between.

    Attributes:
        world: The compiled scenario.
        engines: One per device, empty whenever it is asked to measure.
        readings: Those so far, in order.
        spent_s: What measuring took.
        now_s: Monotonic clock.
    """

    world: World
    engines: Sequence[DeviceExecutor]
    readings: list[Reading] = field(default_factory=list)
    spent_s: float = 0.0
    now_s: Callable[[], float] = time.monotonic

    def measure(self, engine_s: float = math.inf) -> None:
        """Measures on every device, one after another, unless that takes too large a share.

        Args:
            engine_s: Time that engines were at work so far.
        """
        rounds = len(self.readings) / max(1, len(self.engines))
        expected_s = self.spent_s / rounds if rounds else 0.0
        if self.spent_s + expected_s > MOST_SHARE * engine_s:
            return
        begun_s = self.now_s()
        for executor in self.engines:
            # What happens to engines on purpose is counted by operation, and these are none of a run.
            if executor.chaos is None:
                reading = self._read(executor)
                self.readings += [] if reading is None else [reading]
        self.spent_s += self.now_s() - begun_s

    def slowdown(
        self, start_s: float, end_s: float, part: str | None = None, device: str | None = None
    ) -> float:
        """Geometric mean of what it saw around a stretch of time; NaN where it never measured.

        Args:
            start_s: Monotonic time of its start.
            end_s: Monotonic time of its end.
            part: ``load``, ``prefill`` or ``decode``; None: prefill and decode together.
            device: Name of one; None: all, as the geometric mean.
        """
        names = dict.fromkeys(r.device for r in self.readings) if device is None else [device]
        logs = []
        for name in names:
            mine = [r for r in self.readings if r.device == name]
            at_s, seen = [r.at_s for r in mine], [math.log(r.slowdown(part)) for r in mine]
            if mine:
                logs.append(float(np.mean(np.interp([start_s, end_s], at_s, seen))))
        return math.exp(float(np.mean(logs))) if logs else math.nan

    def _read(self, executor: DeviceExecutor) -> Reading | None:
        """One measurement; None where an engine failed in it or no model fits."""
        work = _work(self.world, executor.index)
        if work is None:
            return None
        begun_s = self.now_s()
        outcomes = self._worked(executor, work)
        if outcomes is None:
            return None
        loaded, *done = outcomes
        took = [(o.first_s[_REQUEST] - o.start_s, o.end_s - o.first_s[_REQUEST]) for o in done]
        middle = np.median(np.array(took), axis=0)
        measured = (loaded.end_s - loaded.start_s, *map(float, middle))
        at_s = (begun_s + self.now_s()) / 2
        parts_s = dict(zip(PARTS, measured, strict=True))
        return Reading(at_s, executor.name, parts_s, work.expected_s, work.uncertainty, work.profiled)

    def _worked(self, executor: DeviceExecutor, work: _Work) -> list[Outcome] | None:
        """A load and requests, one after another, that leave the engine empty; None: it failed in them."""
        scenario, asked = self.world.scenario, self.world.scenario.models[work.model]
        load = Operation(
            asked.name,
            load=(str(asked.checkpoint), self.world.gpu_layers[work.model][work.level]),
            context_tokens=scenario.context_of(asked),
            max_batch=scenario.batch_of(asked),
        )
        join = Join(_REQUEST, "prefill", [1] * work.prompt_tokens, work.steps + 1)
        request = Operation(asked.name, joins=(join,), max_steps=work.steps)
        outcomes: list[Outcome] = []
        try:
            for each in (load, *[request] * REQUESTS):
                outcomes.append(executor.run(each, sum(work.expected_s.values())))
                if outcomes[-1].fault is not None:  # its engine was started again, and is empty
                    return None
            executor.clear([asked.name], [])
        except EngineError:
            with suppress(EngineError):
                executor.clear([asked.name], [])
            return None
        return outcomes


@dataclass(frozen=True)
class _Work:
    """What is done on a device, and how long it should take; see ``Reading``."""

    model: int
    level: int
    prompt_tokens: int
    steps: int
    expected_s: dict[str, float]
    uncertainty: float
    profiled: bool

    @property
    def all_s(self) -> float:
        """What one measurement should take."""
        return self.expected_s["load"] + REQUESTS * (self.expected_s["prefill"] + self.expected_s["decode"])


def _work(world: World, device: int) -> _Work | None:
    """The quickest that the profile measured; else such as is predicted best; None: no model fits."""
    measured = [
        _Work(
            model,
            level,
            known.prompt_tokens,
            known.steps,
            {
                "load": _load_s(world, device, model, level),
                "prefill": known.prefill_s,
                "decode": known.decode_s,
            },
            known.half_width,
            profiled=True,
        )
        for (d, model, level), known in world.profiled.items()
        if d == device and _fits(world, device, known.prompt_tokens + known.steps + 1)[model, level]
    ]
    return min(measured, key=lambda work: work.all_s) if measured else _predicted(world, device)


def _predicted(world: World, device: int) -> _Work | None:
    """With the model and level that load soonest, of those that fit and whose steps are predicted best."""
    fits = _fits(world, device, PROMPT_TOKENS + STEPS + 1)
    if not fits.any():
        return None
    tables, sure = world.tables, world.tables.step_halfwidth[device]
    fits &= sure <= AS_SURE * sure[fits].min()
    found = np.unravel_index(int(np.where(fits, tables.load_s[device], np.inf).argmin()), fits.shape)
    model, level = map(int, found)
    prefill_s = interpolate(
        float(PROMPT_TOKENS), tables.prefill_tokens, tables.prefill_s[device, model, level]
    )
    steps = (step_s(tables, device, model, level, 1, float(PROMPT_TOKENS + n)) for n in range(1, STEPS + 1))
    expected_s = {
        "load": _load_s(world, device, model, level),
        "prefill": float(prefill_s),
        "decode": float(sum(steps)),
    }
    return _Work(model, level, PROMPT_TOKENS, STEPS, expected_s, float(sure[model, level]), profiled=False)


def _fits(world: World, device: int, tokens: int) -> NDArray[np.bool_]:
    """Which models at which levels fit a device and hold so many tokens, shape (models, levels)."""
    long_enough = np.array([world.scenario.context_of(m) >= tokens for m in world.scenario.models])
    fits: NDArray[np.bool_] = world.tables.level_ok[device] & long_enough[:, None]
    return fits


def _load_s(world: World, device: int, model: int, level: int) -> float:
    return float(world.tables.load_s[device, model, level])
