"""What each part of the direct search is worth: searches as long, with one part taken away or exchanged.

``python -m benchmarks.search_ablation [--quick] --json PATH``. In every cell each search is run with several
seeds and judged on requests that chose nothing. Where there is no base policy to take away (a prior that says
nothing cannot be written as one), the search begins as plain cost-greedy, untuned, instead. Seconds include
drawing requests: without common random numbers each policy's are drawn anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.form import Row, main, reported
from benchmarks.paired import paired
from benchmarks.policy_cells import Cell, cell_world
from shunter.agents.learned.base_policy import TUNED_COST_GREEDY, BasePolicy
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.learned.weights import untrained_weights
from shunter.envs.workload.seed_ranges import SEED_RANGES
from shunter.envs.world.world import World
from shunter.eval.execution.batched import evaluate_batched
from shunter.train.search.evolution import Search
from shunter.train.settings import EvolutionSettings
from shunter.train.training import run as run_training

__all__ = ["VARIANTS", "Variant", "run"]

CELLS = (Cell("two-gpu-unequal", 0.7), Cell("laptop", 0.7), Cell("paper-a6000", 0.7), Cell("drift", 0.9))
SEEDS = SEED_RANGES["explanation"][:20]
GENERATIONS, TRAININGS = 60, 2
QUICK_CELLS, QUICK_SEEDS, QUICK_GENERATIONS = 2, 8, 15

UNTRAINED = BasePolicy()

Floats = NDArray[np.float64]


class OtherRequests(Search):
    """Every policy of a generation plays requests of its own."""

    def log_costs(self, rng: np.random.Generator, searched: Floats) -> Floats:
        play = super().log_costs
        return np.concatenate([play(rng, one[None]) for one in searched])


class SingleSided(Search):
    """As many perturbations, none of them mirrored; what they cost is held against their mean."""

    def gradient(self, rng: np.random.Generator) -> Floats:
        noise = self.perturbations(rng, 2 * self.settings.pairs)
        cost = self.log_costs(rng, self.center + self.settings.sigma * noise)
        excess = cost - cost.mean()
        return np.asarray((excess[:, None] * noise).mean(axis=0) / (excess.std() + 1e-12))


class SepCma(Search):
    """Separable CMA-ES in place of Adam on an estimated gradient, with as many episodes a generation.

    Source:
        Ros and Hansen, A Simple Modification in CMA-ES Achieving Linear Time and Space Complexity, 2008,
        https://doi.org/10.1007/978-3-540-87700-4_30.
    """

    def __init__(self, worlds: Sequence[World], settings: EvolutionSettings, **others: Any) -> None:
        super().__init__(worlds, settings, **others)
        self.cma = import_module("cmaes").SepCMA(
            self.center.copy(), settings.sigma, seed=settings.seed, population_size=2 * settings.pairs
        )

    def move(self, rng: np.random.Generator) -> None:
        asked = np.array([self.cma.ask() for _ in range(self.cma.population_size)])
        self.cma.tell(list(zip(asked, self.log_costs(rng, asked).tolist(), strict=True)))
        self.generation += 1
        self.center = self.cma.mean


@dataclass(frozen=True)
class Variant:
    """A search.

    Attributes:
        name: Name in tables.
        how: Kind of search.
        settings: Settings that it has besides those of all.
        prior: The policy that it begins as.
        world: World that it trains in, made of the cell's.
    """

    name: str
    how: type[Search] = Search
    settings: Mapping[str, Any] = field(default_factory=dict)
    prior: BasePolicy = UNTRAINED
    world: Callable[[World], World] = lambda world: world


VARIANTS = (
    Variant("full"),
    Variant("without common random numbers", OtherRequests),
    Variant("begun as plain cost-greedy", prior=BasePolicy(1.0, 1.0, 1.0, 0.0)),
    Variant("kinds perturbed apart", settings={"shared": 0.0}),
    Variant("without kinds", settings={"shared": 1.0}),
    Variant("without mirrored pairs", SingleSided),
    Variant("SepCMA instead of Adam", SepCma),
    Variant("with a network of width 16", settings={"width": 16}),
    Variant("trained without the waiting guard", world=lambda world: world.with_guard(None)),
)


def missing(variant: Variant) -> str:
    """Why a search cannot be run here; empty if it can."""
    lacks = variant.how is SepCma and find_spec("cmaes") is None
    return "needs the package cmaes" if lacks else ""


def search(
    variant: Variant,
    worlds: Sequence[World],
    settings: EvolutionSettings,
    trainings: int,
    seeds: Sequence[int],
) -> tuple[Floats, float]:
    """(worlds, seeds) mean response of what a variant finds, mean over trainings; and the seconds of all.

    NaN where requests were left unfinished.
    """
    start = LearnedPolicy("start", untrained_weights(variant.prior), {})
    settings, took_s = replace(settings, **variant.settings), 0.0
    response_s = np.zeros((trainings, len(worlds), len(seeds)))
    for w, world in enumerate(worlds):
        for seed in range(trainings):
            here = [variant.world(world)]
            result = run_training(variant.how(here, replace(settings, seed=seed), start=start))
            took_s += result.curve[-1].elapsed_s
            response_s[seed, w] = evaluate_batched(world, result.policy, seeds).response_mean_s
    return response_s.mean(axis=0), took_s


def rows_of(variant: Variant, mine: Floats, took_s: float, full: Floats, tuned: Floats) -> list[Row]:
    """A search against tuned cost-greedy, and against the full one."""
    if not np.isfinite(mine).all():
        return [reported(f"mean response, {variant.name}", None, note="requests were left unfinished")]
    against = paired(mine, tuned)
    low, high = against.interval()
    note = f"over that of tuned cost-greedy, geometric mean of cells; trained in {took_s:.0f} s in all"
    rows = [
        reported(
            f"mean response, {variant.name}", 1 + against.change, interval=(1 + low, 1 + high), note=note
        )
    ]
    if mine is not full and np.isfinite(full).all():
        change = paired(mine, full)
        name = f"change of the mean response, {variant.name}, against full"
        rows.append(reported(name, change.change, interval=change.interval()))
    return rows


def run(quick: bool) -> list[Row]:
    """Searches and judges, one variant after the other."""
    cells = CELLS[:QUICK_CELLS] if quick else CELLS
    seeds = SEEDS[:QUICK_SEEDS] if quick else SEEDS
    settings = EvolutionSettings(generations=GENERATIONS)
    if quick:
        settings = replace(settings, generations=QUICK_GENERATIONS, pairs=8, episodes=2, validation_seeds=2)
    worlds = [cell_world(cell, seeds) for cell in cells]
    tuned = np.array([evaluate_batched(world, TUNED_COST_GREEDY, seeds).response_mean_s for world in worlds])
    rows, full = [], np.zeros(0)
    for variant in VARIANTS:
        if why := missing(variant):
            rows.append(reported(f"mean response, {variant.name}", None, note=f"skipped: {why}"))
            continue
        mine, took_s = search(variant, worlds, settings, 1 if quick else TRAININGS, seeds)
        full = full if full.size else mine
        rows += rows_of(variant, mine, took_s, full, tuned)
    return rows


if __name__ == "__main__":
    raise SystemExit(main("search_ablation", run, __doc__ or ""))
