"""Capacity: the largest arrival rate at which some heuristic still keeps up, found on the simulator.

A policy drains a rate if its backlog does not grow: in the second half of a run's arrivals, the requests in
the system grow by less than ``GROWTH`` of those that arrive, on the mean of the seeds. Rates are searched by
bisection, on the same request sequences.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from shunter.agents.base import Policy, is_oracle
from shunter.agents.parameters import for_world
from shunter.envs.gym.checks import check_actions
from shunter.envs.gym.vector import observation
from shunter.envs.sim.batch import Batch
from shunter.envs.sim.supply import environment_key
from shunter.envs.workload.lengths import mean_lengths
from shunter.envs.workload.seed_ranges import SEED_RANGES
from shunter.envs.workload.shares import shares_of
from shunter.envs.world.tabulation import mean_work_s
from shunter.envs.world.world import World
from shunter.errors import InputError
from shunter.eval.metrics import backlog
from shunter.eval.metrics.backlog import first_half

__all__ = ["GROWTH", "SEEDS", "Capacity", "capacity", "utilisation"]

GROWTH = 0.02
"""Share of arrivals that may pile up: what a queue at its capacity does by chance over ``REQUESTS``."""

REQUESTS = 1500
"""Arrivals of a run, at least."""

SEEDS = tuple(SEED_RANGES["capacity"])
"""Request sequences; no training or evaluation draws these."""

_FINEST = 1.03
"""Ratio of neighbouring rates at which the search ends; between these, growth is interpolated."""
_STRIDE = 2.0
_MOST_ROUNDS = 16
_FOREVER = 10_000_000

OnProgress = Callable[[str, int, int], None]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Capacity:
    """The best heuristic's capacity.

    Attributes:
        rate_per_s: Largest mean arrival rate that it drains.
        low: Lower end of the 95 % interval, by how the seeds differ.
        high: Upper end of the 95 % interval.
        policy: The heuristic.
        by_policy: Rates of all that were taken to the end; the others drain less than it.
    """

    rate_per_s: float
    low: float
    high: float
    policy: str
    by_policy: Mapping[str, float]


def capacity(
    world: World,
    policies: Sequence[Policy],
    seeds: Sequence[int] = SEEDS,
    *,
    requests: int | None = None,
    on_progress: OnProgress | None = None,
) -> Capacity:
    """Measures the capacity of a world.

    Args:
        world: The compiled scenario; its own rate and guard do not matter: capacity is of the policies.
        policies: Heuristics; the best one's capacity counts.
        seeds: Seeds of the request sequences, at least two.
        requests: Arrivals of a run; None: those of the scenario, and at least ``REQUESTS``.
        on_progress: Called with what is being done, rounds done, and about how many there are.

    Raises:
        InputError: The workload is a closed loop, which never piles up; fewer than two seeds; or nothing is
            ever served.
    """
    if world.scenario.workload.closed_loop is not None:
        rule = "be an open loop to have a capacity: a closed one slows itself down"
        raise InputError("workload", rule, "closed_loop")
    if len(seeds) < 2:
        raise InputError("seeds", "be at least two, to tell how they differ", list(seeds))
    count = max(REQUESTS, world.scenario.workload.requests) if requests is None else requests
    searches = [_Search(world, policy, seeds, count) for policy in policies]
    rounds = 0
    while (left := [s for s in searches if not s.done]) and rounds < _MOST_ROUNDS:
        for search in left:
            if on_progress is not None:
                on_progress(f"{search.policy.name}: {search.text}", rounds, _MOST_ROUNDS)
            search.narrow()
        rounds += 1
        # Whoever piles up at a rate that another one drains cannot be the best.
        best = max(search.low for search in searches)
        searches = [search for search in searches if search.high > best]
    found = {search.policy.name: search.result() for search in searches if search.done}
    if not found:
        rule = f"have a capacity that {_MOST_ROUNDS} halvings and doublings find"
        raise InputError("scenario", rule, ", ".join(search.text for search in searches))
    name = max(found, key=lambda n: found[n][0])
    rate, half = found[name]
    return Capacity(rate, rate - half, rate + half, name, {n: r for n, (r, _) in found.items()})


def growth(world: World, policy: Policy, rate_per_s: float, seeds: Sequence[int], requests: int) -> Floats:
    """How much of what arrives in the second half of a run piles up.

    Args:
        world: The compiled scenario.
        policy: Decides.
        rate_per_s: Mean arrivals per second.
        seeds: S seeds of the request sequences.
        requests: Arrivals of a run.

    Returns:
        (S,) requests in the system at the last arrival less those at the middle one, over the arrivals
        between; negative where they became fewer.
    """
    workload = world.scenario.workload.model_copy(update={"requests": _FOREVER})
    scenario = world.scenario.model_copy(update={"workload": workload})
    tables = world.tables.changed(max_time_ns=2**62)
    endless = replace(world, scenario=scenario, tables=tables).with_guard(None).at_rate(rate_per_s)
    batch = Batch(endless, len(seeds), autoreset=False, oracle=is_oracle(policy))
    out = batch.reset([environment_key(seed, 0) for seed in seeds])
    held, policy = np.full((2, len(seeds)), -1), for_world(policy, endless)
    while (held[1] < 0).any():
        actions = policy.act_batch(observation(out, copy=False))
        out = batch.step(check_actions(actions, (len(seeds),), world.actions, f"what {policy.name} chooses"))
        clock = batch.state.clock[:, 0]
        for row, at in enumerate((first_half(requests), requests)):
            reached = (held[row] < 0) & (clock["arrived"] >= at)
            held[row, reached] = clock["in_system"][reached]
    batch.close()
    return backlog.growth(held[0], held[1], requests)


def utilisation(world: World, rate_per_s: float) -> Floats:
    """Estimated share of time that devices are busy, one request at a time and without loads.

    Batching lowers it, swapping raises it.

    Args:
        world: The compiled scenario.
        rate_per_s: Mean arrivals per second.

    Returns:
        (devices, levels): if requests were spread evenly over the devices and every model were at its k-th
        level, or the last one that it has; of the models that fit, NaN where none does.
    """
    scenario, (devices, _, levels) = world.scenario, world.levels
    work_s = mean_work_s(world.tables, mean_lengths(scenario))
    share = shares_of(scenario)
    busy = np.full((devices, levels), np.nan)
    for level in range(levels):
        at = [min(level, len(layers) - 1) for layers in world.gpu_layers]
        models = np.arange(world.models)
        fits = world.tables.level_ok[:, models, at]
        served_s = np.where(fits, work_s[:, models, at], 0.0) @ share
        held = fits @ share
        np.divide(served_s, held, out=busy[:, level], where=held > 0)
    return busy * rate_per_s / devices


class _Search:
    """The search for one policy's capacity, between what it drains and what it does not."""

    def __init__(self, world: World, policy: Policy, seeds: Sequence[int], requests: int) -> None:
        self.world, self.policy, self.seeds, self.requests = world, policy, seeds, requests
        self.low, self.high = 0.0, math.inf
        self.measured: dict[float, Floats] = {}

    @property
    def done(self) -> bool:
        """Whether the two are close enough."""
        return self.low > 0 and self.high / self.low <= _FINEST

    @property
    def text(self) -> str:
        """Where the search is."""
        return f"{self.low:.3g} to {self.high:.3g} requests/s"

    def narrow(self) -> None:
        """Tries the rate in the middle."""
        rate = self._middle()
        self.measured[rate] = growth(self.world, self.policy, rate, self.seeds, self.requests)
        if self.measured[rate].mean() > GROWTH:
            self.high = rate
        else:
            self.low = rate

    def _middle(self) -> float:
        if not self.measured:
            return float((1.0 / self.world.service_s).sum())
        if self.low == 0.0:
            return self.high / _STRIDE
        if math.isinf(self.high):
            return self.low * _STRIDE
        return math.sqrt(self.low * self.high)

    def result(self) -> tuple[float, float]:
        """Rate and half width of its interval."""
        below, above = self.measured[self.low].mean(), self.measured[self.high].mean()
        rate = self.low + (self.high - self.low) * (GROWTH - below) / (above - below)
        values = self.measured[self.low]
        error = float(values.std(ddof=1)) / math.sqrt(len(values))
        quantile = float(student.ppf(0.975, len(values) - 1))
        # Beyond capacity, growth is 1 - capacity / rate: its error moves the rate by as much, relatively.
        return float(rate), float(rate) * quantile * error
