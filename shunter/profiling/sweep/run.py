"""One run of a sweep: its passes over a plan, or its rounds within a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shunter.engines.base import DeviceMemoryError
from shunter.profiling.dataset.journal import Journal
from shunter.profiling.meters.metered import MeteredEngine
from shunter.profiling.sweep.budget import BudgetPlanner
from shunter.profiling.sweep.cycle import CycleRun
from shunter.profiling.sweep.footprint import shortage
from shunter.profiling.sweep.measure import GroupRun
from shunter.profiling.sweep.measured import Measured, check_not_all_refused
from shunter.profiling.sweep.pace import Pace
from shunter.profiling.sweep.plan import Group, SweepPlan, Unit
from shunter.profiling.sweep.repeats import Precision

__all__ = ["SweepProgress", "SweepResult", "indented", "time_words"]


@dataclass(frozen=True)
class SweepProgress:
    """Where a sweep stands.

    Attributes:
        units_done: Units measured or skipped.
        units: Units known to be needed; repeats of uncertain configurations come to them on the way.
        rows: Rows written by this sweep.
        eta_s: Seconds to go, from what was measured so far.
        text: What is being measured.
    """

    units_done: int
    units: int
    rows: int
    eta_s: float
    text: str


@dataclass(frozen=True)
class SweepResult:
    """What a finished sweep did.

    Attributes:
        dataset: Path of the Parquet file.
        session_id: Session id in the rows that it wrote.
        rows: Rows written.
        units_measured: Units measured.
        units_skipped: Units that were in the dataset already.
        refused: One line for each model and level that did not fit the memory.
        duration_s: Seconds it took, from ``begun_s`` of ``run_sweep`` on.
        engine_s: Seconds in the engine's timed calls, by its own clock: what was measured and what warmed up.
            The rest is overhead, such as memory reports and drops of KV.
        precision: How well the medians are known; None if no precision was asked for.
        left_out: What of the grid a budget left out, in words.
    """

    dataset: Path
    session_id: str
    rows: int
    units_measured: int
    units_skipped: int
    refused: tuple[str, ...]
    duration_s: float
    engine_s: float = 0.0
    precision: Precision | None = None
    left_out: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """What to tell people; what was written comes last."""
        return [
            *(f"not measured: {line}" for line in self.refused),
            *indented(self.left_out),
            *(() if self.precision is None else self.precision.lines()),
            f"{self.dataset}: {self.rows} rows from {self.units_measured} units in "
            f"{time_words(self.duration_s)}; {self.units_skipped} units were there already",
        ]


def indented(lines: Sequence[str]) -> list[str]:
    """Lines of which the first says what the others are."""
    return [f"  {line}" if index else line for index, line in enumerate(lines)]


def time_words(seconds: float) -> str:
    """A time in minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


ProgressCallback = Callable[[SweepProgress], None]


