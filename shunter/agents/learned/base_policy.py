"""What a learned policy rests on before anything is learned, and which candidates it looks at.

Untrained, it is cost-greedy that also asks whether another device would be done sooner.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shunter.agents.base import Scores, is_, value
from shunter.agents.heuristics.cost_greedy import CostGreedy, eviction_loss, greedy_rate
from shunter.agents.heuristics.rules import second_copy
from shunter.envs.observation.features import context_feature

__all__ = [
    "DRAIN_COST_GREEDY",
    "MOST_CANDIDATES",
    "PENDING",
    "PRIOR_INPUT",
    "TUNED_COST_GREEDY",
    "BasePolicy",
    "base_scores",
    "listed",
]

MOST_CANDIDATES = 16
"""Candidates that are looked at."""

PRIOR_INPUT = 0.25
"""Scale of the prior among the inputs of a network."""

TUNED_COST_GREEDY = CostGreedy(load_weight=2.19, reload_weight=0.467, copy_share=0.131)
"""Cost-greedy as ``shunter tune`` found it best over the training scenarios."""

DRAIN_COST_GREEDY = CostGreedy(load_weight=1.0, reload_weight=1.0, copy_share=0.1)
"""The same where servers drain: the best of a grid of 18 over 7 training scenarios at loads 0.5 and 0.8."""

OTHERS_BUSY, PENDING = context_feature("others_busy"), context_feature("pending")


class BasePolicy(NamedTuple):
    """What untrained scores rest on; a policy file holds its own.

    Attributes:
        load_weight: Weight of swapping in the time that serving takes, as cost-greedy has it.
        reload_weight: Weight of bringing an evicted model back, as cost-greedy has it.
        copy_share: What a second copy of a model counts. Much less would keep copies out of a search's reach.
        elsewhere: How much a load counts less where another device would serve sooner: the exponent of the
            share of its own time in which that one could.
    """

    load_weight: float = TUNED_COST_GREEDY.load_weight
    reload_weight: float = TUNED_COST_GREEDY.reload_weight
    copy_share: float = 0.3
    elsewhere: float = 1.0

    @classmethod
    def of(cls, *, drains: bool) -> BasePolicy:
        """What is good where running requests can be stopped, or where servers drain."""
        if not drains:
            return cls()
        return cls(DRAIN_COST_GREEDY.load_weight, DRAIN_COST_GREEDY.reload_weight)


def base_scores(candidates: NDArray[Any], prior: BasePolicy) -> Scores:
    """Untrained scores: log rates of serving, low constants for waiting and prefetching, log losses.

    Of prefetches, what is asked for most per second of loading comes first. Waiting comes before what serves
    less than a twentieth of a request in a time scale, as second copies may.

    Args:
        candidates: (..., F) features of the candidates.
        prior: Parameters of the base policy.

    Returns:
        (...,).
    """
    rate = greedy_rate(candidates, prior.load_weight)
    own = sum(value(candidates, name) for name in ("swap_time", "join_time", "batch_time"))
    there = value(candidates, "serve_elsewhere")  # 0 where there is no other device
    share = np.minimum(1.0, there / (own + 1e-3)) ** prior.elsewhere
    free = is_(candidates, "load") & (value(candidates, "held") == 0) & (there > 0)
    rate = np.where(free, share * rate, rate)
    rate = np.where(second_copy(candidates), prior.copy_share * rate, rate)
    effort = value(candidates, "swap_time") / (value(candidates, "arrivals") + 1e-3)
    idle = np.where(is_(candidates, "wait"), -3.0, -4.0 - 0.1 * np.log1p(effort))
    score = np.where(rate > 0, np.log(np.maximum(rate, 1e-4)), idle)
    evict = -4.5 - np.log1p(eviction_loss(candidates, prior.reload_weight))
    return np.where(is_(candidates, "evict"), evict, score)


def pruned(
    candidates: NDArray[Any], context: NDArray[Any], mask: NDArray[np.bool_], prior: Scores
) -> NDArray[np.bool_]:
    """The candidates that a learned policy chooses from.

    While requests wait that no other device holds the model of, nothing is prefetched, and nobody waits
    unless another device is busy: so the system never stands still. Only a load that lacks room evicts. Of
    what is left, those of highest prior: ``MOST_CANDIDATES`` of them, and whatever equals the last.

    Args:
        candidates: (..., A, F) features of the candidates.
        context: (..., G) features of the context.
        mask: (..., A) which candidates are legal.
        prior: (..., A) untrained scores.

    Returns:
        (..., A); at least one of the legal ones.
    """
    serves = value(candidates, "requests") > 0
    evicts, waits = is_(candidates, "evict"), is_(candidates, "wait")
    urgent = (mask & serves & ~evicts & ~second_copy(candidates)).any(axis=-1, keepdims=True)
    alone = context[..., OTHERS_BUSY, None] == 0
    idle = ~serves & ~waits & ~evicts
    dropped = (urgent & (idle | (waits & alone))) | (evicts & (context[..., PENDING, None] == 0))
    mask = mask & ~dropped
    if mask.shape[-1] <= MOST_CANDIDATES:
        return mask
    legal = np.where(mask, prior, -np.inf)
    least = np.partition(legal, -MOST_CANDIDATES, axis=-1)[..., -MOST_CANDIDATES, None]
    return np.asarray(mask & (legal >= least))


def listed(
    candidates: NDArray[Any], context: NDArray[Any], mask: NDArray[np.bool_], prior: BasePolicy
) -> tuple[NDArray[np.bool_], Scores]:
    """Who is on the ``pruned``, and the untrained scores that it goes by, minus infinity where illegal.

    Args:
        candidates: (..., A, F) features of the candidates.
        context: (..., G) features of the context.
        mask: (..., A) which candidates are legal.
        prior: Parameters of the base policy.

    Returns:
        Two arrays of shape (..., A).
    """
    scores = np.full(mask.shape, -np.inf)
    scores[mask] = base_scores(candidates[mask], prior)
    return pruned(candidates, context, mask, scores), scores
