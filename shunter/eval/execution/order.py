"""In which order policies run for real, so that a machine that drifts is unfair to none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Turn", "run_order"]

ORDER_SEED = 0


@dataclass(frozen=True)
class Turn:
    """One real run of a plan.

    Attributes:
        round: Number of its round, in which every policy runs the same requests once.
        policy: Index of the policy.
        seed: Workload seed.
        repeat: Number of the run among those of the same policy and seed.
    """

    round: int
    policy: int
    seed: int
    repeat: int


def run_order(policies: int, rounds: Sequence[tuple[int, int]], *, order: int = ORDER_SEED) -> list[Turn]:
    """Plans real runs in blocks of two rounds: one in a random order, the next in the reverse (ABBA).

    In each whole block every policy runs as often before each other one as after it, as far apart: a speed
    that changes steadily cancels in the block, and one that changes by chance has either sign.

    Args:
        policies: How many.
        rounds: Workload seed and number of the repeat of each round.
        order: Seed of the random orders.

    Source:
        Cox 1958, "Planning of Experiments": blocks, randomisation, and orders that balance a trend.
    """
    rng = np.random.default_rng(order)
    turns: list[Turn] = []
    for number, (seed, repeat) in enumerate(rounds):
        if number % 2 == 0:
            drawn = rng.permutation(policies).tolist()
        else:
            drawn.reverse()
        turns += [Turn(number, policy, seed, repeat) for policy in drawn]
    return turns
