"""What a sweep has measured on one type of hardware, and what it must still measure there.

A sweep on one machine asks one of these, a sweep over a cluster one for each type of hardware.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from shunter.errors import InputError
from shunter.profiling.dataset.journal import Journal
from shunter.profiling.dataset.table import read_dataset
from shunter.profiling.sweep.plan import Group, SweepPlan, Unit, in_order
from shunter.profiling.sweep.repeats import ConfigurationTimes, Precision


def earlier_rows(dataset: str | os.PathLike[str], journal: Journal) -> list[Mapping[str, Any]]:
    """All rows that are there, of any hardware: those of the dataset and those of its journal."""
    written: list[Any] = read_dataset(dataset).to_dict("records") if Path(dataset).exists() else []
    return [*written, *journal.rows]


def check_not_all_refused(refused: Sequence[str], units: int) -> None:
    """Fails a sweep that could measure nothing.

    Args:
        refused: A line for each model and level that did not fit.
        units: Units that are measured, now or before.

    Raises:
        InputError: No model fits the memory at any level.
    """
    if refused and not units:
        raise InputError("--model", "fit the memory at one level at least", "; ".join(refused))


class Measured:
    """The rows of a plan that are there.

    Args:
        plan: What is measured.
        kv_save: Whether the engine can save KV: it decides which rows a unit gives.
        rows: Rows that need not be measured again.
    """

    def __init__(self, plan: SweepPlan, *, kv_save: bool, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self._plan, self._kv_save = plan, kv_save
        self._configuration_of: dict[str, str] = {}
        self._times = ConfigurationTimes()
        for row in {_key(row): row for row in rows}.values():  # where a unit was measured again: the last
            self.keep(row)

    def keep(self, row: Mapping[str, Any]) -> bool:
        """Takes note of a row; False if it is there already and must not be written twice.

        A unit that was cut short runs again as a whole, but its finished rows are not wanted twice.
        """
        key = _key(row)
        if key in self._configuration_of:
            return False
        self._configuration_of[key] = str(row["cell_id"])
        self._times.add(row)
        return True

    def has(self, group: Group, unit: Unit) -> bool:
        """Whether all rows of a unit are there."""
        return all(key in self._configuration_of for key in self._keys(group, unit))

    def is_wide(self, group: Group, unit: Unit) -> bool:
        """Whether a configuration of a unit, of any repeat, is known less well than the settings ask for."""
        wanted = self._plan.settings.precision
        return wanted is not None and any(
            self._times.width(c) > wanted for c in self._configurations(group, unit)
        )

    def further_pass(self, repeat: int) -> list[Group]:
        """One more pass over the units that are still wide, in random order; empty where none is."""
        rng = random.Random(f"{self._plan.settings.seed}/{repeat}")
        first = [group for group in self._plan.groups if group.units[0].repeat == 0]
        groups = []
        for group in rng.sample(first, len(first)):
            wide = [replace(unit, repeat=repeat) for unit in group.units if self.is_wide(group, unit)]
            groups.append(replace(group, units=in_order(wide, self._plan.max_batch, rng)))
        return [group for group in groups if group.units]

    def precision(self) -> Precision | None:
        """How well the configurations of the plan are known; None if no precision was asked for."""
        if self._plan.settings.precision is None:
            return None
        units = [(g, u) for g in self._plan.groups for u in g.units if u.repeat == 0]
        configurations = {
            configuration for group, unit in units for configuration in self._configurations(group, unit)
        }
        return self._times.precision(self._plan.settings.precision, configurations)

    def _configurations(self, group: Group, unit: Unit) -> list[str]:
        keys = self._keys(group, replace(unit, repeat=0))
        return [self._configuration_of[key] for key in keys if key in self._configuration_of]

    def _keys(self, group: Group, unit: Unit) -> list[str]:
        return self._plan.row_keys(group, unit, kv_save=self._kv_save)


def _key(row: Mapping[str, Any]) -> str:
    """What a row's id says of unit and operation, without the session."""
    return str(row["row_id"]).partition("/")[2]
