"""How far simulation is from reality, and reality from itself, on the same requests."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from shunter.eval.budgets import budget_problems
from shunter.eval.execution.runs import Run
from shunter.eval.fidelity.operations import OperationFidelity, operation_fidelity
from shunter.eval.metrics.backlog import growth_interval, is_saturated
from shunter.eval.metrics.metrics import request_times
from shunter.eval.metrics.ranking import Ranking, rank
from shunter.files import finite

QUANTITIES = {"response": "response_s", "TTFT": "ttft_s", "TPOT": "tpot_s"}
STATISTICS = {"mean": None, "p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}

WARM_UP = 0.1
"""Share of a run's first requests that count as its warm-up."""

Runs = Mapping[str, Sequence[Run]]


@dataclass(frozen=True)
class RequestFidelity:
    """One statistic of one policy's requests.

    Attributes:
        policy: Its name.
        quantity: One of ``QUANTITIES``.
        statistic: One of ``STATISTICS``.
        simulated_s: Statistic of simulated runs, mean over runs.
        real_s: Statistic of real runs, mean over runs.
        error: simulated / real - 1.
        noise: Mean over pairs of real runs on the same requests of how far they differ, relative to their
            mean; None without repeats.
    """

    policy: str
    quantity: str
    statistic: str
    simulated_s: float
    real_s: float
    error: float
    noise: float | None


@dataclass(frozen=True)
class PhaseFidelity:
    """Mean response of one part of one policy's runs.

    Attributes:
        policy: Its name.
        phase: ``warm-up`` (the first tenth of the requests) or ``steady``.
        simulated_s: Mean response of simulated runs.
        real_s: Mean response of real runs.
        error: simulated / real - 1.
    """

    policy: str
    phase: str
    simulated_s: float
    real_s: float
    error: float


@dataclass(frozen=True)
class PolicyLoad:
    """Whether requests piled up under a policy.

    Attributes:
        policy: Its name.
        simulated: Growth of the backlog in simulation, mean over request sequences.
        real: Growth of the backlog in reality, mean over request sequences.
        saturated: Whether in reality it is shown to have grown by more than a tenth of what arrived; False
            says no more than that this is not shown.
    """

    policy: str
    simulated: float
    real: float
    saturated: bool


