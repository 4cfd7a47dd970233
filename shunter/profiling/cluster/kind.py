"""One type of hardware in a sweep over a cluster: what is left to measure on it, and what is known."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shunter.engines.base import Capabilities
from shunter.profiling.sweep.measured import Measured
from shunter.profiling.sweep.pace import Pace
from shunter.profiling.sweep.plan import Group, SweepPlan, Unit, check_levels

_TRIES = 3


@dataclass(frozen=True)
class Work:
    """What one device measures with one resident.

    Attributes:
        group: The group that the units are from.
        units: Units of the group that are left.
        tries: Devices that were lost over it.
    """

    group: Group
    units: tuple[Unit, ...]
    tries: int = 0


class HardwareKind:
    """The queue of all devices of one type.

    Args:
        plan: What is measured.
        session_id: Session id in the rows of this type.
        can: What the engine can do on it.
        rows: Rows that need not be measured again.

    Attributes:
        todo: Work in the plan's order; what a lost device gives back comes first.
        given_up: Work over which several devices were lost.
        under_way: How much is on devices now.
        devices: Devices of this type that serve.
        units: How many units are known to be needed.
        units_skipped: Units that were known before, or do not fit.
        pace: How fast one device of this type is, and what is left for one.

    Raises:
        InputError: The engine cannot honour a level of the plan.
    """

    def __init__(
        self, plan: SweepPlan, session_id: str, can: Capabilities, rows: Iterable[Mapping[str, Any]]
    ) -> None:
        self.session_id, self.can = session_id, can
        self.todo: deque[Work] = deque()
        self.given_up: list[Work] = []
        self.under_way = self.devices = self.units = self.units_skipped = 0
        self.pace = Pace(replace(plan, groups=()))
        self._settings = plan.settings
        self._passes = plan.settings.repeats
        self._measured = Measured(plan, kv_save=can.kv_save, rows=rows)
        check_levels(plan, can)
        self._add(plan.groups)

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left and nothing under way."""
        return not self.todo and not self.under_way

    def has_work(self) -> bool:
        """Whether there is or may be work; begins another pass where medians are still uncertain."""
        while self.is_finished and self._settings.precision is not None:
            if self._passes >= self._settings.max_repeats:
                break
            self._add(self._measured.further_pass(self._passes))
            self._passes += 1
        return not self.is_finished

    def give_back(self, work: Work, units: Iterable[Unit]) -> None:
        """A device was lost before these units of its work were measured."""
        again = replace(work, units=tuple(units), tries=work.tries + 1)
        if again.tries < _TRIES:
            self.todo.appendleft(again)
        else:
            self.given_up.append(again)

    def refuse(self, work: Work, units: Sequence[Unit]) -> None:
        """A model does not fit at this level: what is left of it is not measured."""
        others = [w for w in self.todo if w.group.key == work.group.key]
        for left in [replace(work, units=tuple(units)), *others]:
            self.units -= len(left.units)
            for unit in left.units:
                self.pace.skipped(left.group, unit)
        for left in others:
            self.pace.opened(left.group)
            self.todo.remove(left)

    def keep(self, row: Mapping[str, Any]) -> bool:
        """Takes note of a row; False if it is known already and must not be written twice."""
        return self._measured.keep(row)

    def _add(self, groups: Sequence[Group]) -> None:
        self.pace.added(groups)
        for group in groups:
            todo = tuple(unit for unit in group.units if not self._measured.has(group, unit))
            self.units += len(group.units)
            self.units_skipped += len(group.units) - len(todo)
            for unit in set(group.units) - set(todo):
                self.pace.skipped(group, unit)
            if todo:
                self.todo.append(Work(group, todo))
            else:
                self.pace.opened(group)
