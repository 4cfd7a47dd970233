"""Which of two policies is better on requests that neither training nor the final evaluation uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shunter.agents.base import Policy
from shunter.agents.heuristics.cost_greedy import CostGreedy
from shunter.agents.learned.base_policy import DRAIN_COST_GREEDY, TUNED_COST_GREEDY
from shunter.agents.learned.file import load_of
from shunter.agents.learned.score_card import Cell, ScoreCard
from shunter.agents.registry import DEFAULT_POLICIES, make_policy
from shunter.envs.world.world import World
from shunter.eval.execution.batched import evaluate_batched
from shunter.train.search.trials import CUT_OFF, FEW_MISSES, score_of
from shunter.uncertainty import Interval, paired_mean_change

__all__ = ["best_of", "heuristics", "mean_responses"]

Array = NDArray[np.float64]


class Played(NamedTuple):
    """What a policy did on some request sequences.

    Attributes:
        response_mean_s: (worlds, seeds) mean responses in s; NaN where requests were left unfinished.
        ttft_p99_s: (worlds,) p99 over all requests of the wait for a first token, in s; NaN where some were
            left unfinished.
        unfinished: (worlds,) number of requests left unfinished.
    """

    response_mean_s: Array
    ttft_p99_s: Array
    unfinished: NDArray[np.int64]


def played(worlds: Sequence[World], policy: Policy, seeds: Sequence[int]) -> Played:
    """Plays a policy on the same request sequences in every world."""
    means, waits, unfinished = [], [], []
    for world in worlds:
        batched = evaluate_batched(world, policy, seeds)
        requests = pd.concat(batched.requests)
        means.append(batched.response_mean_s)
        waits.append(float(np.quantile(requests.first_token_s - requests.arrival_s, 0.99)))
        unfinished.append(int(batched.unfinished.sum()))
    return Played(np.array(means), np.array(waits), np.array(unfinished))


def all_drain(worlds: Sequence[World]) -> bool:
    """Whether servers drain in all of these worlds."""
    return all(world.drains for world in worlds)


def tuned_of(worlds: Sequence[World]) -> CostGreedy:
    """Cost-greedy as it was tuned for worlds like these."""
    return DRAIN_COST_GREEDY if all_drain(worlds) else TUNED_COST_GREEDY


def heuristics(worlds: Sequence[World]) -> dict[str, Policy]:
    """What learning must beat, by name: what is compared unless policies are named, and tuned cost-greedy."""
    return {policy.name: policy for policy in (tuned_of(worlds), *map(make_policy, DEFAULT_POLICIES))}


def best_of(responses: Mapping[str, Array]) -> str:
    """Whose mean response is lowest, geometric mean over worlds.

    Args:
        responses: (worlds, seeds) by name; NaN where requests were left unfinished, which counts as 1e9 s.
    """
    return min(responses, key=lambda name: float(_log_means(responses[name]).mean()))


def mean_responses(worlds: Sequence[World], policy: Policy, seeds: Sequence[int]) -> Array:
    """Mean response of every episode in seconds, (worlds, seeds); NaN where requests were left unfinished."""
    return np.array([evaluate_batched(world, policy, seeds).response_mean_s for world in worlds])


def log_mean_responses(worlds: Sequence[World], policy: Policy, seeds: Sequence[int]) -> Array:
    """(worlds,) logarithm of the mean response; of 1e9 s where requests were left unfinished."""
    return _log_means(mean_responses(worlds, policy, seeds))


def _log_means(times: Array) -> Array:
    means: Array = times.mean(axis=1)
    return np.log(np.where(np.isnan(means), 1e9, means))


def costs(world: World, policy: Policy, seeds: Sequence[int]) -> Array:
    """(seeds,) what the scenario's objective costs per request, as ``shunter.train.search.trials`` has it.

    An episode that was cut off costs ``CUT_OFF`` times what it had accrued.
    """
    batched, objective = evaluate_batched(world, policy, seeds), world.scenario.objective
    score, found = score_of(world), np.zeros(len(seeds))
    for s, (requests, accrued) in enumerate(zip(batched.requests, batched.cost.tolist(), strict=True)):
        response_s = requests.finish_s - requests.arrival_s
        found[s] = accrued / len(requests)
        if not objective.additive and not batched.unfinished[s]:
            mean_s = response_s.groupby(requests.model).mean().mean() if score.by_model else response_s.mean()
            longest = response_s.nlargest(max(1, round(score.tail_share * len(requests)))).mean()
            found[s] = (1 - score.tail_weight) * mean_s + score.tail_weight * longest
    found += FEW_MISSES if objective.metric == "slo" else 0.0
    return np.where(batched.unfinished > 0, CUT_OFF * found, np.maximum(found, 1e-9))


def log_costs(worlds: Sequence[World], policy: Policy, seeds: Sequence[int]) -> Array:
    """(worlds,) logarithm of the mean over seeds of ``costs``."""
    return np.array([np.log(costs(world, policy, seeds).mean()) for world in worlds])


def score_card(
    worlds: Sequence[World], mine: Played, theirs: Mapping[str, Played], seeds: Sequence[int]
) -> ScoreCard:
    """Judges a policy against the best baseline of each world.

    Args:
        worlds: Scenarios at their loads.
        mine: What the policy did there.
        theirs: What heuristics did, by the names to show; none of them an oracle.
        seeds: Seeds of the workloads; the policy must not have been chosen on them for the card to be fair.
    """
    cells = []
    for w, world in enumerate(worlds):
        responses = {name: other.response_mean_s[w : w + 1] for name, other in theirs.items()}
        cells.append(_cell(world, mine.response_mean_s[w : w + 1], int(mine.unfinished[w]), responses))
    return ScoreCard(seeds=list(seeds), cells=cells)


def _cell(world: World, mine: Array, unfinished: int, theirs: Mapping[str, Array]) -> Cell:
    best = best_of(theirs)
    both = np.isfinite(mine).all() and np.isfinite(theirs[best]).all()
    change = paired_mean_change(mine, theirs[best]) if both else Interval(np.nan, np.nan, np.nan)
    return Cell(
        scenario=world.scenario.name,
        load=round(load_of(world), 4),
        response_s=if_finite(mine.mean()),
        baseline=best,
        baseline_response_s=if_finite(theirs[best].mean()),
        change=if_finite(change.value),
        low=if_finite(change.low),
        high=if_finite(change.high),
        unfinished=unfinished,
    )


def if_finite(value: float) -> float | None:
    """The number as JSON can hold it; None for one that is not finite."""
    return float(value) if np.isfinite(value) else None
