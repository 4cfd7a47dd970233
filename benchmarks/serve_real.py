"""Policies in the gateway on real servers: what clients saw, and what simulation says of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.form import Row, at_most, reported
from benchmarks.paired import paired
from benchmarks.serve_place import LEARNED, POLICIES, Cell, ServePlace, ServeScale, served_s, simulated_s

__all__ = ["FULL", "QUICK", "Means", "error_rows", "real_load_rows", "rows_of"]

FULL = ServeScale(
    profile_s=240,
    train_s=150,
    requests=50,
    sequences=6,
    repeats=2,
    capacity_requests=None,
    capacity_seeds=16,
)
QUICK = ServeScale(
    profile_s=25,
    train_s=10,
    requests=8,
    sequences=2,
    repeats=2,
    capacity_requests=200,
    capacity_seeds=4,
)

GAINS = {"fifo-swap": 0.20, "lru-keepalive": 0.15}
"""How much lower the learned policy's mean response must be."""

LEAST_ERROR_BAR = 0.08


@dataclass(frozen=True)
class Means:
    """Mean responses in seconds, by policy.

    Attributes:
        served: As clients saw them, a number per sequence.
        simulated: The same requests in simulation.
        again: The first sequence, run once more each.
    """

    served: Mapping[str, list[float]]
    simulated: Mapping[str, list[float]]
    again: Mapping[str, list[float]]

    @property
    def noise(self) -> float:
        """How far two runs of one policy on the same requests differ, the mean over policies."""
        pairs = [(self.served[name][0], other) for name, more in self.again.items() for other in more]
        return statistics.fmean(abs(a - b) / ((a + b) / 2) for a, b in pairs) if pairs else 0.0


async def real_load_rows(
    folder: Path, llama_server: str | None, scale: ServeScale, say: Callable[[str], None]
) -> list[Row]:
    """Measures, trains and serves; what is there already is not done again."""
    if llama_server is None:
        why = "no llama-server was given (--llama-server)"
        return [reported("learned policy in the gateway, mean response", None, note=why)]
    begun_s = time.monotonic()
    place = ServePlace(folder, scale, llama_server, say)
    world = await place.prepared()
    prepared_s = time.monotonic() - begun_s
    await place.serve(world)
    policies, first = place.served_policies(), place.cells()[0].seed
    seeds = [first + n for n in range(scale.sequences)]
    means = Means(
        {name: [served_s(place.read(Cell(name, seed, 0))) for seed in seeds] for name in POLICIES},
        {name: [simulated_s(world, policies[name], seed) for seed in seeds] for name in POLICIES},
        {
            name: [served_s(place.read(Cell(name, first, repeat))) for repeat in range(1, scale.repeats)]
            for name in POLICIES
        },
    )
    starts = ", ".join(
        f"{model.name} {world.tables.load_s[0, m, 0]:.2f} s" for m, model in enumerate(world.scenario.models)
    )
    note = f"{scale.sequences} sequences of {scale.requests} requests at {world.rate_per_s:.3g} a second; "
    note += f"servers start in {starts}"
    took = reported("time to prepare the real load", prepared_s, "s", note=note)
    return [*rows_of(means), took]


def rows_of(means: Means) -> list[Row]:
    """Rows of gains, then of simulation's errors and the noise that they are judged by."""
    rows = []
    for name, gain in GAINS.items():
        change, interval = _change(means.served, name)
        simulated, _ = _change(means.simulated, name)
        note = f"in simulation {100 * simulated:+.1f} %; the interval must be clear of 0"
        row = reported(f"learned against {name}, in the gateway", change, interval=interval, note=note)
        judged = at_most(row, -gain)
        rows.append(replace(judged, ok=bool(judged.ok) and interval[1] < 0))
    change, interval = _change(means.served, "cost-greedy")
    note = f"in simulation {100 * _change(means.simulated, 'cost-greedy')[0]:+.1f} %"
    rows.append(reported("learned against cost-greedy, in the gateway", change, interval=interval, note=note))
    return [*rows, *error_rows(means)]


def error_rows(means: Means) -> list[Row]:
    """Rows of simulation's errors and the noise that they are judged by."""
    rows, bar = [], max(LEAST_ERROR_BAR, 2 * means.noise)
    for name in means.served:
        real_s, found_s = np.mean(means.served[name]), np.mean(means.simulated[name])
        note = f"{found_s:.2f} s in simulation, {real_s:.2f} s for clients; by sequence " + ", ".join(
            f"{100 * (a / b - 1):+.0f} %"
            for a, b in zip(means.simulated[name], means.served[name], strict=True)
        )
        error = abs(float(found_s / real_s) - 1)
        rows.append(
            at_most(reported(f"simulation's error of the mean response, {name}", error, note=note), bar)
        )
    note = "between two runs of the first sequence, the mean over policies"
    return [*rows, reported("noise of the mean response", means.noise, note=note)]


def _change(of: Mapping[str, list[float]], name: str) -> tuple[float, tuple[float, float]]:
    """The learned policy's mean response against another's, relative, with its interval over sequences."""
    found = paired(np.array([of[LEARNED]]), np.array([of[name]]))
    return found.change, found.interval()
