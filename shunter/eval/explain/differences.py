"""In what a policy differs from its untrained self, kind by kind, and what that is worth."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shunter.agents.learned.policy import LearnedPolicy
from shunter.envs.state.state import Records
from shunter.envs.world.world import World
from shunter.eval.explain.replay import WHATS, Difference, Followed, differences
from shunter.eval.explain.words import difference_words

__all__ = ["Kind"]

Floats = NDArray[np.float64]

TRIED_PER_KIND = 40
"""Decisions of each kind of difference whose two choices are played out, at most."""

HORIZON = 5.0
"""Time scales within which a difference counts as having told at once."""

EXAMPLES = 4
"""Besides the one in which the policy was most wrong."""


@dataclass(frozen=True)
class Kind:
    """A way in which the policy differs from the untrained one.

    Attributes:
        words: What it does instead.
        untrained: What the untrained policy chooses; of ``WHATS``.
        chosen: What the policy chooses.
        count: Such decisions in all episodes.
        share: Share of all decisions that are such.
        tried: How many of them were played out, drawn at random.
        gain_s: Mean of the request-seconds that the policy's choice saved, and its standard error, request
            sequences being what is independent.
        near_s: Mean and standard error of the request-seconds saved within the horizon.
        better: Share of those tried in which its choice saved anything.
    """

    words: str
    untrained: str
    chosen: str
    count: int
    share: float
    tried: int
    gain_s: tuple[float, float]
    near_s: tuple[float, float]
    better: float


def named(world: World, one: Records) -> str:
    """How the two choices of a decision differ."""
    models = [int(action) // world.levels[2] for action in (one["chosen"], one["other"])]
    chosen, other = WHATS[one["chosen_what"]], WHATS[one["other_what"]]
    if chosen == other != "evict" and models[0] == models[1]:
        return "loads the same model at another level"
    return difference_words(other, chosen)


def try_differences(
    world: World,
    policy: LearnedPolicy,
    untrained: LearnedPolicy,
    seeds: Sequence[int],
    followed: Followed,
    sample_seed: int,
    horizon_s: float,
) -> list[Difference]:
    """Plays out differing decisions, some of each kind drawn at random; those cut off are left out.

    Args:
        world: The compiled scenario.
        policy: Decides.
        untrained: The untrained policy, whose choices are tried.
        seeds: Seeds of the requests, one for each episode.
        followed: The policy's episodes on them.
        sample_seed: Seed of the draw.
        horizon_s: Until when ``Difference.near_s`` counts.
    """
    rng = np.random.default_rng(sample_seed)
    by_kind: dict[str, list[tuple[int, int]]] = {}
    for e, decisions in enumerate(followed.decisions):
        for number in np.flatnonzero(decisions["chosen"] != decisions["other"]).tolist():
            by_kind.setdefault(named(world, decisions[number]), []).append((e, number))
    drawn = [
        places[i]
        for places in by_kind.values()
        for i in rng.choice(len(places), min(TRIED_PER_KIND, len(places)), replace=False).tolist()
    ]
    found: list[Difference] = []
    for e, of_episode in itertools.groupby(sorted(drawn), key=lambda place: place[0]):
        numbers = [number for _, number in of_episode]
        decisions = followed.decisions[e]
        found += differences(world, policy, untrained, seeds[e], decisions, numbers, horizon_s)
    return [one for one in found if np.isfinite(one.gain_s)]


def kinds_of(world: World, followed: Followed, tried: Sequence[Difference]) -> list[Kind]:
    """What each kind of difference is worth, the most frequent first."""
    decisions = np.concatenate(followed.decisions)
    by_kind: dict[str, list[Records]] = {}
    for one in decisions[decisions["chosen"] != decisions["other"]]:
        by_kind.setdefault(named(world, one), []).append(one)
    found = []
    for words, of_kind in by_kind.items():
        own = [one for one in tried if named(world, one.record) == words]
        gains, nears, sequences = (
            np.array([getattr(one, name) for one in own]) for name in ("gain_s", "near_s", "seed")
        )
        found.append(
            Kind(
                words=words,
                untrained=WHATS[of_kind[0]["other_what"]],
                chosen=WHATS[of_kind[0]["chosen_what"]],
                count=len(of_kind),
                share=len(of_kind) / len(decisions),
                tried=len(own),
                gain_s=_mean_and_error(gains, sequences),
                near_s=_mean_and_error(nears, sequences),
                better=float((gains > 0).mean()) if len(own) else float("nan"),
            )
        )
    return sorted(found, key=lambda kind: -kind.count)


def _mean_and_error(values: Floats, sequences: NDArray[np.int64]) -> tuple[float, float]:
    """The mean and its standard error; decisions of one sequence share all of its luck."""
    if not len(values):
        return float("nan"), float("nan")
    sums = [float((values - values.mean())[sequences == one].sum()) for one in np.unique(sequences)]
    if len(sums) < 2:
        return float(values.mean()), float("nan")
    error = np.sqrt(np.square(sums).sum() * len(sums) / (len(sums) - 1)) / len(values)
    return float(values.mean()), float(error)


def telling(world: World, tried: Sequence[Difference]) -> list[Difference]:
    """The decision of each kind that gained most at once; then the one that lost most."""
    best: dict[str, Difference] = {}
    for one in sorted(tried, key=lambda one: -one.near_s):
        if one.gain_s > 0 and one.near_s > 0:
            best.setdefault(named(world, one.record), one)
    losses = sorted((one for one in tried if max(one.near_s, one.gain_s) < 0), key=lambda one: one.near_s)
    return [*list(best.values())[:EXAMPLES], *losses[:1]]
