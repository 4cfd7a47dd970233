"""Look-ahead compiled: which candidates to try, and what each costs in the same drawn futures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shunter.agents.heuristics.cost_greedy import greedy_choice, greedy_score_of
from shunter.agents.lookahead.futures import draw_future, redraw_hidden
from shunter.agents.lookahead.rollout import play_out
from shunter.agents.lookahead.rollout_state import copy_words
from shunter.envs.observation.features import feature
from shunter.envs.sim.compiled import internal, jit
from shunter.envs.sim.randomness import key_of
from shunter.envs.state.state import Bools, Floats, Ints, State
from shunter.envs.state.tables import Tables

Features = NDArray[np.float32]

IS_EVICT, IS_LOAD, IS_WAIT = feature("is_evict"), feature("is_load"), feature("is_wait")
REQUESTS, ARRIVALS, SWAP = feature("requests"), feature("arrivals"), feature("swap_time")
MAX_DECISIONS = 100_000
HEAT = 8
"""Samples after which hopeless candidates are given up."""


@jit
def worth_trying(c: NDArray[np.float32], pending: bool) -> float:
    """The order in which candidates are tried; -inf: not at all.

    Serving comes first, then waiting, then prefetching what is asked for most per second of loading. Room is
    made only for a load.
    """
    if pending or c[REQUESTS] > 0:
        return greedy_score_of(c) if pending or c[IS_EVICT] == 0 else -np.inf
    if c[IS_WAIT] > 0:
        return 0.0
    if c[IS_LOAD] > 0 and c[ARRIVALS] > 0:
        return float(-1.0 / (c[ARRIVALS] / (c[SWAP] + 1e-3) + 1e-9))
    return -np.inf


@jit
def choose_candidates(candidates: Features, mask: Bools, pending: bool, actions: Ints) -> int:
    """Picks the candidates to try: cost-greedy's own choice, waiting, then the most promising others.

    Args:
        candidates: (A, F) features of the candidates.
        mask: (A,) which candidates are legal.
        pending: Whether room is being made for a load.
        actions: (K,), overwritten from the front; K bounds how many are tried.

    Returns:
        How many were picked.
    """
    actions[0] = greedy_choice(candidates, mask)
    count, wait = 1, mask.shape[0] - 1
    if mask[wait] and actions[0] != wait and actions.shape[0] > 1:
        actions[1] = wait
        count = 2
    while count < actions.shape[0]:
        best, top = -1, -np.inf
        for a in range(mask.shape[0]):
            if not mask[a]:
                continue
            taken = False
            for k in range(count):
                taken = taken or actions[k] == a
            score = -np.inf if taken else worth_trying(candidates[a], pending)
            if score > top:
                best, top = a, score
        if best < 0:
            break
        actions[count] = best
        count += 1
    return count


@internal
def any_alive(costs: Floats, samples: int, count: int, alive: Bools) -> bool:
    """Gives up candidates that cost more than the first so far; whether any other is left."""
    left = False
    for k in range(1, count):
        excess = 0.0
        if alive[k]:
            for n in range(samples):
                excess += costs[n, k] - costs[n, 0]
        alive[k] = alive[k] and excess < 0.0
        left = left or alive[k]
    return left


@jit
def rollout_costs(
    t: Tables,
    root: State,
    root_words: Ints,
    work: State,
    work_words: Ints,
    d: int,
    actions: Ints,
    count: int,
    rates: Floats,
    total_rate: float,
    lengths: Ints,
    pairs: Ints,
    horizon_s: float,
    hide: bool,
    race: bool,
    key: int,
    candidates: Features,
    context: Features,
    mask: Bools,
    alive: Bools,
    costs: Floats,
) -> None:
    """Plays candidates on in drawn futures; sample n is the same future for all of them.

    Args:
        t: Tables of the scenario.
        root: Copy of the state; what it hides is drawn anew for each sample.
        root_words: (W,) the block of memory that root lies in.
        work: Another copy of the state, spoilt.
        work_words: (W,) the block of memory that work lies in.
        d: The asking device.
        actions: (K,) candidates to try
        count: of which the first so many count.
        rates: (M,) estimated arrivals per second.
        total_rate: Sum of the rates.
        lengths: (M, N) decode lengths of each model, ascending, or (1, N) of all.
        pairs: (M, N, 2) prompt and decode lengths of each model, or (1, N, 2) of all.
        horizon_s: How long requests go on to arrive; after that, what is there is served.
        hide: False: lengths and arrivals in root are taken as they are.
        race: Whether candidates that cost more than the first on average are given up after every ``HEAT``
            samples.
        key: Key of the random numbers.
        candidates: (A, F) room for the features of candidates, overwritten.
        context: (G,) room for the features of the context, overwritten.
        mask: (A,) room for which candidates are legal, overwritten.
        alive: (K,) which candidates were not given up, overwritten.
        costs: (samples, K) request-seconds, written where played.
    """
    for k in range(count):
        alive[k] = True
    for n in range(costs.shape[0]):
        if race and n > 0 and n % HEAT == 0 and not any_alive(costs, n, count, alive):
            break
        if hide:
            sample = key_of(key, n)
            redraw_hidden(t, root, lengths, sample)
            draw_future(root, rates, total_rate, pairs, horizon_s, sample)
        for k in range(count):
            if not alive[k]:
                continue
            copy_words(root_words, work_words)
            costs[n, k] = play_out(t, work, d, actions[k], candidates, context, mask, MAX_DECISIONS)
