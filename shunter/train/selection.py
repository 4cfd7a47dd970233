"""Which of two policies is better on requests that neither training nor the final evaluation uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from shunter.agents.base import Policy
from shunter.agents.policy_file import load_of
from shunter.agents.score_card import Cell, ScoreCard
from shunter.envs.world import World
from shunter.eval.batched import evaluate_batched

__all__ = ["Change", "log_mean_responses", "make_score_card", "mean_responses", "paired_mean_change"]

Array = NDArray[np.float64]

RESAMPLES = 4000


@dataclass(frozen=True)
class Change:
    """A relative change; −0.1 is 10 % lower.

    Attributes:
        change: Geometric mean over worlds of the ratio of mean responses, less 1; NaN if nothing compares.
        low: Lower end of its 95 % interval; NaN with fewer than two seeds.
        high: Upper end.
    """

    change: float
    low: float
    high: float


def mean_responses(worlds: Sequence[World], policy: Policy, seeds: Sequence[int]) -> Array:
    """Mean response of every episode in seconds, (worlds, seeds); NaN where requests were left unfinished."""
    return np.array([evaluate_batched(world, policy, seeds).response_mean_s for world in worlds])


def log_mean_responses(worlds: Sequence[World], policy: Policy, seeds: Sequence[int]) -> Array:
    """(worlds,) logarithm of the mean response; of 1e9 s where requests were left unfinished."""
    means: Array = mean_responses(worlds, policy, seeds).mean(axis=1)
    return np.log(np.where(np.isnan(means), 1e9, means))


def paired_mean_change(mine: Array, theirs: Array, seed: int = 0) -> Change:
    """Change of the mean response with its 95 % paired bootstrap interval, seeds resampled.

    A seed counts in all worlds at once, since its requests are alike in them; an episode that one of the two
    left unfinished counts for neither.

    Args:
        mine: (worlds, seeds).
        theirs: Likewise, of the same requests.
        seed: Of the bootstrap.
    """
    both = ~(np.isnan(mine) | np.isnan(theirs))
    if not both.any():
        return Change(np.nan, np.nan, np.nan)
    some = np.ix_(both.any(axis=1), both.any(axis=0))
    mine, theirs = np.where(both, mine, 0.0)[some], np.where(both, theirs, 0.0)[some]

    def statistic(chosen: NDArray[np.int64], axis: int = -1) -> Any:
        with np.errstate(invalid="ignore"):  # a resample may miss a world's only finished episodes
            ratios = np.log(mine[:, chosen].sum(axis) / theirs[:, chosen].sum(axis))
        return np.expm1(np.nanmean(ratios, axis=0))

    seeds = np.arange(mine.shape[1])
    change = float(statistic(seeds))
    if len(seeds) < 2:
        return Change(change, np.nan, np.nan)
    if np.array_equal(mine, theirs):
        return Change(change, change, change)
    interval = stats.bootstrap(
        (seeds,),
        statistic,
        vectorized=True,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Change(change, float(interval.low), float(interval.high))


def make_score_card(
    policy: Policy, worlds: Sequence[World], baselines: Mapping[str, Policy], seeds: Sequence[int]
) -> ScoreCard:
    """Judges a policy against the best baseline of each world.

    Args:
        policy: To judge.
        worlds: Scenarios at their loads.
        baselines: Heuristics by the names to show; none of them an oracle.
        seeds: Of the workloads; the policy must not have been chosen on them for the card to be fair.
    """
    cells = [_cell(policy, world, baselines, seeds) for world in worlds]
    return ScoreCard(seeds=list(seeds), cells=cells)


def _cell(policy: Policy, world: World, baselines: Mapping[str, Policy], seeds: Sequence[int]) -> Cell:
    own = evaluate_batched(world, policy, seeds)
    mine = own.response_mean_s[None]
    theirs = {name: mean_responses([world], baseline, seeds) for name, baseline in baselines.items()}
    means = {name: np.nan_to_num(times.mean(), nan=np.inf) for name, times in theirs.items()}
    best = min(means, key=lambda name: float(means[name]))
    both = np.isfinite(mine).all() and np.isfinite(means[best])
    change = paired_mean_change(mine, theirs[best]) if both else Change(np.nan, np.nan, np.nan)
    return Cell(
        scenario=world.scenario.name,
        load=round(load_of(world), 4),
        response_s=_number(mine.mean()),
        baseline=best,
        baseline_response_s=_number(means[best]),
        change=_number(change.change),
        low=_number(change.low),
        high=_number(change.high),
        unfinished=int(own.unfinished.sum()),
    )


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
