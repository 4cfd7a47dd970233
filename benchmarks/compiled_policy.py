"""How many decisions a second of whole simulated episodes a learned policy takes, compiled, on one core.

Simulating, observing and deciding together: what a search over policies is made of. Policies are random, as
speed hardly depends on weights. Seconds are those of the processor, and every figure is the best of some
repeats, so that what else the machine does counts least; the interval is from the slowest repeat to the
fastest.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.form import Row, at_least, at_most, main, reported
from benchmarks.sim_worlds import synthetic_world
from shunter.agents.base import Scores
from shunter.agents.learned.base_policy import MOST_CANDIDATES, PENDING, BasePolicy
from shunter.agents.learned.compiled import TIE
from shunter.agents.learned.inputs import KINDS
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.learned.weights import from_vector, to_vector, untrained_weights
from shunter.envs.observation.features import CONTEXT_TABLE, FEATURE_TABLE, Feature, feature
from shunter.envs.world.world import World, make_world
from shunter.train.search.trials import Trials

BARS = {0: 150e3, 16: 60e3, 64: None}
"""Decisions per second and core, by the network's width."""

WORLDS: dict[str, Callable[[], World]] = {
    "6 models on 1 device": lambda: synthetic_world(rate_per_s=0.4),
    "two-gpu-unequal": lambda: make_world("two-gpu-unequal"),
}
OBSERVATIONS = 10_000


def drawn_observations(count: int, actions: int, seed: int) -> dict[str, NDArray[Any]]:
    """Observations at random: every feature within its bounds, one kind for each candidate, some are legal.

    Args:
        count: How many.
        actions: Candidates of each.
        seed: Seed of the random numbers.

    Returns:
        What ``LearnedPolicy.act_batch`` takes.
    """
    rng = np.random.default_rng(seed)
    candidates = np.stack([_drawn(f, (count, actions), rng) for f in FEATURE_TABLE], axis=-1)
    kinds = rng.integers(len(KINDS), size=(count, actions))
    candidates[..., [feature(f"is_{kind}") for kind in KINDS]] = np.eye(len(KINDS))[kinds]
    mask = rng.random((count, actions)) < rng.uniform(0.2, 1.0, (count, 1))
    mask[np.arange(count), rng.integers(actions, size=count)] = True
    context = np.stack([_drawn(f, (count,), rng) for f in CONTEXT_TABLE], axis=-1)
    evicts_alone = (~mask | (kinds == KINDS.index("evict"))).all(axis=1)
    context[evicts_alone, PENDING] = 1  # as it is wherever nothing else is legal
    return {
        "candidates": candidates.astype(np.float32),
        "context": context.astype(np.float32),
        "action_mask": mask.astype(np.int8),
    }


def _drawn(table: Feature, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    if table.unit == "flag":
        return rng.integers(2, size=shape).astype(float)
    if table.unit == "count":
        return rng.integers(9, size=shape).astype(float)
    if table.high == 1:
        return rng.random(shape)
    wide = np.exp(rng.uniform(np.log(1e-3), np.log(table.high), shape))
    return np.where(rng.random(shape) < 0.2, 0.0, wide)


def first_of_best(scores: Scores) -> NDArray[np.int64]:
    """Index of each row's first score that no other exceeds by more than ``TIE``."""
    return np.asarray((scores >= scores.max(axis=-1, keepdims=True) - TIE).argmax(axis=-1))


def random_vector(width: int, scale: float, seed: int = 0) -> NDArray[np.float64]:
    """A policy near its prior."""
    vector = to_vector(untrained_weights(BasePolicy(), width))
    vector[len(BasePolicy()) :] += np.random.default_rng(seed).normal(
        0, scale, len(vector) - len(BasePolicy())
    )
    return vector


def speed_row(where: str, width: int, quick: bool) -> Row:
    """Decisions per second in one world."""
    trials = Trials(WORLDS[where](), range(2 if quick else 8), width=width)
    vectors = np.stack([random_vector(width, 0.02, seed) for seed in range(2)])

    def rate() -> float:
        begun_s = time.process_time()
        decisions = trials.costs(vectors)[1]
        return decisions / (time.process_time() - begun_s)

    rate()
    rates = [rate() for _ in range(3 if quick else 8)]
    name = f"a network of width {width}" if width else "a linear policy"
    numbers = f"{vectors.shape[1]} numbers, {trials.lanes[0].scratch.mask.shape[0]} candidates"
    row = reported(
        f"decisions with {name}, {where}", max(rates), "1/s", interval=(min(rates), max(rates)), note=numbers
    )
    bar = BARS[width]
    return row if bar is None else at_least(row, bar)


def equality_row(width: int) -> Row:
    """Compiled choices against those of ``LearnedPolicy.scores``."""
    policy = LearnedPolicy("random", from_vector(random_vector(width, 0.5), width), {})
    differing = 0
    counts = (8, 3 * MOST_CANDIDATES)
    for actions in counts:
        seen = drawn_observations(OBSERVATIONS // len(counts), actions, seed=actions)
        scores = policy.scores(seen["candidates"], seen["context"], seen["action_mask"] > 0)
        differing += int((policy.act_batch(seen) != first_of_best(scores)).sum())
    metric = f"compiled choices that differ from numpy's on {OBSERVATIONS} observations, width {width}"
    return at_most(Row(metric, differing, note=f"of {' and '.join(map(str, counts))} candidates"), 0)


def run(quick: bool) -> list[Row]:
    """Speeds by width and world, then whether the compiled choices are numpy's."""
    rows = [speed_row(where, width, quick) for width in BARS for where in WORLDS]
    return rows + [equality_row(width) for width in BARS]


if __name__ == "__main__":
    sys.exit(main("compiled_policy", run, __doc__ or ""))
