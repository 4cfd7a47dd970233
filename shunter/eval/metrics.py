"""Metrics of runs, and their uncertainty.

Definitions, per request: response = last token - arrival; TTFT = first token - arrival;
TPOT = (last token - first token) / (tokens - 1), for requests of at least two tokens;
slowdown = response / response alone on the best device, loaded and idle. A request attains the SLO if it
finished and its TTFT and TPOT are within the limits; goodput counts those that do per second of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from shunter.envs.objectives import alone_s
from shunter.envs.scenario_objective import Objective, Slo
from shunter.eval.runs import Run

__all__ = [
    "METRICS",
    "Served",
    "metric_names",
    "overhead_share",
    "paired_change",
    "request_times",
    "slowdowns",
    "summarize",
]

METRICS = {
    "response_mean_s": "mean response",
    "response_p50_s": "p50",
    "response_p95_s": "p95",
    "response_p99_s": "p99",
    "ttft_mean_s": "mean TTFT",
    "tpot_mean_s": "mean TPOT",
    "swaps": "swaps per run",
    "preemptions": "preemptions per run",
    "loading_share": "time loading",
    "unfinished": "unfinished requests",
}
"""Keys of ``summarize`` and how tables call them."""

SLO_METRICS = {"slo_attainment": "SLO attainment", "goodput_per_s": "goodput, requests/s"}
"""Likewise, where the objective has an SLO."""

_COSTS = {
    "slowdown": {"slowdown_mean": "mean slowdown"},
    "money": {"cost_mean": "dollars per run"},
    "energy": {"cost_mean": "joules per run"},
}

BLOCK = 10
"""Consecutive requests that are resampled together where runs are too few to resample: waiting times of
neighbours are not independent."""

Array = NDArray[np.float64]


def metric_names(objective: Objective) -> dict[str, str]:
    """Keys of ``summarize`` under an objective, and how tables call them."""
    slo = SLO_METRICS if objective.slo is not None else {}
    return {**METRICS, **slo, **_COSTS.get(objective.metric, {})}


class Served(Protocol):
    """What is needed of a run to time its requests: a ``Run``, or one that was read back."""

    @property
    def seed(self) -> int:
        """Of the workload."""

    @property
    def requests(self) -> pd.DataFrame:
        """As ``Run.requests``."""


def request_times(run: Served) -> pd.DataFrame:
    """Response, TTFT and TPOT of every request, in seconds; missing where it did not finish.

    Returns:
        One row per request in order of arrival: response_s, ttft_s, tpot_s.
    """
    r = run.requests
    steps = (r.decode_tokens - 1).where(r.decode_tokens > 1)
    return pd.DataFrame(
        {
            "response_s": r.finish_s - r.arrival_s,
            "ttft_s": r.first_token_s - r.arrival_s,
            "tpot_s": (r.finish_s - r.first_token_s) / steps,
        }
    )


def slowdowns(run: Run) -> Array:
    """Slowdown of every request, NaN where it did not finish."""
    world, r = run.log.world, run.requests
    index = {model.name: m for m, model in enumerate(world.scenario.models)}
    alone = [
        alone_s(world.tables, index[name], prompt, decode)
        for name, prompt, decode in zip(r.model, r.prompt_tokens, r.decode_tokens, strict=True)
    ]
    return np.asarray((r.finish_s - r.arrival_s) / np.array(alone))


def summarize(runs: Sequence[Run]) -> dict[str, float]:
    """Metrics of one policy over its runs, requests pooled; counts and costs are means per run.

    Returns:
        The keys of ``metric_names``.
    """
    objective = runs[0].log.world.scenario.objective
    times = pd.concat([request_times(run) for run in runs])
    response = times.response_s.dropna()
    quantiles = response.quantile([0.5, 0.95, 0.99]) if len(response) else pd.Series([np.nan] * 3)
    device_s = sum(run.makespan_s * len(run.log.world.scenario.devices) for run in runs)
    return {
        "response_mean_s": float(response.mean()),
        "response_p50_s": float(quantiles.iloc[0]),
        "response_p95_s": float(quantiles.iloc[1]),
        "response_p99_s": float(quantiles.iloc[2]),
        "ttft_mean_s": float(times.ttft_s.mean()),
        "tpot_mean_s": float(times.tpot_s.mean()),
        "swaps": float(np.mean([run.counts["swaps"] for run in runs])),
        "preemptions": float(np.mean([run.counts["preemptions"] for run in runs])),
        "loading_share": sum(run.counts["loading_ns"] for run in runs) * 1e-9 / device_s,
        "unfinished": float(times.response_s.isna().sum()),
        **(_slo_metrics(runs, times, objective.slo) if objective.slo else {}),
        **_cost_metrics(runs, objective),
    }


def overhead_share(runs: Sequence[Run]) -> float:
    """Time spent on deciding and keeping the books over the time that engines were busy; NaN if never."""
    busy_s = sum(run.counts["running_ns"] + run.counts["loading_ns"] for run in runs) * 1e-9
    return sum(run.overhead_s for run in runs) / busy_s if busy_s else float("nan")


def _slo_metrics(runs: Sequence[Run], times: pd.DataFrame, slo: Slo) -> dict[str, float]:
    kept = times.response_s.notna()
    if slo.ttft_s is not None:
        kept &= times.ttft_s <= slo.ttft_s
    if slo.tpot_s is not None:
        kept &= ~(times.tpot_s > slo.tpot_s)
    seconds = sum(run.makespan_s for run in runs)
    return {"slo_attainment": float(kept.mean()), "goodput_per_s": float(kept.sum()) / seconds}


def _cost_metrics(runs: Sequence[Run], objective: Objective) -> dict[str, float]:
    if objective.metric == "slowdown":
        return {"slowdown_mean": float(np.nanmean(np.concatenate([slowdowns(run) for run in runs])))}
    if objective.rates:
        return {"cost_mean": float(np.mean([run.cost for run in runs]))}
    return {}


def paired_change(runs: Sequence[Served], against: Sequence[Served], seed: int = 0) -> dict[str, Any]:
    """Relative change of the mean response against another policy on the same requests.

    The interval is a 95 % paired bootstrap: over runs if there are at least 5, otherwise over blocks of
    ``BLOCK`` consecutive requests, which neglects dependence between blocks.

    Args:
        runs: One policy's runs.
        against: The other's, of the same workload seeds in the same order.
        seed: Of the bootstrap.

    Returns:
        ``change`` (−0.1 is 10 % lower), ``low``, ``high`` and ``unit`` (what was resampled).
    """
    mine, theirs, unit = [], [], "runs" if len(runs) >= 5 else f"blocks of {BLOCK} requests"
    for a, b in zip(runs, against, strict=True):
        pair = np.column_stack([request_times(a).response_s, request_times(b).response_s])
        pair = pair[~np.isnan(pair).any(axis=1)]
        blocks = [pair] if unit == "runs" else np.array_split(pair, max(1, len(pair) // BLOCK))
        mine += [block[:, 0].mean() for block in blocks]
        theirs += [block[:, 1].mean() for block in blocks]
    low, high = _interval(np.array(mine), np.array(theirs), seed)
    return {"change": float(np.mean(mine) / np.mean(theirs) - 1), "low": low, "high": high, "unit": unit}


def _interval(mine: Array, theirs: Array, seed: int) -> tuple[float, float]:
    if len(mine) < 2 or np.array_equal(mine, theirs):
        change = float(mine.mean() / theirs.mean() - 1)
        return (change, change) if np.array_equal(mine, theirs) else (float("nan"), float("nan"))
    statistic: Callable[..., Any] = lambda a, b, axis: a.mean(axis) / b.mean(axis) - 1  # noqa: E731
    result = stats.bootstrap(
        (mine, theirs),
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
