"""The fidelity benchmark's rows, from evaluations of simulated and real runs."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from benchmarks.form import Row, at_least, at_most, reported
from shunter.envs.workload.shares import shares_of
from shunter.envs.world.world import World
from shunter.eval.evaluation import Evaluation
from shunter.eval.execution.runs import Run
from shunter.eval.fidelity.operations import operation_fidelity
from shunter.eval.metrics.changes import interleaved_change, paired_change
from shunter.uncertainty import sign_of

__all__ = [
    "BARS",
    "GAINS",
    "Cell",
    "cells",
    "drift_rows",
    "error_rows",
    "gain_rows",
    "judged",
    "order_rows",
    "other_rows",
]

BARS = {
    ("response", "mean"): 0.05,
    ("TTFT", "mean"): 0.08,
    ("TTFT", "p90"): 0.15,
    ("TPOT", "mean"): 0.03,
}
"""Bars of the median error over policy × load cells; ``NOISES`` times the noise, where that is more."""

NOISES = 1.5

GAINS = {"fifo-swap": 0.35, "lru-keepalive": 0.30, "cost-greedy": 0.08}
"""How much lower the learned policy's mean response must be, on the committed scenario."""

Evaluations = Mapping[float, Evaluation]


@dataclass(frozen=True)
class Cell:
    """One figure of one policy at one load.

    Attributes:
        name: Names of the policy and the load.
        error: abs(simulated / real - 1).
        noise: How far real runs on the same requests differ; None without repeats.
        saturated: Whether requests piled up in reality.
    """

    name: str
    error: float
    noise: float | None
    saturated: bool


def cells(found: Evaluations, quantity: str, statistic: str) -> list[Cell]:
    """All policy × load cells of a statistic."""
    out = []
    for load, evaluation in found.items():
        compared = evaluation.fidelity()
        saturated = {row.policy for row in compared.loads if row.saturated}
        for row in compared.requests:
            if (row.quantity, row.statistic) == (quantity, statistic) and math.isfinite(row.error):
                name = f"{row.policy} at {load:g}"
                out.append(Cell(name, abs(row.error), row.noise, row.policy in saturated))
    return out


def error_rows(engine: str, found: Evaluations, *, judge: bool = True) -> list[Row]:
    """Errors, against their bars unless told otherwise, the largest beside each; noise and phases apart."""
    rows = []
    for (quantity, statistic), bar in BARS.items():
        all_cells = cells(found, quantity, statistic)
        metric = f"{engine}: {statistic} {quantity}, simulated against real"
        row = judged(f"{metric}, median over cells", all_cells, bar)
        rows.append(row if judge else replace(row, bar="", ok=None))
        if all_cells:
            worst = max(all_cells, key=lambda cell: cell.error)
            rows.append(reported(f"{metric}, largest", worst.error, note=worst.name))
    noises = [cell.noise for cell in cells(found, "response", "mean") if cell.noise is not None]
    metric = f"{engine}: mean response, noise: reality against itself, median over cells"
    rows.append(reported(metric, float(np.median(noises)) if noises else None))
    for phase in ("warm-up", "steady"):
        errors = [abs(r.error) for e in found.values() for r in e.fidelity().phases if r.phase == phase]
        metric = f"{engine}: mean response, {phase} requests alone, median over cells"
        rows.append(reported(metric, float(np.median(errors)) if errors else None))
    for saturated, text in (
        (False, "that were not shown to be saturated"),
        (True, "that were saturated in reality"),
    ):
        some = [c for c in cells(found, "response", "mean") if c.saturated == saturated]
        if some:
            metric = f"{engine}: mean response, median over cells {text}"
            rows.append(replace(judged(metric, some, 0.05), bar="", ok=None))
    return rows


def judged(metric: str, some: Sequence[Cell], bar: float) -> Row:
    """The median error of cells against a bar, or against the noise."""
    if not some:
        return at_most(Row(metric, None, note="no cell has it"), bar)
    noises = [cell.noise for cell in some if cell.noise is not None]
    noise = float(np.median(noises)) if noises else 0.0
    errors = np.array([cell.error for cell in some])
    ends = np.percentile(errors, [2.5, 97.5])
    note = (
        f"{len(some)} cells, 95 % of them from {ends[0]:.1%} to {ends[1]:.1%}; noise, two real runs on the "
        f"same requests, {noise:.1%}"
    )
    return at_most(Row(metric, float(np.median(errors)), note=note), round(max(bar, NOISES * noise), 4))


def order_rows(engine: str, found: Evaluations) -> list[Row]:
    """Whether simulation ranks policies as reality does."""
    rankings = {load: ranking for load, e in found.items() if (ranking := e.fidelity().ranking) is not None}
    significant = sum(ranking.significant for ranking in rankings.values())
    agreeing = sum(ranking.agreeing for ranking in rankings.values())
    metric = f"{engine}: pairs of policies that differ significantly in reality with the same sign simulated"
    note = f"{agreeing} of {significant} pairs, of {sum(len(r.pairs) for r in rankings.values())} in all"
    value = agreeing / significant if significant else None
    rows = [at_least(Row(metric, value, note=note), 0.95)]
    for load, ranking in rankings.items():
        tau = ranking.tau
        interval = None if math.isnan(tau.low) else (tau.low, tau.high)
        note = f"over {ranking.unit}; real order: {', '.join(ranking.real)}"
        metric = f"{engine}: Kendall's tau of the policies at load {load:g}"
        rows.append(reported(metric, tau.value, interval=interval, note=note))
    return rows


