"""Whether simulation ranks policies as reality does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from shunter.eval.execution.runs import Run
from shunter.eval.metrics.changes import interleaved_change, paired_change, round_units
from shunter.eval.metrics.statistics import Array, kendall_tau
from shunter.uncertainty import FEWEST_SEQUENCES, Interval, bootstrap


@dataclass(frozen=True)
class Pair:
    """Two policies on the same requests.

    Attributes:
        policy: One.
        against: The other.
        real: Change of the mean response in reality, with its paired interval.
        simulated: Change of the mean response in simulation, with its paired interval.
    """

    policy: str
    against: str
    real: Interval
    simulated: Interval

    @property
    def significant(self) -> bool:
        """Whether they differ in reality: the interval is clear of zero."""
        return self.real.sign != 0

    @property
    def agrees(self) -> bool:
        """Whether simulation has the sign that reality has."""
        return self.real.value * self.simulated.value > 0


@dataclass(frozen=True)
class Ranking:
    """Orders of policies by mean response.

    Attributes:
        real: Names by real mean response, best first.
        simulated: Names by simulated mean response, best first.
        tau: Kendall's tau-b between the two, with an interval over units.
        pairs: All pairs of policies.
        unit: What was resampled.
    """

    real: tuple[str, ...]
    simulated: tuple[str, ...]
    tau: Interval
    pairs: tuple[Pair, ...]
    unit: str

    @property
    def significant(self) -> int:
        """Pairs that differ in reality."""
        return sum(pair.significant for pair in self.pairs)

    @property
    def agreeing(self) -> int:
        """Pairs that differ in reality and have the same sign in simulation."""
        return sum(pair.significant and pair.agrees for pair in self.pairs)


def rank(simulated: Mapping[str, Sequence[Run]], real: Mapping[str, Sequence[Run]]) -> Ranking | None:
    """Ranks policies in both modes; None with fewer than two, or where nothing was finished.

    Args:
        simulated: Runs by policy, one for each real one.
        real: Runs by policy, of the same seeds.
    """
    names = list(real)
    if len(names) < 2:
        return None
    units, _ = round_units([*(real[n] for n in names), *(simulated[n] for n in names)])
    if not len(units):
        return None
    of = {name: (units[:, i], units[:, len(names) + i]) for i, name in enumerate(names)}
    pairs = tuple(_pair(one, other, simulated, real) for one, other in combinations(names, 2))
    count = len(names)
    tau = bootstrap(units, lambda drawn: kendall_tau(*np.split(drawn.mean(axis=1), [count], axis=-1)))
    if len(units) < FEWEST_SEQUENCES:
        tau = Interval(tau.value, math.nan, math.nan)
    return Ranking(_order(of, 0), _order(of, 1), tau, pairs, "runs")


def _order(of: Mapping[str, tuple[Array, Array]], mode: int) -> tuple[str, ...]:
    return tuple(sorted(of, key=lambda name: of[name][mode].mean()))


def _pair(
    one: str, other: str, simulated: Mapping[str, Sequence[Run]], real: Mapping[str, Sequence[Run]]
) -> Pair:
    found = interleaved_change(real[one], real[other]), paired_change(simulated[one], simulated[other])
    return Pair(one, other, *(Interval(f["change"], f["low"], f["high"]) for f in found))
