"""Learned policies in compiled code: a choice beside the observation that it is made on, and whole episodes.

A policy is one vector of numbers (``LearnedPolicy.vector``), so that a search can try many of them in one
call. The arithmetic is that of ``LearnedPolicy.scores``, candidate by candidate.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shunter.agents.episodes import empty_observed, play_all, play_on
from shunter.agents.heuristics.cost_greedy import loss_of, rate_of
from shunter.agents.heuristics.rules import is_copy
from shunter.agents.learned.base_policy import MOST_CANDIDATES, OTHERS_BUSY, PENDING, PRIOR_INPUT, BasePolicy
from shunter.agents.learned.inputs import (
    CANDIDATE_FEATURE,
    CANDIDATE_SCALE,
    CONTEXT_FEATURE,
    CONTEXT_SCALE,
    INPUTS,
    KINDS,
)
from shunter.envs.observation.features import feature
from shunter.envs.sim.compiled import entry, inlined, internal, jit
from shunter.envs.state.state import Bools, Ints, State
from shunter.envs.state.tables import Tables

__all__ = [
    "IS_EVICT",
    "IS_RUN",
    "IS_WAIT",
    "LINEAR",
    "OWN",
    "REQUESTS",
    "SHARED",
    "TIE",
    "Scratch",
    "choose",
    "kind_index",
    "make_scratch",
    "play",
    "play_batch",
    "squash",
]

Floats = NDArray[np.float64]
Features = NDArray[np.float32]

IS_RUN, IS_LOAD, IS_EVICT, IS_WAIT = (feature(f"is_{kind}") for kind in KINDS)
REQUESTS, HELD = feature("requests"), feature("held")
SWAP, JOIN, BATCH = (feature(f"{name}_time") for name in ("swap", "join", "batch"))
SERVE_ELSEWHERE, ARRIVALS = feature("serve_elsewhere"), feature("arrivals")

PRIOR_SIZE = len(BasePolicy._fields)
OWN, SHARED = len(CANDIDATE_FEATURE), len(CONTEXT_FEATURE)
LINEAR = len(KINDS) * INPUTS
"""Numbers of the linear part, those of each kind one after the other."""

TIE = 1e-9
"""Scores that differ by less are equal, whatever the order in which they were summed up."""


class Scratch(NamedTuple):
    """What a decision is worked out in. A actions, W width of the network.

    Attributes:
        candidates: (A, F) float32, features of the candidates.
        context: (G,) float32, features of the context.
        mask: (A,) bool, which candidates are legal.
        prior: (A,) of what is on the pruned, and then the scores; NaN elsewhere.
        inputs: (inputs,) squashed inputs of one candidate, and its prior.
        shared: (inputs,) squashed inputs of the context, shared by all candidates.
        hidden: (A, W) hidden layer of each candidate.
        rows: (4, W) what a layer of one candidate needs, and what all share.
    """

    candidates: Features
    context: Features
    mask: Bools
    prior: Floats
    inputs: Floats
    shared: Floats
    hidden: Floats
    rows: Floats


def make_scratch(actions: int, width: int) -> Scratch:
    """Room for a policy whose network has this width, 0 without one."""
    return Scratch(
        *empty_observed(actions),
        prior=np.zeros(actions),
        inputs=np.zeros(OWN + 1),
        shared=np.zeros(SHARED),
        hidden=np.zeros((actions, width)),
        rows=np.zeros((4, width)),
    )


@entry
def prior_of(c: Features, p: Floats) -> float:
    """``base_scores`` of one candidate, compiled; p begins with the numbers of a ``BasePolicy``."""
    if c[IS_EVICT] > 0:
        return float(-4.5 - np.log1p(loss_of(c, p[1])))
    rate = rate_of(c, p[0])
    if c[IS_LOAD] > 0 and c[HELD] == 0 and c[SERVE_ELSEWHERE] > 0:
        own = np.float64(c[SWAP]) + np.float64(c[JOIN]) + np.float64(c[BATCH])
        share = np.float64(c[SERVE_ELSEWHERE]) / (own + 1e-3)
        if share < 1.0:
            rate *= share ** p[3]
    if is_copy(c):
        rate *= p[2]
    if rate > 0:
        return float(np.log(max(rate, 1e-4)))
    if c[IS_WAIT] > 0:
        return -3.0
    return float(-4.0 - 0.1 * np.log1p(np.float64(c[SWAP]) / (np.float64(c[ARRIVALS]) + 1e-3)))


@inlined
def list_short(c: Features, context: Features, mask: Bools, p: Floats, prior: Floats) -> None:
    """``base_policy.pruned``: writes the base score of what is kept, NaN for the others."""
    actions = mask.shape[0]
    urgent = False
    for a in range(actions):
        if mask[a] and c[a, REQUESTS] > 0 and c[a, IS_EVICT] == 0 and not is_copy(c[a]):
            urgent = True
    listed = 0
    for a in range(actions):
        prior[a] = np.nan
        if not mask[a]:
            continue
        evicts, waits = c[a, IS_EVICT] > 0, c[a, IS_WAIT] > 0
        idle = c[a, REQUESTS] == 0 and not waits and not evicts
        if urgent and (idle or (waits and context[OTHERS_BUSY] == 0)):
            continue
        if evicts and context[PENDING] == 0:
            continue
        prior[a] = prior_of(c[a], p)
        listed += 1
    if listed > MOST_CANDIDATES:
        cut = least_of_best(prior)
        for a in range(actions):
            if prior[a] < cut:
                prior[a] = np.nan


@internal
def least_of_best(prior: Floats) -> float:
    """The ``MOST_CANDIDATES``-th highest of the numbers that are not NaN; there are more."""
    bound, count = np.inf, 0
    while count < MOST_CANDIDATES:
        following, equal = -np.inf, 0
        for a in range(prior.shape[0]):
            if prior[a] < bound and prior[a] >= following:
                equal = equal + 1 if prior[a] == following else 1
                following = prior[a]
        bound = following
        count += equal
    return float(bound)


@inlined
def squash(x: float, scale: float) -> float:
    """One input: a feature as it is (scale 0), or bounded."""
    if scale == 0.0:
        return x
    scaled = scale * x
    return float(scaled / (1.0 + scaled))


@inlined
def kind_index(c: Features) -> int:
    """``shunter.agents.learned.inputs.kind_of``."""
    if c[IS_RUN] > 0:
        return 0
    if c[IS_LOAD] > 0:
        return 1
    return 2 if c[IS_EVICT] > 0 else 3


@inlined
def set_bias(p: Floats, at: int, out: Floats) -> int:
    """Begins a layer with its bias at p[at:]; returns where p goes on."""
    width = out.shape[0]
    bias = p[at : at + width]
    for o in range(width):
        out[o] = bias[o]
    return int(at + width)


@inlined
def add_layer(x: Floats, size: int, p: Floats, at: int, out: Floats) -> int:
    """Adds x W, where W is (size, W) at p[at:], to a layer; returns where p goes on."""
    width = out.shape[0]
    for i in range(size):
        first = at + i * width
        row, factor = p[first : first + width], x[i]  # a view of its own is added in parallel
        for o in range(width):
            out[o] += factor * row[o]
    return int(at + size * width)


@inlined
def end_layer(out: Floats) -> None:
    """``shunter.agents.learned.policy.softsign``."""
    for o in range(out.shape[0]):
        out[o] /= 1.0 + abs(out[o])


@internal
def add_network(p: Floats, w: Scratch, c: Features) -> None:
    """Adds to ``w.prior``, of what is on the pruned, what the network says of it.

    Of each layer the bias comes before the weights: encode_1, encode_2, then of score_1 the bias and the
    parts for the context, the mean, the maximum and the candidate's own, then score_2.
    """
    width = w.hidden.shape[1]
    first, listed, after = PRIOR_SIZE + LINEAR, 0, 0
    mean, top, row, common = w.rows[0], w.rows[1], w.rows[2], w.rows[3]
    for o in range(width):
        mean[o] = 0.0
        top[o] = -1.0
    for a in range(w.prior.shape[0]):
        if np.isnan(w.prior[a]):
            continue
        for i in range(OWN):
            w.inputs[i] = squash(np.float64(c[a, CANDIDATE_FEATURE[i]]), CANDIDATE_SCALE[i])
        w.inputs[OWN] = PRIOR_INPUT * w.prior[a]
        at = add_layer(w.inputs, OWN + 1, p, set_bias(p, first, row), row)
        end_layer(row)
        hidden = w.hidden[a]
        after = add_layer(row, width, p, set_bias(p, at, hidden), hidden)
        end_layer(hidden)
        listed += 1
        for o in range(width):
            mean[o] += hidden[o]
            top[o] = max(top[o], hidden[o])
    for o in range(width):
        mean[o] /= listed
    at = add_layer(w.shared, SHARED, p, set_bias(p, after, common), common)
    at = add_layer(mean, width, p, at, common)
    at = add_layer(top, width, p, at, common)
    last = at + width * width
    for a in range(w.prior.shape[0]):
        if np.isnan(w.prior[a]):
            continue
        for o in range(width):
            row[o] = common[o]
        add_layer(w.hidden[a], width, p, at, row)
        end_layer(row)
        total, weight = p[last], p[last + 1 : last + 1 + width]
        for o in range(width):
            total += row[o] * weight[o]
        w.prior[a] += total


@inlined
def linear_score(p: Floats, w: Scratch, c: Features) -> float:
    """What the linear part says of a candidate; the context's inputs are in ``w.shared``."""
    at = PRIOR_SIZE + kind_index(c) * INPUTS
    weight = p[at : at + INPUTS]
    total = weight[INPUTS - 1]
    for i in range(OWN):
        total += weight[i] * squash(np.float64(c[CANDIDATE_FEATURE[i]]), CANDIDATE_SCALE[i])
    for i in range(SHARED):
        total += weight[OWN + i] * w.shared[i]
    return float(total)


