"""The heuristic that is best in a world, its parameters chosen there: what a training may begin as."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.stats import qmc

from shunter.agents.base import ScoringPolicy
from shunter.agents.learned import PRIOR
from shunter.agents.parameters import Choice, Heuristic, Number, rounded
from shunter.agents.registry import HEURISTICS
from shunter.envs.seed_ranges import SEED_RANGES
from shunter.envs.world import World
from shunter.eval.batched import evaluate_batched

__all__ = ["best_heuristic"]

STRONG = ("cost-greedy", "pressure-greedy", "startup-greedy", "cost-table", "sjf")
DRAWS = 8
"""Of each one's parameters, besides the defaults."""

FINALISTS = 6
"""Of all that were played on one seed, how many are on the others."""


def best_heuristic(world: World) -> ScoringPolicy:
    """The heuristic with the lowest mean response in a world, its parameters drawn from a Latin hypercube."""
    seeds = SEED_RANGES["tuning"]
    pool = [PRIOR, *(policy for name in STRONG for policy in _drawn(HEURISTICS[name]))]
    first = [_response_s(world, policy, seeds[:1]) for policy in pool]
    finalists = [pool[i] for i in np.argsort(first)[:FINALISTS]]
    return min(finalists, key=lambda policy: _response_s(world, policy, seeds))


def _drawn(policy: type[Heuristic]) -> Iterator[Heuristic]:
    yield policy()
    space = policy.space()
    for point in qmc.LatinHypercube(len(space), rng=np.random.default_rng(0)).random(DRAWS):
        yield policy(**{name: _at(space[name], share) for name, share in zip(space, point, strict=True)})


def _at(space: Number | Choice, share: float) -> float | str:
    """What stands at a share of a parameter's range."""
    if isinstance(space, Choice):
        return space.options[int(share * len(space.options))]
    if space.log:
        return rounded(space.low * (space.high / space.low) ** share)
    return rounded(space.low + share * (space.high - space.low))


def _response_s(world: World, policy: ScoringPolicy, seeds: range) -> float:
    return float(np.nan_to_num(evaluate_batched(world, policy, seeds).response_mean_s.mean(), nan=np.inf))
