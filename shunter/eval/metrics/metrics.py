"""Metrics of runs, and their uncertainty. ``DEFINITIONS`` says what each means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shunter.envs.rules.objectives import alone_s
from shunter.envs.scenario.objective import Objective, Slo
from shunter.eval.execution.runs import Run
from shunter.eval.metrics.starvation import ALL, waits

__all__ = ["request_times", "summarize"]

METRICS = {
    "response_mean_s": "mean response",
    "response_p50_s": "p50",
    "response_p95_s": "p95",
    "response_p99_s": "p99",
    "ttft_mean_s": "mean TTFT",
    "ttft_p90_s": "p90 TTFT",
    "tpot_mean_s": "mean TPOT",
    "worst_wait_s": "worst wait",
    "jain_index": "Jain's index",
    "swaps": "swaps per run",
    "preemptions": "preemptions per run",
    "loading_share": "time loading",
    "unfinished": "unfinished requests",
}
"""Keys of ``summarize`` and how tables call them."""

ILLEGAL = {"illegal_share": "illegal choices"}
"""A further key of ``summarize`` and its name, which tables have only where a policy chose illegally."""

SLO_METRICS = {"slo_attainment": "SLO attainment", "goodput_per_s": "goodput, requests/s"}
"""Further keys of ``summarize`` and their names, where the objective has an SLO."""

DEFINITIONS = {
    "response": "arrival to last token; means and quantiles are of the requests that finished",
    "TTFT": "arrival to first token",
    "TPOT": "(last token - first token) / (tokens - 1), for requests of at least two tokens",
    "slowdown": "response / response alone on the best device, loaded and idle",
    "SLO attainment": "share of all requests that finished with TTFT and TPOT within the limits; those that "
    "were dropped or not finished count as violations",
    "goodput": "requests that attained the SLO, per second of the run",
    "worst wait": "longest time from arrival to first token; one that never came counts until the run's end",
    "Jain's index": "of the models' mean waits: 1 if all wait alike, 1/n if one of n models waits alone",
    "time loading": "share of all devices' time spent on loads",
    "illegal choices": "share of decisions in which the policy chose what its mask forbids; it waited "
    "instead, or did the first legal thing, so that its figures are not those of its choices alone",
    "change": "mean response against the first policy's on the same requests - 1, with a 95 % interval over "
    "runs: simulated, a paired bootstrap over five or more request sequences; real, Student's over three or "
    "more rounds, in which policies run one after another. With fewer, no difference is claimed",
    "IQM": "mean of the middle half of the request sequences' responses relative to the first policy's",
    "probability of improvement": "that a run of it is quicker than one of the first policy, on the same "
    "requests; ties count half",
    "error": "simulated / real - 1 on the same requests; a figure of each run, then the mean over runs",
    "corrected": "the error if the same requests are simulated on a machine as slow as the sentinel, a small "
    "piece of work done again and again, found it around each real run",
    "noise": "reality against itself: how far two real runs of one policy on the same requests differ, "
    "relative to their mean; no simulator can be nearer than that",
    "Kendall's tau": "of the policies' order by mean response, simulated against real; 1 is the same order",
    "growth": "requests in the system at the last arrival less those at the middle one, over the arrivals "
    "between: above 0.1, and by more than chance makes of so few (at least 8 arrivals in second halves), "
    "runs count as saturated, where a queue amplifies every error",
    "warm-up": "the first tenth of a run's requests, which find nothing loaded",
}
"""What the reports' words mean."""

_COSTS = {
    "slowdown": {"slowdown_mean": "mean slowdown"},
    "money": {"cost_mean": "dollars per run"},
    "energy": {"cost_mean": "joules per run"},
}

Array = NDArray[np.float64]


def metric_names(objective: Objective) -> dict[str, str]:
    """Keys of ``summarize`` under an objective, and how tables call them."""
    slo = SLO_METRICS if objective.slo is not None else {}
    return {**METRICS, **slo, **_COSTS.get(objective.metric, {})}


class Served(Protocol):
    """What is needed of a run to time its requests: a ``Run``, or one that was read back."""

    @property
    def seed(self) -> int:
        """Seed of the workload."""

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
        The keys of ``metric_names``, and of ``ILLEGAL``.
    """
    objective = runs[0].log.world.scenario.objective
    times = pd.concat([request_times(run) for run in runs])
    response = times.response_s.dropna()
    quantiles = response.quantile([0.5, 0.95, 0.99]) if len(response) else pd.Series([np.nan] * 3)
    waited = waits(runs).loc[[ALL]].to_dict("records")[0]
    device_s = sum(run.makespan_s * len(run.log.world.scenario.devices) for run in runs)
    return {
        "response_mean_s": float(response.mean()),
        "response_p50_s": float(quantiles.iloc[0]),
        "response_p95_s": float(quantiles.iloc[1]),
        "response_p99_s": float(quantiles.iloc[2]),
        "ttft_mean_s": float(times.ttft_s.mean()),
        "ttft_p90_s": float(times.ttft_s.quantile(0.9)),
        "tpot_mean_s": float(times.tpot_s.mean()),
        "worst_wait_s": float(waited["max_s"]),
        "jain_index": float(waited["jain"]),
        "swaps": float(np.mean([run.counts["swaps"] for run in runs])),
        "preemptions": float(np.mean([run.counts["preemptions"] for run in runs])),
        "loading_share": sum(run.counts["loading_ns"] for run in runs) * 1e-9 / device_s,
        "unfinished": float(times.response_s.isna().sum()),
        "illegal_share": illegal_share(runs),
        **(_slo_metrics(runs, times, objective.slo) if objective.slo else {}),
        **_cost_metrics(runs, objective),
    }


def illegal_share(runs: Sequence[Run]) -> float:
    """Share of decisions in which the policy chose illegally; 0 where none was made."""
    illegal, decisions = (sum(run.counts[key] for run in runs) for key in ("illegal_actions", "decisions"))
    return illegal / max(1, decisions)


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
