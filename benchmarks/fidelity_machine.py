"""The fidelity benchmark's rows on the machine: its speed by the sentinel, simulation corrected for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.fidelity_rows import Cell, cells, judged
from benchmarks.fidelity_runs import Job, RealRuns
from benchmarks.form import Row, at_most, reported
from shunter.eval.evaluation import Evaluation
from shunter.eval.execution.course import MachineCourse, Stretch
from shunter.eval.execution.runs import Run
from shunter.eval.execution.sentinel import PARTS
from shunter.eval.fidelity.operations import operation_fidelity

__all__ = ["corrected_row", "machine_rows"]

MOST_SHARE = 0.02
"""Share of the engines' time that watching may take."""

AS_OPERATIONS = 0.05
"""How far the sentinel's factor may be from the operations' own at the median run."""


def corrected_row(label: str, found: Mapping[float, Evaluation], bar: float) -> Row:
    """Error of the mean response, simulated at the speed that the sentinel saw around each run.

    Args:
        label: Begins the row's name.
        found: Evaluations by load, with ``slowed`` runs.
        bar: Judged as the uncorrected errors are.
    """
    noises = {cell.name: cell for cell in cells(found, "response", "mean")}
    corrected = []
    for load, evaluation in found.items():
        for name, policy in evaluation.to_dict()["policies"].items():
            plain, error = noises.get(f"{name} at {load:g}"), policy.get("corrected_error", {})
            if plain is not None and error.get("response_mean_s") is not None:
                of_policy = abs(error["response_mean_s"])
                corrected.append(Cell(plain.name, of_policy, plain.noise, plain.saturated))
    return judged(
        f"{label}: mean response, corrected for the machine's speed, median over cells", corrected, bar
    )


def machine_rows(
    label: str, runs: RealRuns, jobs: Sequence[Job], found: Mapping[float, Evaluation]
) -> list[Row]:
    """How fast the machine was, whether the sentinel saw it, and what seeing took.

    Args:
        label: Begins the rows' names.
        runs: The real runs.
        jobs: Those that ``found`` holds.
        found: Evaluations by load.
    """
    world = next(iter(found.values())).world
    courses = list(runs.courses(world))
    whens = {name: (course, when) for course, by_file in courses for name, when in by_file.items()}
    seen, off = [], []
    for job in jobs:
        if job.file in whens:
            course, when = whens[job.file]
            seen.append(course.slowdown(when))
            off.append(_off(runs.read(found[job.load].world, job), course, when))
    off = [value for value in off if math.isfinite(value)]
    others = [value for value in runs.others_cores().values() if value is not None]
    spent_s = sum(course.sentinel.spent_s for course, _ in courses)
    engine_s = sum(course.engine_s for course, _ in courses)
    note = f"{len(off)} runs, {sum(value > 0 for value in off)} of them slower than the sentinel said"
    median = float(np.median(np.abs(off))) if off else None
    return [
        at_most(
            Row(f"{label}: operations of a run against the sentinel around it, median", median, note=note),
            AS_OPERATIONS,
        ),
        at_most(
            Row(
                f"{label}: the sentinel's share of the engines' time",
                spent_s / engine_s if engine_s else None,
                note=f"{spent_s:.1f} of {engine_s:.0f} s, before the first and after the last run included",
            ),
            MOST_SHARE,
        ),
        reported(
            f"{label}: the machine's slowdown by the sentinel, mean over runs",
            float(np.exp(np.mean(np.log(seen)))) if seen else None,
            note=f"from {min(seen):.2f} to {max(seen):.2f}" if seen else "",
        ),
        reported(
            f"{label}: other programs, mean over runs", float(np.mean(others)) if others else None, "cores"
        ),
    ]


def _off(run: Run, course: MachineCourse, when: Stretch) -> float:
    """How much longer a run's operations took than predicted ones times what the sentinel saw: a share."""
    parts = {row.operation: row for row in operation_fidelity([run])[0] if row.devices == "any"}
    measured_s = predicted_s = 0.0
    for part in PARTS:
        if part in parts:
            measured_s += parts[part].measured_s
            predicted_s += parts[part].predicted_s * course.slowdown(when, part)
    return measured_s / predicted_s - 1 if predicted_s else math.nan