def gain_rows(engine: str, found: Evaluations, learned: str = "learned") -> list[Row]:
    """How much lower the learned policy's real mean response is; judged at the scenario's own load."""
    rows = []
    own = max(found)
    for load, evaluation in sorted(found.items(), reverse=True):
        for baseline, bar in GAINS.items():
            if baseline == learned:
                continue
            real = interleaved_change(evaluation.real[learned], evaluation.real[baseline])
            ours = paired_change(evaluation.simulated[learned], evaluation.simulated[baseline])
            ends = None if math.isnan(ours["low"]) else f" ({-ours['high']:.1%} to {-ours['low']:.1%})"
            row = Row(
                f"{engine}: the learned policy's real gain over {baseline} at load {load:g}",
                -real["change"],
                interval=None if math.isnan(real["low"]) else (-real["high"], -real["low"]),
                note=f"simulated {-ours['change']:.1%}{ends or ''} on the same requests; interval over "
                f"{real['unit']}",
            )
            rows.append(_gain(row, bar) if load == own else row)
    return rows


def _gain(row: Row, bar: float) -> Row:
    """Judged by its value, and by an interval clear of zero."""
    found = at_least(row, bar)
    clear = row.interval is not None and sign_of(*row.interval) > 0
    return replace(found, bar=f"{found.bar}, interval above 0", ok=bool(found.ok and clear))


def other_rows(engine: str, found: Evaluations) -> list[Row]:
    """What a reader needs to judge the rest: where the error comes from, and what the run was like."""
    world = next(iter(found.values())).world
    runs = [run for e in found.values() for each in e.real.values() for run in each]
    rows = [
        _loads_row(engine, world),
        reported(f"{engine}: real runs", float(len(runs)), "runs", note=_runs_note(runs)),
        reported(
            f"{engine}: decisions, share of the real runs' time",
            sum(r.decision_s * len(r.log.rows) for r in runs) / sum(r.makespan_s for r in runs),
            note="observation, policy and bookkeeping of the choice",
        ),
    ]
    for part, text in (("durations", "predicted durations"), ("decisions", "deciding differently")):
        splits = [abs(float(e.error_split(p)[part])) for e in found.values() for p in e.policies]
        metric = f"{engine}: error of the mean response by {text}, median over cells"
        rows.append(reported(metric, float(np.median(splits)), note="real decisions replayed"))
    for load, evaluation in found.items():
        for row in evaluation.fidelity().operations:
            note = f"{row.spans} spans, mean abs(error) {row.mean_error:.1%}, median {row.median_error:.1%}"
            metric = f"{engine}: {row.operation} at load {load:g}, predicted against measured, of the sum"
            rows.append(reported(metric, row.error, note=note))
    rows.append(_rounds_row(engine, found))
    for load, evaluation in found.items():
        notes = [*evaluation.fidelity().refused, *evaluation.fidelity().notes]
        rows += [reported(f"{engine}: note at load {load:g}", None, note=text) for text in notes]
    return rows


def _rounds_row(engine: str, found: Evaluations) -> Row:
    """How differently fast the machine was from one round of the same runs to the next."""
    rounds: defaultdict[int, list[Run]] = defaultdict(list)
    for real in (runs for evaluation in found.values() for runs in evaluation.real.values()):
        before: Counter[int] = Counter()
        for run in real:
            before[run.seed] += 1
            rounds[before[run.seed]].append(run)
    errors = {
        number: row.error
        for number, runs in sorted(rounds.items())
        for row in operation_fidelity(runs)[0]
        if (row.operation, row.devices) == ("all", "any")
    }
    note = ", ".join(f"round {number}: {error:+.1%}" for number, error in errors.items())
    metric = f"{engine}: all operations, predicted against measured, between the rounds' least and most"
    return reported(metric, max(errors.values()) - min(errors.values()) if errors else None, note=note)


def drift_rows(engine: str, before: pd.DataFrame, after: pd.DataFrame) -> list[Row]:
    """How much slower configurations were after the real runs: what no simulator can know beforehand.

    Args:
        engine: Its name.
        before: The profile.
        after: Some of its configurations, measured again.
    """
    rows = []
    for operation in ("load", "prefill", "decode"):
        first, second = (
            frame[frame["operation"] == operation].groupby("cell_id")["duration_s"].mean()
            for frame in (before, after)
        )
        ratio = (second / first).dropna()
        metric = f"{engine}: {operation}, the same cells profiled again after the runs, against before"
        note = f"{len(ratio)} cells, geometric mean; what has changed by then is the machine, not the model"
        rows.append(
            reported(metric, float(np.exp(np.log(ratio).mean())) - 1 if len(ratio) else None, note=note)
        )
    return rows


def _loads_row(engine: str, world: World) -> Row:
    """Mean load over mean service, of models by their shares of requests, at their highest level."""
    first = [levels.index(max(levels)) for levels in world.gpu_layers]
    share = shares_of(world.scenario)
    load_s = float(np.average(world.tables.load_s[0, np.arange(world.models), first], weights=share))
    taken = np.array([world.tables.footprint_bytes[0, m, k] for m, k in enumerate(first)])
    note = (
        f"load {load_s:.3f} s, service {world.service_s[0]:.3f} s, as predicted; the device holds "
        f"{world.tables.capacity_bytes[0] / taken.sum():.0%} of what the models take"
    )
    return reported(f"{engine}: mean load over mean service", load_s / float(world.service_s[0]), note=note)


def _runs_note(runs: Sequence[Run]) -> str:
    unfinished = sum(int(run.requests.finish_s.isna().sum()) for run in runs)
    seeds = len({run.seed for run in runs})
    return f"of {len(runs[0].requests)} requests, {seeds} request sequences, {unfinished} requests unfinished"
