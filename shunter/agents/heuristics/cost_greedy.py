"""Most requests per second of load and work: the strongest simple heuristic of our prototypes.

Its rule stands here alone, twice: over arrays of candidates for numpy, and of one candidate for compiled code
(``*_of``). A test holds the two equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.agents.base import Scores, is_, value
from shunter.agents.heuristics.rules import is_copy, second_copy
from shunter.agents.parameters import Heuristic, number
from shunter.envs.observation.features import feature
from shunter.envs.sim.compiled import entry, jit
from shunter.envs.state.state import Bools

__all__ = ["CostGreedy", "greedy_choice", "greedy_score_of"]

Features = NDArray[np.float32]

IS_RUN, IS_LOAD, IS_EVICT, IS_WAIT = (feature(f"is_{kind}") for kind in ("run", "load", "evict", "wait"))
REQUESTS, SWAP, JOIN, FIRST = (feature(n) for n in ("requests", "swap_time", "join_time", "first_time"))
UNUSED, PREEMPT = feature("unused_time"), feature("preempt_time")

UNASKED = -1e9
"""Score of loading what nobody asked for."""


def greedy_rate(candidates: NDArray[Any], load_weight: float = 1.0) -> Scores:
    """Waiting requests per time scale of swapping, prefilling and decoding until the first one finishes.

    Args:
        candidates: (..., A, F) features of the candidates.
        load_weight: Weight of swapping in that time.

    Returns:
        (..., A), at least 0; 0 for evictions and waiting.
    """
    time = load_weight * value(candidates, "swap_time") + value(candidates, "join_time")
    time = time + value(candidates, "first_time")
    serves = is_(candidates, "run") | is_(candidates, "load")
    return np.where(serves, value(candidates, "requests") / (time + 1e-3), 0.0)


@entry
def rate_of(c: Features, load_weight: float) -> float:
    """``greedy_rate`` of one candidate, (F,), compiled."""
    if c[IS_RUN] == 0 and c[IS_LOAD] == 0:
        return 0.0
    time = load_weight * np.float64(c[SWAP]) + np.float64(c[JOIN]) + np.float64(c[FIRST])
    return float(np.float64(c[REQUESTS]) / (time + 1e-3))


def eviction_loss(candidates: NDArray[Any], reload_weight: float = 1.0) -> Scores:
    """What evicting a resident costs: its waiting requests, and bringing it back over the time it lay unused.

    Args:
        candidates: (..., A, F) features of the candidates.
        reload_weight: Weight of bringing it back.

    Returns:
        (..., A), at least 0; meaningful for evictions.
    """
    back = value(candidates, "preempt_time") / (value(candidates, "unused_time") + 1.0)
    return value(candidates, "requests") + reload_weight * back


@entry
def loss_of(c: Features, reload_weight: float) -> float:
    """``eviction_loss`` of one candidate, (F,), compiled."""
    back = np.float64(c[PREEMPT]) / (np.float64(c[UNUSED]) + 1.0)
    return float(np.float64(c[REQUESTS]) + reload_weight * back)


@dataclass(frozen=True)
class CostGreedy(Heuristic):
    """Takes the model that serves most waiting requests per second, its load counted.

    Room is made by evicting the resident with the least ``eviction_loss``.

    Args:
        load_weight: Weight of swapping in the time that serving takes: above 1 it swaps less.
        reload_weight: Weight of bringing a resident back against its waiting requests.
        copy_share: What a second copy of a model counts, relative to a first one; 1: as much.
    """

    name = "cost-greedy"
    load_weight: float = number(1.0, 0.1, 10.0)
    reload_weight: float = number(1.0, 0.01, 100.0)
    copy_share: float = number(1.0, 0.01, 1.0)

    def scores(self, candidates: NDArray[Any], context: NDArray[Any], mask: NDArray[np.bool_]) -> Scores:
        """The rate of every candidate; waiting beats loading what nobody asked for."""
        rate = greedy_rate(candidates, self.load_weight)
        rate = np.where(second_copy(candidates), self.copy_share * rate, rate)
        scores = np.where(rate > 0, rate, np.where(is_(candidates, "wait"), 0.0, UNASKED))
        loss = eviction_loss(candidates, self.reload_weight)
        return np.where(is_(candidates, "evict"), -1.0 - loss, scores)


@entry
def greedy_score_of(
    c: Features, load_weight: float = 1.0, reload_weight: float = 1.0, copy_share: float = 1.0
) -> float:
    """``CostGreedy.scores`` of one candidate, (F,), compiled; parameters as of ``CostGreedy``."""
    if c[IS_EVICT] > 0:
        return -1.0 - loss_of(c, reload_weight)
    rate = rate_of(c, load_weight)
    if is_copy(c):
        rate *= copy_share
    if rate > 0:
        return rate
    return 0.0 if c[IS_WAIT] > 0 else UNASKED


@jit
def greedy_choice(
    candidates: Features,
    mask: Bools,
    load_weight: float = 1.0,
    reload_weight: float = 1.0,
    copy_share: float = 1.0,
) -> int:
    """The candidate that ``CostGreedy`` takes, compiled; of equals the first.

    Args:
        candidates: (A, F) features of the candidates.
        mask: (A,) which candidates are legal, at least one of them.
        load_weight: Weight of swapping in the time that serving takes.
        reload_weight: Weight of bringing a resident back against its waiting requests.
        copy_share: What a second copy of a model counts, relative to a first one.
    """
    best, top = 0, -np.inf
    for a in range(mask.shape[0]):
        if mask[a]:
            score = greedy_score_of(candidates[a], load_weight, reload_weight, copy_share)
            if score > top:
                best, top = a, score
    return best
