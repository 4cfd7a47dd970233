"""Machines that are not as fast as predicted, simulated: whether following them and training for them pays.

``python -m benchmarks.drift [--quick] --json PATH``. Following: from the middle of each run on, the quickest
device of a scenario takes 2.5 times as long for all it does, or every load takes 2.5 times as long, as where
others use the disk or the bus; a policy that is told (``--follow``) is set against itself not told, on the
same requests. Training: searches alike but for what durations are drawn from, judged on requests that chose
nothing, where machines drift and where they do not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.form import Row, main, reported
from benchmarks.paired import paired
from benchmarks.policy_cells import Cell, cell_world
from shunter.agents.base import Policy
from shunter.agents.registry import make_policy
from shunter.envs.sim.batch import Noise
from shunter.envs.workload.seed_ranges import SEED_RANGES
from shunter.envs.world.world import World
from shunter.eval.execution.batched import evaluate_batched
from shunter.eval.execution.runs import simulate
from shunter.eval.execution.sentinel import PARTS
from shunter.eval.execution.slowdowns import Slowdowns
from shunter.eval.metrics.changes import paired_change
from shunter.train.algorithms import train_policy
from shunter.train.settings import EvolutionSettings

__all__ = ["run"]

FACTOR = 2.5

FOLLOWED = (
    Cell("paper-a6000", 0.7),
    Cell("two-gpu-unequal", 0.7),
    Cell("busy-and-rare-unequal", 0.7),
    Cell("unseen-pair", 0.7),
    Cell("four-gpu-node", 0.7),
)
POLICIES = ("cost-greedy", "shipped")
TRAINED = (Cell("two-gpu-unequal", 0.5), Cell("paper-a6000", 0.5))
"""At loads that a machine which is a third slower on average still sustains."""
NOISES: tuple[Noise, ...] = (False, True, "drift")
JUDGED: tuple[Noise, ...] = (False, "drift")
SEEDS = SEED_RANGES["explanation"]
FOLLOW_SEEDS, GENERATIONS, TRAININGS = 16, 60, 2


def run(quick: bool) -> list[Row]:
    """Both parts.

    Args:
        quick: One scenario each, few requests sequences, short searches.
    """
    followed, trained = (FOLLOWED[1:2], TRAINED[:1]) if quick else (FOLLOWED, TRAINED)
    rows = [row for cell in followed for row in follow_rows(cell, SEEDS[: 5 if quick else FOLLOW_SEEDS])]
    for cell in trained:
        rows += training_rows(cell, 10 if quick else GENERATIONS, 1 if quick else TRAININGS, quick)
    return rows


def follow_rows(cell: Cell, seeds: Sequence[int]) -> list[Row]:
    """Each policy told of a load that begins in the middle, against itself not told."""
    world, rows = cell_world(cell, seeds), []
    for what, slower in courses(world, seeds[0]).items():
        for name in POLICIES:
            told, untold, alone = (
                [simulate(world, make_policy(name), seed, slowdowns=course, follow=follow) for seed in seeds]
                for course, follow in ((slower, True), (slower, False), (None, False))
            )
            change, cost = paired_change(told, untold), paired_change(untold, alone)
            rows.append(
                reported(
                    f"{cell.name}, {what}: {name} that follows, against not following",
                    change["change"],
                    interval=(change["low"], change["high"]),
                    note=f"{len(seeds)} request sequences; the load itself: {cost['change']:+.1%}",
                )
            )
    return rows


def courses(world: World, seed: int) -> dict[str, Slowdowns]:
    """What begins in the middle of a run, as long as it takes ``fifo-swap``."""
    half_s = simulate(world, make_policy("fifo-swap"), seed).makespan_s / 2
    device = np.ones((2, world.devices, len(PARTS)))
    loads = device.copy()
    quickest = int(world.tables.step_s.reshape(world.devices, -1).min(axis=1).argmin())
    device[1, quickest], loads[1, :, PARTS.index("load")] = FACTOR, FACTOR
    at_s = np.array([0.0, half_s])
    found = {f"all loads × {FACTOR:g}": Slowdowns(at_s, loads)}
    if world.devices > 1:
        found[f"quickest device × {FACTOR:g}"] = Slowdowns(at_s, device)
    return found


def training_rows(cell: Cell, generations: int, trainings: int, quick: bool) -> list[Row]:
    """Searches with each kind of noise, judged with drift and without, against the one without noise."""
    seeds = SEEDS[:20] if quick else SEEDS
    world = cell_world(cell, seeds)
    means: dict[tuple[Noise, Noise], NDArray[np.float64]] = {}
    for noise in NOISES:
        found = []
        for seed in range(trainings):
            settings = EvolutionSettings(seed=seed, generations=generations, noise=noise)
            found.append(train_policy(world, settings).policy)
        for judged in JUDGED:
            means[noise, judged] = np.array([responses_s(world, one, seeds, judged) for one in found])
    rows = []
    for noise in NOISES[1:]:
        for judged in JUDGED:
            mine, theirs = means[noise, judged], means[False, judged]
            change = paired(mine, theirs)
            name = "drift" if noise == "drift" else "intervals"
            where = "machines that drift" if judged else "machines as predicted"
            rows.append(
                reported(
                    f"{cell.name}: trained with durations drawn from {name} against as predicted, on {where}",
                    change.change,
                    interval=change.interval(),
                    note=f"{trainings} searches of {generations} generations each, {len(seeds)} sequences",
                )
            )
    return rows


if __name__ == "__main__":
    raise SystemExit(main("drift", run, __doc__ or ""))


def responses_s(world: World, policy: Policy, seeds: Sequence[int], noise: Noise) -> NDArray[np.float64]:
    """(S,) mean responses; who is not served waits to the cut-off."""
    requests = evaluate_batched(world, policy, seeds, noise=noise).requests
    end_s = world.max_time_ns * 1e-9
    return np.array([(one.finish_s.fillna(end_s) - one.arrival_s).mean() for one in requests])
