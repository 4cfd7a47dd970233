"""How much one policy's mean response differs from another's on the same requests, and how sure that is.

The unit is the run: requests of one run share its queue and the machine of its minutes. In simulation a unit
is a request sequence. On real engines it is a round, in which every policy runs the same requests once, one
after another: the machine drifts, so that runs are compared with those nearest in time, in an order that
``shunter.eval.execution.order`` balances.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.eval.metrics.metrics import Served, request_times
from shunter.uncertainty import CONFIDENCE, FEWEST_ROUNDS, FEWEST_SEQUENCES, Interval, paired_mean_change

__all__ = [
    "RESOLUTION",
    "interleaved_change",
    "paired_change",
    "run_spread",
    "runs_needed",
]

COVARIATE_ROUNDS = 6
"""Rounds from which what the sentinel saw is a covariate: it costs a degree of freedom."""

RESOLUTION = 0.1
"""Difference for which runs are counted that nobody asked for: 10 %."""

TYPICAL_SPREAD = 0.1
"""Spread of a run where none was measured. Engineering choice: in the committed runs two real runs of a
policy on the same requests differ by 3 to 24 %."""

POWER = 0.8
_MOST_RUNS = 10_000

Array = NDArray[np.float64]


def paired_change(runs: Sequence[Served], against: Sequence[Served], seed: int = 0) -> dict[str, Any]:
    """Relative change of the mean response against another policy on the same requests, in simulation.

    Args:
        runs: One policy's runs.
        against: The other's, of the same workload seeds; either may have several runs of a seed, which are
            averaged: repeats are no further request sequences.
        seed: Seed of the bootstrap.

    Returns:
        ``change`` (−0.1 is 10 % lower), ``low``, ``high`` (a 95 % paired bootstrap interval over request
        sequences; NaN with fewer than ``FEWEST_SEQUENCES``) and ``unit``.

    Raises:
        ValueError: The seeds differ.
    """
    units = sequence_units([runs, against])
    found = paired_mean_change(units[:, 0], units[:, 1], seed)
    if len(units) < FEWEST_SEQUENCES:
        found = Interval(found.value, math.nan, math.nan)
    return {"change": found.value, "low": found.low, "high": found.high, "unit": "runs"}


def interleaved_change(runs: Sequence[Served], against: Sequence[Served]) -> dict[str, Any]:
    """Relative change of the mean response against another policy on the same requests, on real engines.

    Each round gives a log ratio of the two. Their mean has Student's interval; from ``COVARIATE_ROUNDS`` on,
    where the sentinel measured the machine around every run, the log ratio of its slowdowns is a covariate
    (analysis of covariance, at equal slowdown).

    Args:
        runs: One policy's real runs.
        against: The other's, of the same workload seeds, made in the same rounds.

    Returns:
        As ``paired_change``; NaN ends with fewer than ``FEWEST_ROUNDS`` rounds.

    Raises:
        ValueError: The seeds differ.

    Source:
        Cox and McCullagh 1982, Biometrics 38(3), "Some aspects of analysis of covariance".
    """
    found = change_over_rounds(*round_units([runs, against]))
    return {"change": found.value, "low": found.low, "high": found.high, "unit": "runs"}


def change_over_rounds(response_s: Array, slowdowns: Array) -> Interval:
    """What ``interleaved_change`` makes of two columns, from ``round_units``."""
    ratios = np.log(response_s[:, 0] / response_s[:, 1])
    drift = np.log(slowdowns[:, 0] / slowdowns[:, 1])
    found = _mean_interval(ratios, drift)
    return Interval(*(math.expm1(end) for end in found))


def _mean_interval(ratios: Array, drift: Array) -> Interval:
    """Mean of log ratios, at no drift between the two where drift is known."""
    from scipy.stats import t as student

    count = len(ratios)
    if not count:
        return Interval(math.nan, math.nan, math.nan)
    design = np.ones((count, 1))
    if count >= COVARIATE_ROUNDS and np.isfinite(drift).all() and np.ptp(drift) > 0:
        design = np.column_stack([design, drift])
    fitted, *_ = np.linalg.lstsq(design, ratios, rcond=None)
    free = count - design.shape[1]
    if count < FEWEST_ROUNDS:
        return Interval(float(ratios.mean()), math.nan, math.nan)
    variance = float(((ratios - design @ fitted) ** 2).sum()) / free
    error = math.sqrt(variance * float(np.linalg.inv(design.T @ design)[0, 0]))
    half = float(student.ppf((1 + CONFIDENCE) / 2, free)) * error
    return Interval(float(fitted[0]), float(fitted[0]) - half, float(fitted[0]) + half)


def run_spread(columns: Sequence[Sequence[Served]]) -> float:
    """How much the log ratio of two policies' mean responses differs from one round to the next.

    Args:
        columns: Real runs, a list for each policy, of the same seeds.

    Returns:
        Standard deviation over rounds, pooled over pairs of policies; NaN with fewer than two rounds or
        policies.
    """
    units, _ = round_units(columns)
    if len(units) < 2 or units.shape[1] < 2:
        return math.nan
    logs = np.log(units)
    variances = [np.var(logs[:, a] - logs[:, b], ddof=1) for a, b in combinations(range(units.shape[1]), 2)]
    return math.sqrt(float(np.mean(variances)))


def runs_needed(spread: float, resolution: float = RESOLUTION) -> int:
    """Runs of each policy with which a difference is found four times out of five, at 95 % confidence.

    Args:
        spread: From ``run_spread``.
        resolution: The difference, relative.

    Source:
        Chow, Shao and Wang 2008, "Sample Size Calculations in Clinical Research", section 3.1.
    """
    from scipy.stats import t as student

    for count in range(FEWEST_ROUNDS, _MOST_RUNS):
        quantiles = student.ppf([(1 + CONFIDENCE) / 2, POWER], count - 1).sum()
        if quantiles * spread / math.sqrt(count) <= math.log1p(resolution):
            return count
    return _MOST_RUNS


def sequence_units(columns: Sequence[Sequence[Served]]) -> Array:
    """Mean responses, a row for each request sequence and a column for each list of runs.

    Runs of one seed are averaged first, request by request. Requests that someone did not finish count for
    nobody.

    Raises:
        ValueError: The seeds differ.
    """
    grouped = _by_seed(columns)
    return _rows([[group[seed] for group in grouped] for seed in grouped[0]], len(columns))


def round_units(columns: Sequence[Sequence[Served]]) -> tuple[Array, Array]:
    """Mean responses of real runs, a row for each round, and what the sentinel saw around them.

    The n-th runs of a seed are of one round. From ``FEWEST_SEQUENCES`` seeds on, the rounds of a seed are one
    unit: what is claimed is of further sequences, and repeats are none.

    Returns:
        (units, columns) seconds, and slowdowns in the same shape, NaN where nobody measured them.

    Raises:
        ValueError: The seeds differ.
    """
    grouped = _by_seed(columns)
    if len(grouped[0]) >= FEWEST_SEQUENCES:
        cells = [[group[seed] for group in grouped] for seed in grouped[0]]
    else:
        cells = [
            [[group[seed][n]] for group in grouped]
            for seed in grouped[0]
            for n in range(min(len(group[seed]) for group in grouped))
        ]
    kept = [row for row in cells if len(_rows([row], len(columns)))]
    slowdowns = [[_slowdown(runs) for runs in row] for row in kept]
    return _rows(kept, len(columns)), np.array(slowdowns, np.float64).reshape(-1, len(columns))


def _slowdown(runs: Sequence[Served]) -> float:
    """Geometric mean of what the sentinel saw around runs; NaN where one has none."""
    return float(np.exp(np.mean([math.log(getattr(run, "slowdown", math.nan)) for run in runs])))


def _rows(cells: Sequence[Sequence[Sequence[Served]]], columns: int) -> Array:
    rows = []
    for row in cells:
        response = np.column_stack([_mean_response(runs) for runs in row])
        response = response[~np.isnan(response).any(axis=1)]
        if len(response):
            rows.append(response.mean(axis=0))
    return np.array(rows, np.float64).reshape(-1, columns)


def _by_seed(columns: Sequence[Sequence[Served]]) -> list[dict[int, list[Served]]]:
    grouped: list[dict[int, list[Served]]] = []
    for runs in columns:
        of_seed: dict[int, list[Served]] = {}
        for run in runs:
            of_seed.setdefault(run.seed, []).append(run)
        grouped.append(of_seed)
    if any(set(group) != set(grouped[0]) for group in grouped):
        raise ValueError(f"runs must be of the same seeds, not {[list(group) for group in grouped]}")
    return grouped


def _mean_response(runs: Sequence[Served]) -> Array:
    each = [request_times(run).response_s.to_numpy(np.float64) for run in runs]
    return np.asarray(np.mean(each, axis=0), np.float64)
