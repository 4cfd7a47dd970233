"""How long a sweep will take: assumed speeds at first, then the measured pace."""

from __future__ import annotations

from shunter.catalog.checkpoints import Checkpoint
from shunter.profiling.plan import CUT_STEPS, Group, SweepPlan, Unit

__all__ = ["Pace"]

# Rough speeds for the first ETA only: bytes of weights read per second in a decode step, floating-point
# operations per second in a prefill, bytes loaded per second.
_ASSUMED = {
    "cpu": (4e9, 30e9, 0.5e9),
    "loopback": (4e9, 30e9, 0.5e9),
    "cuda": (400e9, 30e12, 2e9),
}
_CALL_S = 0.003


class Pace:
    """Turns assumed times into an ETA by what each kind of unit took compared with them.

    Args:
        plan: What is to be measured.
    """

    def __init__(self, plan: SweepPlan) -> None:
        self._kind = plan.device.kind
        self._left_s = {"run": 0.0, "swap": 0.0}
        self._taken_s = {"run": 0.0, "swap": 0.0}
        self._assumed_s = {"run": 0.0, "swap": 0.0}
        for group in plan.groups:
            self._left_s["swap"] += _load_s(self._kind, group.checkpoint)
            for unit in group.units:
                self._left_s[unit.kind] += _unit_s(self._kind, group.checkpoint, unit)

    def opened(self, group: Group) -> None:
        """A group's first load is done, or not needed."""
        self._left_s["swap"] -= _load_s(self._kind, group.checkpoint)

    def skipped(self, group: Group, unit: Unit) -> None:
        """A unit need not be measured."""
        self._left_s[unit.kind] -= _unit_s(self._kind, group.checkpoint, unit)

    def measured(self, group: Group, unit: Unit, taken_s: float) -> None:
        """A unit was measured."""
        assumed_s = _unit_s(self._kind, group.checkpoint, unit)
        self._left_s[unit.kind] -= assumed_s
        self._assumed_s[unit.kind] += assumed_s
        self._taken_s[unit.kind] += taken_s

    def eta_s(self) -> float:
        """Seconds to go."""
        assumed_s = sum(self._assumed_s.values())
        overall = sum(self._taken_s.values()) / assumed_s if assumed_s else 1.0
        paces = {k: self._taken_s[k] / s if s else overall for k, s in self._assumed_s.items()}
        return sum(max(left_s, 0.0) * paces[kind] for kind, left_s in self._left_s.items())


def _load_s(kind: str, checkpoint: Checkpoint) -> float:
    return _CALL_S + checkpoint.weight_bytes / _ASSUMED[kind][2]


def _unit_s(kind: str, checkpoint: Checkpoint, unit: Unit) -> float:
    read_bytes_per_s, operations_per_s, _ = _ASSUMED[kind]
    step_s = _CALL_S + checkpoint.weight_bytes / read_bytes_per_s
    token_s = 2 * checkpoint.spec.params / operations_per_s
    if unit.kind == "swap":
        return _load_s(kind, checkpoint) + unit.cut_tokens * token_s + 2 * CUT_STEPS * step_s
    decode_s = unit.decode_tokens * (step_s + (unit.batch - 1) * token_s)
    return unit.batch * (unit.prompt_tokens * token_s + step_s) + decode_s
