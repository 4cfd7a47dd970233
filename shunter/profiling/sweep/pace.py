"""How long the parts of a sweep take: assumed speeds at first, then the measured pace."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shunter.catalog.checkpoints import Checkpoint
from shunter.profiling.sweep.plan import CUT_STEPS, Group, SweepPlan, Unit

__all__ = ["Pace"]

# Rough speeds for the first ETA only: bytes of weights read per second in a decode step, floating-point
# operations per second in a prefill, bytes loaded per second.
_ASSUMED = {
    "cpu": (4e9, 30e9, 0.5e9),
    "loopback": (4e9, 30e9, 0.5e9),
    "cuda": (400e9, 30e12, 2e9),
}
_CALL_S = 0.003
_CALLS = {"run": 4, "swap": 6, "cycle": 10}
_PART = {"prefill": "prefill", "decode": "decode", "load": "load", "unload": "load"}

Place = tuple[str, int]


class Pace:
    """Turns assumed times into predictions by what each part of the work took compared with them.

    The parts are prefills, decodes, loads, a group's opening, and all that lies between the engine's calls.
    A part's pace is that of its model and level, or else its model's, or else all models', or else that of
    all parts.

    Args:
        plan: What is to be measured.
    """

    def __init__(self, plan: SweepPlan) -> None:
        self._kind = plan.device.kind
        self._left_s: defaultdict[tuple[Place, str], float] = defaultdict(float)
        self._taken_s: defaultdict[tuple[object, ...], float] = defaultdict(float)
        self._assumed_s: defaultdict[tuple[object, ...], float] = defaultdict(float)
        self.added(plan.groups)

    def added(self, groups: Iterable[Group]) -> None:
        """Groups are still to be measured."""
        for group in groups:
            self._count(group, self._open_parts(group), 1)
            for unit in group.units:
                self._count(group, self._unit_parts(group, unit), 1)

    def opened(self, group: Group, taken_s: float | None = None) -> None:
        """A group's first load and its warm-up are done, or not needed."""
        parts = self._open_parts(group)
        self._count(group, parts, -1)
        if taken_s is not None:
            self._learn(group, "open", parts["open"], taken_s)

    def skipped(self, group: Group, unit: Unit) -> None:
        """A unit need not be measured."""
        self._count(group, self._unit_parts(group, unit), -1)

    def measured(
        self, group: Group, unit: Unit, taken_s: float, rows: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """A unit was measured.

        Args:
            group: The unit's.
            unit: What was measured.
            taken_s: Wall time of all of it.
            rows: What the engine measured; without them all parts are taken to have the same pace.
        """
        parts = self._unit_parts(group, unit)
        self._count(group, parts, -1)
        spent_s = dict.fromkeys(parts, 0.0)
        for row in rows:
            spent_s[_PART.get(row["operation"], "between")] += row["duration_s"] * max(row["steps"], 1)
        spent_s["between"] += max(0.0, taken_s - sum(spent_s.values()))
        if not rows:
            spent_s = {part: taken_s * s / sum(parts.values()) for part, s in parts.items()}
        for part, assumed_s in parts.items():
            self._learn(group, part, assumed_s, spent_s[part])

    def unit_s(self, group: Group, unit: Unit) -> float:
        """Seconds that a unit is predicted to take."""
        parts = self._unit_parts(group, unit)
        return sum(assumed_s * self._ratio(group.key, part) for part, assumed_s in parts.items())

    def open_s(self, group: Group) -> float:
        """Seconds that a group's first load, warm-up and last unload are predicted to take."""
        return self._open_parts(group)["open"] * self._ratio(group.key, "open")

    def eta_s(self) -> float:
        """Seconds to go."""
        return sum(max(s, 0.0) * self._ratio(place, part) for (place, part), s in self._left_s.items())

    def _count(self, group: Group, parts: Mapping[str, float], sign: int) -> None:
        for part, assumed_s in parts.items():
            self._left_s[group.key, part] += sign * assumed_s

    def _learn(self, group: Group, part: str, assumed_s: float, taken_s: float) -> None:
        for key in _keys(group.key, part):
            self._assumed_s[key] += assumed_s
            self._taken_s[key] += taken_s

    def _ratio(self, place: Place, part: str) -> float:
        for key in _keys(place, part):
            if self._assumed_s.get(key, 0.0) > 0:
                return self._taken_s[key] / self._assumed_s[key]
        return 1.0

    def _open_parts(self, group: Group) -> dict[str, float]:
        step_s, token_s = self._speeds(group.checkpoint)
        return {"open": self._load_s(group.checkpoint) + 8 * token_s + 2 * step_s}

    def _unit_parts(self, group: Group, unit: Unit) -> dict[str, float]:
        step_s, token_s = self._speeds(group.checkpoint)
        between_s = _CALLS[unit.kind] * _CALL_S
        if unit.kind == "swap":
            between_s += 2 * CUT_STEPS * step_s
            prefill_s = unit.cut_tokens * token_s
            return {"load": self._load_s(group.checkpoint), "prefill": prefill_s, "between": between_s}
        parts = {
            "prefill": unit.batch * (unit.prompt_tokens * token_s + step_s),
            "decode": unit.decode_tokens * (step_s + (unit.batch - 1) * token_s),
            "between": between_s + unit.batch * _CALL_S,
        }
        if unit.kind == "cycle" and group.other:
            others = self._unit_parts(group.other, group.other.units[0])
            parts = {part: parts[part] + others[part] for part in parts}
            parts["load"] = self._load_s(group.checkpoint) + self._load_s(group.other.checkpoint)
        return parts

    def _speeds(self, checkpoint: Checkpoint) -> tuple[float, float]:
        """Assumed seconds of a decode step and of a prompt token."""
        read_bytes_per_s, operations_per_s, _ = _ASSUMED[self._kind]
        step_s = _CALL_S + checkpoint.weight_bytes / read_bytes_per_s
        return step_s, 2 * checkpoint.active_params / operations_per_s

    def _load_s(self, checkpoint: Checkpoint) -> float:
        return _CALL_S + checkpoint.weight_bytes / _ASSUMED[self._kind][2]


def _keys(place: Place, part: str) -> tuple[tuple[object, ...], ...]:
    return (place, part), (place[0], part), (part,), ()
