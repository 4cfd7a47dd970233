"""Policies compiled, so that what is measured is the simulator: they read the observations it writes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from shunter.envs.observation.features import feature
from shunter.envs.sim.compiled import jit
from shunter.envs.sim.randomness import uniform

Features = NDArray[np.float32]
Mask = NDArray[np.bool_]
Actions = NDArray[np.int64]
Choose = Callable[[Features, Mask, int, Actions], None]

IS_EVICT, IS_WAIT, REQUESTS = feature("is_evict"), feature("is_wait"), feature("requests")
SWAP, JOIN, FIRST = feature("swap_time"), feature("join_time"), feature("first_time")
UNUSED, PREEMPT = feature("unused_time"), feature("preempt_time")


@jit
def cost_greedy(
    candidates: NDArray[np.float32], mask: NDArray[np.bool_], step: int, out: NDArray[np.int64]
) -> None:
    """What ``shunter.agents.heuristics.cost_greedy`` does."""
    for e in range(mask.shape[0]):
        best, top = 0, -np.inf
        for a in range(mask.shape[1]):
            if not mask[e, a]:
                continue
            c = candidates[e, a]
            score = -1e9
            if c[IS_EVICT] > 0:
                score = -1.0 - (
                    np.float64(c[REQUESTS]) + np.float64(c[PREEMPT]) / (np.float64(c[UNUSED]) + 1.0)
                )
            elif c[IS_WAIT] > 0:
                score = 0.0
            elif c[REQUESTS] > 0:
                time = np.float64(c[SWAP]) + np.float64(c[JOIN]) + np.float64(c[FIRST])
                score = np.float64(c[REQUESTS]) / (time + 1e-3)
            if score > top:
                best, top = a, score
        out[e] = best


@jit
def random_legal(
    candidates: NDArray[np.float32], mask: NDArray[np.bool_], step: int, out: NDArray[np.int64]
) -> None:
    """Any legal action, all alike."""
    for e in range(mask.shape[0]):
        legal = 0
        for a in range(mask.shape[1]):
            legal += mask[e, a]
        left = int(uniform(step, e) * legal)
        for a in range(mask.shape[1]):
            if mask[e, a]:
                if left == 0:
                    out[e] = a
                    break
                left -= 1


@jit
def first_legal(
    candidates: NDArray[np.float32], mask: NDArray[np.bool_], step: int, out: NDArray[np.int64]
) -> None:
    """The legal action of lowest index."""
    for e in range(mask.shape[0]):
        out[e] = np.argmax(mask[e])
