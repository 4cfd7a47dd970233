"""Calibration on a real evaluation: the performance model moves, and the gap before and after is measured.

Judged on runs that the calibrated model had not seen: each half of the runs is simulated anew with a model
that was calibrated on the other half. What is written rests on all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from shunter.agents.base import Policy
from shunter.envs.scenario.scenario import Scenario
from shunter.envs.world.world import World, make_world, with_footprints
from shunter.errors import InputError
from shunter.eval.execution.recorded import real_runs, recorded_run
from shunter.eval.execution.runs import Run, simulate
from shunter.eval.fidelity.recalibration import Recalibration, recalibrate
from shunter.eval.metrics.metrics import request_times
from shunter.models.performance import PerformanceModel

__all__ = ["Calibration", "calibrate_on"]

Logs = Sequence[pd.DataFrame]


@dataclass(frozen=True)
class Gap:
    """One policy's mean response, simulated and real, on the same requests.

    Attributes:
        policy: Its name.
        runs: Real ones.
        real_s: Mean over runs.
        before_s: Simulated with the model as it was.
        after_s: Simulated with one calibrated on the other half of the runs.
        before: Relative error: before_s / real_s - 1.
        after: Relative error after calibration: after_s / real_s - 1.
    """

    policy: str
    runs: int
    real_s: float
    before_s: float
    after_s: float
    before: float
    after: float


@dataclass(frozen=True)
class Calibration:
    """What came of it.

    Attributes:
        recalibration: Recalibration on all runs; holds the new model.
        held_out: What was held out in turn: ``seeds``, ``policies`` (with one seed), or nothing (empty).
        gaps: Errors of mean responses, by policy.
        notes: What else to know, in words.
    """

    recalibration: Recalibration
    held_out: str
    gaps: tuple[Gap, ...]
    notes: tuple[str, ...]

    @property
    def median_before(self) -> float:
        """Median over policies of abs(error) before; NaN without any."""
        return float(np.median([abs(gap.before) for gap in self.gaps])) if self.gaps else float("nan")

    @property
    def median_after(self) -> float:
        """The same after."""
        return float(np.median([abs(gap.after) for gap in self.gaps])) if self.gaps else float("nan")


def calibrate_on(
    performance: PerformanceModel,
    scenario: Scenario,
    log: pd.DataFrame,
    policies: Mapping[str, Policy],
    *,
    budgets: Sequence[Mapping[str, Any]] = (),
) -> Calibration:
    """Recalibrates a performance model on real runs, and simulates them with it before and after.

    Args:
        performance: The model as it was when the runs were predicted; not changed.
        scenario: Scenario of the runs.
        log: Their event log.
        policies: Policies by the name that the log has; runs of others are calibrated on, and not simulated.
        budgets: What residents counted, as ``Evaluation.to_dict`` has it; by default as predicted.

    Raises:
        InputError: No run is real, the runs do not fit the scenario, or the model knows all of them already.
    """
    whole = recalibrate(performance, scenario, [log])
    if not whole.runs:
        rule = "hold a run that the performance model was not calibrated on before"
        raise InputError("event log", rule, f"{whole.known} known runs")
    logs = list(real_runs(log))
    held_out, halves = _halves(logs)
    before = _world(scenario, performance, budgets)
    pairs: dict[str, list[tuple[Run, Run, Run]]] = {}
    for seen, unseen in halves:
        moved = recalibrate(performance, scenario, seen).performance
        after = _world(scenario, moved, budgets)
        for rows in unseen:
            policy = policies.get(str(rows["policy"].iloc[0]))
            if policy is not None:
                run = recorded_run(before, rows)
                ours = [simulate(world, policy, run.seed) for world in (before, after)]
                pairs.setdefault(run.policy, []).append((run, ours[0], ours[1]))
    gaps = tuple(_gap(name, runs) for name, runs in pairs.items())
    missing = sorted({str(rows["policy"].iloc[0]) for rows in logs} - set(policies))
    return Calibration(whole, held_out, gaps, (*whole.notes, *_notes(missing)))


def _world(scenario: Scenario, performance: PerformanceModel, budgets: Sequence[Mapping[str, Any]]) -> World:
    """Compiled, and counting memory as the runs did."""
    world = make_world(scenario, performance)
    if not budgets:
        return world
    footprint = np.zeros_like(world.tables.footprint_bytes)
    devices = [device.name for device in scenario.devices]
    models = [model.name for model in scenario.models]
    for budget in budgets:
        d, m = devices.index(budget["device"]), models.index(budget["model"])
        footprint[d, m, world.gpu_layers[m].index(budget["gpu_layers"])] = budget["counted_bytes"]
    return with_footprints(world, footprint)


def _halves(logs: Logs) -> tuple[str, list[tuple[Logs, Logs]]]:
    """What is held out, and (seen, unseen) twice; once with everything in both if there is no way to."""
    for column, name in (("seed", "seeds"), ("policy", "policies")):
        values = list(dict.fromkeys(rows[column].iloc[0] for rows in logs))
        if len(values) > 1:
            first = set(values[::2])
            parts = [
                [rows for rows in logs if (rows[column].iloc[0] in first) == one] for one in (True, False)
            ]
            return name, [(parts[0], parts[1]), (parts[1], parts[0])]
    return "", [(logs, logs)]


def _gap(name: str, runs: Sequence[tuple[Run, Run, Run]]) -> Gap:
    means = [
        np.mean([request_times(run).response_s.mean() for run in each]) for each in zip(*runs, strict=True)
    ]
    real_s, before_s, after_s = map(float, means)
    return Gap(name, len(runs), real_s, before_s, after_s, before_s / real_s - 1, after_s / real_s - 1)


def _notes(missing: Sequence[str]) -> Iterator[str]:
    if missing:
        yield f"not simulated anew, since they cannot be loaded: {', '.join(missing)}"
