"""What the baselines share: who is asked for, where a model may be loaded, which resident goes first.

Functions read observations as (..., A, F) features of candidates and an (..., A) mask; compiled ones read one
candidate, (F,).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.agents.base import Scores, is_, value
from shunter.envs.observation.features import feature
from shunter.envs.sim.compiled import entry

__all__ = ["is_copy"]

Bools = NDArray[np.bool_]
Array = NDArray[Any]

NEVER = -1e12
"""Below every other score: only where nothing else is legal."""

IS_LOAD, ELSEWHERE, HELD = feature("is_load"), feature("elsewhere"), feature("held")

EVICTIONS = -1e9
"""Evictions lie around this: below waiting, so that only a load that lacks room makes them."""


def runs(candidates: Array) -> Bools:
    """Quanta of residents that somebody waits for."""
    return np.asarray(is_(candidates, "run") & (value(candidates, "requests") > 0))


def second_copy(candidates: Array) -> Bools:
    """Loads of what another device holds or loads, where no request's KV is tied to this one.

    A request whose KV is here can be served nowhere else, so a policy that keeps one copy of each model must
    load a second one for it.
    """
    there, held = value(candidates, "elsewhere") > 0, value(candidates, "held") > 0
    return np.asarray(is_(candidates, "load") & there & ~held)


@entry
def is_copy(c: NDArray[np.float32]) -> bool:
    """``second_copy`` of one candidate, compiled."""
    return bool(c[IS_LOAD] > 0 and c[ELSEWHERE] > 0 and c[HELD] == 0)


def joins(candidates: Array, mask: Bools) -> Bools:
    """Loads that somebody waits for of models that no device holds, with as many layers as can be here."""
    wanted = is_(candidates, "load") & (value(candidates, "requests") > 0)
    new = wanted & (value(candidates, "resident_here") == 0) & ~second_copy(candidates) & mask
    return np.asarray(new & top_level(candidates, new))


def top_level(candidates: Array, among: Bools) -> Bools:
    """Which of these candidates have most layers on the device of all levels that their model may have."""
    return among & (value(candidates, "top_level") > 0)


def fifo(candidates: Array) -> Scores:
    """Order of arrival: age of the oldest request; of equals the resident first. At least 0, below 1e7."""
    return np.asarray(value(candidates, "oldest_age") + 1e-6 * is_(candidates, "run"))


def idle_first(candidates: Array) -> Scores:
    """For evictions: those nobody waits for first, then those without started requests. At most 2e7."""
    unwanted = value(candidates, "requests") == 0
    return np.asarray(1e7 * unwanted + 1e7 * (value(candidates, "started") == 0))


def best(scores: Scores, among: Bools) -> Scores:
    """The highest of some candidates' scores, shape (..., 1); minus infinity if there are none."""
    return np.asarray(np.where(among, scores, -np.inf).max(axis=-1, keepdims=True))


def compose(candidates: Array, serve: Scores, served: Bools, evict: Scores) -> Scores:
    """Scores that serve where that is wanted, wait otherwise, and evict only to make room.

    Args:
        candidates: (..., A, F) features of the candidates.
        serve: (..., A) at least 0, for what is served.
        served: (..., A) which candidates may be taken to serve.
        evict: (..., A) which resident goes first, the highest; within 1e8 of 0.
    """
    scores = np.where(is_(candidates, "wait"), 0.0, NEVER)
    scores = np.where(served, 1.0 + serve, scores)
    return np.where(is_(candidates, "evict"), EVICTIONS + evict, scores)