@dataclass(frozen=True)
class Fidelity:
    """Everything that sets simulation beside reality.

    Attributes:
        refused: Why the two are not compared (unlike memory budgets); then all else is empty.
        operations: Errors of operations' durations, by operation.
        requests: Errors of request times, by policy, quantity and statistic.
        phases: Errors of mean responses, by policy: warm-up apart.
        loads: Growth of backlogs, by policy: saturation apart.
        ranking: Orders of the policies; None with fewer than two.
        repeats: Pairs of real runs on the same requests that noise rests on.
        notes: What else a reader must know.
    """

    refused: tuple[str, ...] = ()
    operations: tuple[OperationFidelity, ...] = ()
    requests: tuple[RequestFidelity, ...] = ()
    phases: tuple[PhaseFidelity, ...] = ()
    loads: tuple[PolicyLoad, ...] = ()
    ranking: Ranking | None = None
    repeats: int = 0
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain data; NaN becomes None."""
        plain = asdict(self)
        if self.ranking is not None:
            ranking = plain["ranking"]
            ranking["tau"] = self.ranking.tau._asdict()
            for row, pair in zip(ranking["pairs"], self.ranking.pairs, strict=True):
                row.update(real=pair.real._asdict(), simulated=pair.simulated._asdict())
                row.update(significant=pair.significant, agrees=pair.agrees)
            ranking.update(significant=self.ranking.significant, agreeing=self.ranking.agreeing)
        cleaned: dict[str, Any] = finite(plain)
        return cleaned

    def summary(self) -> dict[str, float]:
        """Few figures that compare one evaluation with another; NaN where there is none."""
        rows = [r for r in self.requests if (r.quantity, r.statistic) == ("response", "mean")]
        errors = [abs(row.error) for row in rows if math.isfinite(row.error)]
        noises = [row.noise for row in rows if row.noise is not None]
        ranking = self.ranking
        return {
            "response_error_median": float(np.median(errors)) if errors else math.nan,
            "response_error_largest": max(errors, default=math.nan),
            "response_noise_median": float(np.median(noises)) if noises else math.nan,
            "kendall_tau": ranking.tau.value if ranking else math.nan,
            "pairs_significant": float(ranking.significant) if ranking else math.nan,
            "pairs_agreeing": float(ranking.agreeing) if ranking else math.nan,
        }

    def of(self, policy: str, quantity: str = "response", statistic: str = "mean") -> RequestFidelity:
        """One row of ``requests``.

        Raises:
            KeyError: There is none.
        """
        for row in self.requests:
            if (row.policy, row.quantity, row.statistic) == (policy, quantity, statistic):
                return row
        raise KeyError((policy, quantity, statistic))


def fidelity(simulated: Runs, real: Runs) -> Fidelity:
    """Compares runs on the same requests.

    Args:
        simulated: Runs by policy, one of each seed.
        real: Runs by policy, one or several of each seed.
    """
    real = {name: runs for name, runs in real.items() if runs and name in simulated}
    if not real:
        return Fidelity()
    ours = {name: same_seeds(simulated[name], runs) for name, runs in real.items()}
    problems = budget_problems([r for runs in ours.values() for r in runs], [*_all(real)])
    if problems:
        return Fidelity(refused=tuple(dict.fromkeys(problems)))
    operations, left_out = operation_fidelity([*_all(real)])
    loads = tuple(_load(name, ours[name], runs) for name, runs in real.items())
    pairs = sum(len(list(_repeats(runs))) for runs in real.values())
    return Fidelity(
        operations=operations,
        requests=tuple(row for name, runs in real.items() for row in _requests(name, ours[name], runs)),
        phases=tuple(row for name, runs in real.items() for row in _phases(name, ours[name], runs)),
        loads=loads,
        ranking=_ranking(ours, real),
        repeats=pairs,
        notes=tuple(_notes(real, loads, pairs, left_out)),
    )


def same_seeds(simulated: Sequence[Run], real: Sequence[Run]) -> list[Run]:
    """For each real run the simulated one of its seed."""
    by_seed = {run.seed: run for run in simulated}
    return [by_seed[run.seed] for run in real]


def _all(runs: Runs) -> Iterator[Run]:
    return (run for each in runs.values() for run in each)


def _ranking(simulated: Runs, real: Runs) -> Ranking | None:
    """Ranks the policies that ran on the same seeds; an interrupted round counts for nobody."""
    shared = set.intersection(*({run.seed for run in runs} for runs in real.values()))
    kept = [
        {name: [run for run in runs if run.seed in shared] for name, runs in mode.items()}
        for mode in (simulated, real)
    ]
    return rank(*kept) if shared else None


def _repeats(runs: Sequence[Run]) -> Iterator[tuple[Run, Run]]:
    return ((a, b) for a, b in combinations(runs, 2) if a.seed == b.seed)


def _statistics(run: Run) -> pd.Series[float]:
    """Index (quantity, statistic)."""
    times = request_times(run)
    found = {
        (name, statistic): times[column].mean() if share is None else times[column].quantile(share)
        for name, column in QUANTITIES.items()
        for statistic, share in STATISTICS.items()
    }
    return pd.Series(found, dtype=np.float64)


def _requests(name: str, simulated: Sequence[Run], real: Sequence[Run]) -> Iterator[RequestFidelity]:
    each = [_statistics(run) for run in real]
    ours = pd.concat([_statistics(run) for run in simulated], axis=1).mean(axis=1)
    theirs = pd.concat(each, axis=1).mean(axis=1)
    apart = [
        (a - b).abs() / ((a + b) / 2)
        for (one, a), (other, b) in combinations(zip(real, each, strict=True), 2)
        if one.seed == other.seed
    ]
    noise = pd.concat(apart, axis=1).mean(axis=1) if apart else None
    for key in theirs.index:
        quantity, statistic = key
        between = None if noise is None else float(noise[key])
        error = _error(ours[key], theirs[key])
        yield RequestFidelity(name, quantity, statistic, float(ours[key]), float(theirs[key]), error, between)


def _phases(name: str, simulated: Sequence[Run], real: Sequence[Run]) -> Iterator[PhaseFidelity]:
    parts: dict[str, list[tuple[float, float]]] = {"warm-up": [], "steady": []}
    for ours, theirs in zip(simulated, real, strict=True):
        both = np.column_stack([request_times(run).response_s for run in (ours, theirs)])
        cut = max(1, round(WARM_UP * len(both)))
        for phase, rows in zip(parts, (both[:cut], both[cut:]), strict=True):
            kept = rows[~np.isnan(rows).any(axis=1)]
            if len(kept):
                parts[phase].append(tuple(kept.mean(axis=0)))
    for phase, means in parts.items():
        if means:
            simulated_s, real_s = np.mean(means, axis=0)
            yield PhaseFidelity(name, phase, float(simulated_s), float(real_s), _error(simulated_s, real_s))


def _load(name: str, simulated: Sequence[Run], real: Sequence[Run]) -> PolicyLoad:
    ours, theirs = map(growth_interval, (simulated, real))
    return PolicyLoad(name, ours.value, theirs.value, is_saturated(theirs))


def _error(simulated: float, real: float) -> float:
    return float(simulated / real - 1) if real else math.nan


def _notes(real: Runs, loads: Sequence[PolicyLoad], pairs: int, left_out: int) -> Iterator[str]:
    devices = next(_all(real)).log.world.scenario.devices
    if len(devices) > 1:
        yield (
            f"the {len(devices)} devices may share a host and contend; each was profiled while the others "
            "idled, so operations that ran beside another device's are told apart"
        )
    if not pairs:
        yield "no policy ran twice on the same requests, so how far reality is from itself is unknown"
    saturated = [load.policy for load in loads if load.saturated]
    if saturated:
        yield f"saturated, where a queue amplifies every error: {', '.join(saturated)}"
    if left_out:
        yield f"operations of {left_out} runs were left out: their logs hold failures"
