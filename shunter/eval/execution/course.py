"""How fast the machine was while real runs went on: looks at it, the sentinel, and which run was when."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from shunter.envs.world.world import World
from shunter.eval.execution.device_executor import DeviceExecutor
from shunter.eval.execution.order import Turn
from shunter.eval.execution.sentinel import PARTS, Sentinel
from shunter.files import finite
from shunter.profiling.meters.watch import MachineWatch, core_count

__all__ = ["MachineCourse", "Stretch", "watched"]

_MOST_LOOKS = 2000
"""Looks that results keep: more cannot be told apart in a picture."""


@dataclass(frozen=True)
class Stretch:
    """When one real run was.

    Attributes:
        turn: The run, as planned.
        start_s: Monotonic time of its start.
        end_s: Monotonic time of its end.
    """

    turn: Turn
    start_s: float
    end_s: float


@dataclass
class MachineCourse:
    """The machine while runs go on.

    Attributes:
        sentinel: Measures before, between and after runs.
        watch: Looks at what other programs do.
        stretches: Complete runs, in order.
        now_s: Monotonic clock.
    """

    sentinel: Sentinel
    watch: MachineWatch
    stretches: list[Stretch] = field(default_factory=list)
    now_s: Callable[[], float] = time.monotonic

    @contextmanager
    def run(self, turn: Turn) -> Iterator[None]:
        """Notes when a run is that ends well, and measures after it if that is due."""
        begun_s = self.now_s()
        yield
        self.stretches.append(Stretch(turn, begun_s, self.now_s()))
        self.sentinel.measure(self.engine_s)

    @property
    def engine_s(self) -> float:
        """How long runs took in all."""
        return sum(one.end_s - one.start_s for one in self.stretches)

    def slowdown(self, stretch: Stretch, part: str | None = None, device: str | None = None) -> float:
        """What the sentinel saw around a run; see ``Sentinel.slowdown``."""
        return self.sentinel.slowdown(stretch.start_s, stretch.end_s, part, device)

    def to_dict(self, policies: Sequence[str]) -> dict[str, Any]:
        """As plain data; seconds count from the first look.

        Args:
            policies: Names, in the order of the plan's indices.
        """
        looks = self.watch.looks
        zero_s = looks[0].start_s if looks else 0.0
        runs = []
        for one in self.stretches:
            seen = asdict(self.watch.between(one.start_s, one.end_s))
            seen.update(start_s=one.start_s - zero_s, end_s=one.end_s - zero_s)
            turn = {**asdict(one.turn), "policy": policies[one.turn.policy]}
            runs.append({**turn, **seen, "slowdown": self.slowdown(one)})
        thin = looks[:: max(1, -(-len(looks) // _MOST_LOOKS))]
        engine_s = self.engine_s
        found: dict[str, Any] = finite(
            {
                "cores": core_count(),
                "others_cores": _mean([(r["others_cores"], r["end_s"] - r["start_s"]) for r in runs]),
                "stolen_cores": _mean([(r["stolen_cores"], r["end_s"] - r["start_s"]) for r in runs]),
                "slowdown": _geometric([r["slowdown"] for r in runs]),
                "uncertainty": max((r.uncertainty for r in self.sentinel.readings), default=math.nan),
                "profiled": all(r.profiled for r in self.sentinel.readings),
                "sentinel_share": self.sentinel.spent_s / engine_s if engine_s else math.nan,
                "runs": runs,
                "sentinel": [
                    {
                        **asdict(reading),
                        "at_s": reading.at_s - zero_s,
                        "slowdown": reading.slowdown(),
                        "slowdowns": {part: reading.slowdown(part) for part in PARTS},
                    }
                    for reading in self.sentinel.readings
                ],
                "looks": [
                    {"at_s": (one.start_s + one.end_s) / 2 - zero_s, "others_cores": one.others_cores}
                    for one in thin
                ],
            }
        )
        return found


@contextmanager
def watched(world: World, engines: Sequence[DeviceExecutor]) -> Iterator[MachineCourse]:
    """Watches the machine; the sentinel measures first, and last unless an error ends the runs.

    Args:
        world: The compiled scenario.
        engines: One per device, empty before and after every run.
    """
    with MachineWatch() as watch:
        course = MachineCourse(Sentinel(world, engines), watch)
        course.sentinel.measure()
        yield course
        last_s = max((reading.at_s for reading in course.sentinel.readings), default=math.inf)
        if course.stretches and last_s < course.stretches[-1].end_s:
            course.sentinel.measure()


def _mean(weighed: Sequence[tuple[float, float]]) -> float:
    known = [(value, weight) for value, weight in weighed if math.isfinite(value)]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else math.nan


def _geometric(values: Sequence[float]) -> float:
    known = [math.log(value) for value in values if math.isfinite(value)]
    return math.exp(sum(known) / len(known)) if known else math.nan