@inlined
def choose(p: Floats, c: Features, context: Features, mask: Bools, w: Scratch) -> int:
    """The candidate that a policy takes; of equals the first.

    Args:
        p: (size,) vector of the policy.
        c: (A, F) features of candidates.
        context: (G,) features of the context.
        mask: (A,) which candidates are legal, at least one of them.
        w: Room to work in, overwritten; its ``prior`` then holds the scores.
    """
    list_short(c, context, mask, p, w.prior)
    for i in range(SHARED):
        w.shared[i] = squash(np.float64(context[CONTEXT_FEATURE[i]]), CONTEXT_SCALE[i])
    best, top = -1, -np.inf
    if w.hidden.shape[1] > 0:
        add_network(p, w, c)
    for a in range(mask.shape[0]):
        if not np.isnan(w.prior[a]):
            w.prior[a] += linear_score(p, w, c[a])
            if w.prior[a] > top + TIE:
                best, top = a, w.prior[a]
    while best < 0 or not mask[best]:  # nothing is on the pruned: the first legal one
        best += 1
    return best


@jit
def choose_batch(
    p: Floats, candidates: Features, context: Features, mask: Bools, w: Scratch, chosen: Ints
) -> None:
    """Chooses in many decisions: (n, A, F), (n, G) and (n, A) to chosen (n,)."""
    for n in range(chosen.shape[0]):
        chosen[n] = choose(p, candidates[n], context[n], mask[n], w)


@internal
def play(t: Tables, s: State, p: Floats, w: Scratch) -> int:
    """``shunter.agents.episodes.play_on`` with a learned policy."""
    return play_on(choose, t, s, p, w)


@jit
def play_batch(t: Tables, batch: State, p: Floats, w: Scratch) -> int:
    """Plays every episode of a batch on with one policy; returns how many lack room for a request."""
    return play_all(choose, t, batch, p, w)
