"""Least durations of a world, and memory, for the clairvoyant's lower bound."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shunter.envs.state.state import Floats
from shunter.envs.state.tables import Tables

GROUPS = (1, 2, 3, 4, 6, 8, 16, 64)
"""Most requests of a model in a group; 64 is the largest batch that a scenario may ask for."""


class Least(NamedTuple):
    """Least durations over everything that a schedule may choose. M models, D devices.

    Attributes:
        step_s: (M,) least time of a decode step, whatever the batch.
        token_s: (G, M) least time of a decode step over the requests of a group in its batch, for ``GROUPS``.
        prefill_s: (M, P) least time of a prefill over ``Tables.prefill_tokens``.
        load_s: (D, M) least time of a load; infinite where the device never holds the model.
    """

    step_s: Floats
    token_s: Floats
    prefill_s: Floats
    load_s: Floats


class BoundMemory(NamedTuple):
    """What ``remaining_cost_s`` writes on. N requests at most, M models.

    Attributes:
        release_s: (N,) of each unfinished request, from now; the model's readiness not yet in it.
        prefill_s: (N,) it lacks at least
        steps: (N,) and decode steps.
        rank: (N,) of the request among those of its model.
        alone_s: (N,) it takes at least from its release on.
        left_s: (N,) of its work in the schedule.
        model: (N,)
        soonest_s: (M,) when a device that holds the model may be free, from now.
        ready_s: (M,) the same, the order of loads considered.
        load_s: (M,) of models that nobody holds, the least; else 0.
        order: (M,) of loads.
        listed: (M,) requests of a model so far.
    """

    release_s: Floats
    prefill_s: Floats
    steps: Floats
    rank: NDArray[np.int64]
    alone_s: Floats
    left_s: Floats
    model: NDArray[np.int64]
    soonest_s: Floats
    ready_s: Floats
    load_s: Floats
    order: NDArray[np.int64]
    listed: NDArray[np.int64]


def least_times(t: Tables) -> Least:
    """The least durations of a world's tables."""
    ok = t.level_ok
    step_s = np.where(ok[..., None, None], t.step_s, np.inf).min(axis=(0, 2, 4))
    of_batch_s = np.minimum.accumulate(step_s[:, ::-1], axis=1)[:, ::-1]
    shared_s = np.minimum.accumulate(of_batch_s / np.arange(1, step_s.shape[1] + 1), axis=1)
    token_s = np.stack([shared_s[:, min(g, shared_s.shape[1]) - 1] for g in GROUPS])
    prefill_s = np.where(ok[..., None], t.prefill_s, np.inf).min(axis=(0, 2))
    if not t.kv_can_save.all():
        # A recompute gives a token, too.
        token_s = np.minimum(token_s, prefill_s.min(axis=1))
    quickest_s = np.minimum(t.load_s, t.cold_load_s)
    if t.sleep[0]:
        quickest_s = np.minimum(quickest_s, t.wake_s)
    load_s = np.where(ok, quickest_s, np.inf).min(axis=2)
    return Least(step_s.min(axis=1), token_s, prefill_s, load_s)


def bound_memory(requests: int, models: int) -> BoundMemory:
    """Memory for states of so many requests and models."""
    n, m = np.zeros(requests), np.zeros(models)
    i, k = n.astype(np.int64), m.astype(np.int64)
    floats = (n, n.copy(), n.copy(), i, n.copy(), n.copy(), i.copy())
    return BoundMemory(*floats, m, m.copy(), m.copy(), k, k.copy())