class SweepRun:
    """Measures a plan and keeps every row.

    Args:
        plan: What to measure.
        engine: Holds no model.
        facts: From ``sweep_facts``.
        journal: Takes the rows.
        measured: Rows that need not be measured again.
        progress: Called after each unit.
        begun_s: When the sweep's time began, on ``clock``.
        clock: Reads the time in seconds.
    """

    def __init__(
        self,
        plan: SweepPlan,
        engine: MeteredEngine,
        facts: dict[str, Any],
        journal: Journal,
        measured: Measured,
        progress: ProgressCallback | None,
        *,
        begun_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._plan, self._settings = plan, plan.settings
        self._engine, self._facts, self._journal = engine, facts, journal
        self._measured = measured
        self._progress, self._begun_s, self._clock = progress, begun_s, clock
        self._deadline_s = None if plan.settings.budget_s is None else begun_s + plan.settings.budget_s
        self._pace = Pace(replace(plan, groups=()))
        self._planner: BudgetPlanner | None = None
        self._fits: dict[tuple[str, int], bool] = {}
        self._refused: list[str] = []
        self._rows = self._units_measured = self._units_skipped = self._units = 0

    def run(self) -> SweepResult:
        """Measures everything that is not there yet.

        Raises:
            InputError: No model fits the memory at any level.
            EngineError: The engine failed.
        """
        if self._deadline_s is None:
            self._run_passes()
        else:
            self._run_rounds()
        check_not_all_refused(self._refused, self._units_measured + self._units_skipped)
        return SweepResult(
            self._journal.dataset,
            self._facts["session_id"],
            self._rows,
            self._units_measured,
            self._units_skipped,
            tuple(self._refused),
            self._clock() - self._begun_s,
            self._engine.engine_s,
            self._measured.precision(),
            self._planner.left_out() if self._planner else (),
        )

    def _run_passes(self) -> None:
        self._run_groups(self._plan.groups)
        for repeat in range(self._settings.repeats, self._settings.max_repeats):
            self._run_groups(self._measured.further_pass(repeat))

    def _run_groups(self, groups: Sequence[Group]) -> None:
        self._pace.added(groups)
        self._units += sum(len(group.units) for group in groups)
        for group in groups:
            self._run_group(group)

    def _run_rounds(self) -> None:
        planner = self._planner = BudgetPlanner(
            self._plan, self._pace, wants=self._wants, is_measured=self._measured.has
        )
        groups = planner.pilot()
        while groups:
            self._run_groups(groups)
            groups = planner.next_round(self._left_s()) if self._left_s() > 0 else []

    def _wants(self, group: Group, unit: Unit) -> bool:
        if unit.repeat < self._settings.repeats or self._settings.precision is None:
            return unit.repeat < max(self._settings.repeats, self._settings.max_repeats)
        return unit.repeat < self._settings.max_repeats and self._measured.is_wide(group, unit)

    def _run_group(self, group: Group) -> None:
        todo = [unit for unit in group.units if not self._measured.has(group, unit)]
        self._units_skipped += len(group.units) - len(todo)
        for unit in set(group.units) - set(todo):
            self._pace.skipped(group, unit)
        cheapest_s = min((self._pace.unit_s(group, unit) for unit in todo), default=0.0)
        if self._is_too_long(group, todo, self._pace.open_s(group) + cheapest_s):
            todo = []
        if not todo or not self._fits_memory(group):
            self._pace.opened(group)
            for unit in todo:
                self._skip(group, unit)
            return
        kind = CycleRun if group.other else GroupRun
        run = kind(self._engine, self._plan, group, self._facts, self._keep)
        begun_s = self._clock()
        try:
            with run.resident() as resident:
                self._pace.opened(group, self._clock() - begun_s)
                for unit in todo:
                    if not self._is_too_long(group, [unit], self._pace.unit_s(group, unit)):
                        self._measure(resident, group, unit)
        except DeviceMemoryError as error:
            run.unload()
            self._refuse(group, f"{group.label}: {error}")

    def _measure(self, resident: GroupRun, group: Group, unit: Unit) -> None:
        start_s = self._clock()
        rows = resident.measure(unit)
        self._pace.measured(group, unit, self._clock() - start_s, rows)
        if self._planner:
            self._planner.measured(group, unit)
        self._units_measured += 1
        self._report(group)

    def _is_too_long(self, group: Group, units: list[Unit], takes_s: float) -> bool:
        """Whether a budget has no room for this; the units are then given up."""
        if self._planner is None or takes_s <= self._left_s():
            return False
        for unit in units:
            self._planner.gave_up(group, unit)
            self._skip(group, unit)
        return True

    def _skip(self, group: Group, unit: Unit) -> None:
        self._pace.skipped(group, unit)
        self._units -= 1

    def _left_s(self) -> float:
        return float("inf") if self._deadline_s is None else self._deadline_s - self._clock()

    def _fits_memory(self, group: Group) -> bool:
        if group.key not in self._fits:
            line = shortage(self._plan, group, self._engine)
            self._fits[group.key] = line is None
            if line is not None:
                self._refuse(group, line)
        return self._fits[group.key]

    def _refuse(self, group: Group, line: str) -> None:
        self._fits[group.key] = False
        self._refused.append(line)
        if self._planner:
            self._planner.refused(group)

    def _keep(self, row: dict[str, Any]) -> None:
        if self._measured.keep(row):
            self._journal.append(row)
            self._rows += 1

    def _report(self, group: Group) -> None:
        if self._progress is not None:
            text = f"{group.checkpoint.name}, {group.gpu_layers} layers on {self._plan.device.name}"
            done = self._units_measured + self._units_skipped
            self._progress(SweepProgress(done, self._units, self._rows, self._pace.eta_s(), text))
