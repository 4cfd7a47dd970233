"""What policies did in cells, and comparisons between them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.paired import Paired, holm, holm_levels, paired, seed_counts
from benchmarks.policy_cells import Cell
from benchmarks.policy_runs import Contender, Figures

__all__ = ["CellVerdict", "Comparison", "Results", "quantile_of_longest"]

WAIT_RESAMPLES = 2000
LONGER = 20
"""Times as many of the longest waits as exceed a quantile are looked at: resamples may lack the longest."""

MARGIN = 0.01
"""What a cell may lose against its best baseline."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Two policies over the cells where both are stable.

    Attributes:
        cells: Cells where they were compared.
        unstable: Cells that are kept out, since one of the two did not drain there.
        paired: The change; None if no cell is left.
    """

    cells: tuple[Cell, ...]
    unstable: tuple[Cell, ...]
    paired: Paired | None


@dataclass(frozen=True)
class CellVerdict:
    """A policy against the best baseline of one cell, chosen with hindsight on the same requests.

    Attributes:
        cell: The cell.
        baseline: Label of its best baseline; None if all are unstable.
        paired: The change; None if either is unstable.
        p: Holm-adjusted over all cells that compare; 1 where this one does not.
        low: Lower end of the corrected interval.
        high: Upper end of the corrected interval.
    """

    cell: Cell
    baseline: str | None
    paired: Paired | None
    p: float
    low: float
    high: float

    @property
    def worse(self) -> bool:
        """Whether it is significantly worse, and its upper bound exceeds ``MARGIN``; or does not drain."""
        return self.significantly_worse and (self.paired is None or self.high > MARGIN)

    @property
    def significantly_worse(self) -> bool:
        """Whether it is, by however little; or does not drain where a baseline does."""
        if self.baseline is None:
            return False
        return self.paired is None or (self.p < 0.05 and self.paired.change > 0)


@dataclass(frozen=True)
class Results:
    """All figures.

    Attributes:
        figures: Figures by cell and label of the contender.
        contenders: Contenders that were evaluated in all cells.
        best: Label of the best single baseline, by tuning seeds.
    """

    figures: Mapping[tuple[Cell, str], Figures]
    contenders: tuple[Contender, ...]
    best: str

    @property
    def cells(self) -> list[Cell]:
        """In order."""
        return list(dict.fromkeys(cell for cell, _ in self.figures))

    @property
    def labels(self) -> list[str]:
        """Labels of all contenders."""
        return [contender.label for contender in self.contenders]

    def best_of(self, cell: Cell) -> str | None:
        """Label of the heuristic with the lowest mean response in a cell; None if all are unstable."""
        stable = [c.label for c in self.contenders if c.heuristic and self.figures[cell, c.label].drained]
        return min(stable, key=lambda label: self.figures[cell, label].mean_s, default=None)

    def compare(self, mine: str, theirs: str, cells: Iterable[Cell]) -> Comparison:
        """The change of the mean response, geometric mean over cells."""
        return self._compare(mine, dict.fromkeys(cells, theirs))

    def compare_best(self, mine: str, cells: Iterable[Cell]) -> Comparison:
        """The same against the best baseline of each cell, chosen with hindsight on the same requests."""
        return self._compare(mine, {cell: self.best_of(cell) for cell in cells})

    def _compare(self, mine: str, theirs: Mapping[Cell, str | None]) -> Comparison:
        stable = {
            cell: other
            for cell, other in theirs.items()
            if other and self.figures[cell, mine].drained and self.figures[cell, other].drained
        }
        unstable = tuple(cell for cell in theirs if cell not in stable)
        if not stable:
            return Comparison((), unstable, None)
        own, others = (
            np.array([self.figures[cell, label].response_s for cell, label in labels])
            for labels in (((cell, mine) for cell in stable), stable.items())
        )
        return Comparison(tuple(stable), unstable, paired(own, others))

    def compare_waits(
        self, mine: str, theirs: str, cells: Iterable[Cell], share: float = 0.999
    ) -> Comparison:
        """The change of a high quantile of waits: geometric mean over cells."""
        asked = list(cells)
        used = self._that_wait(mine, theirs, asked, share)
        left_out = tuple(cell for cell in asked if cell not in used)
        if not used:
            return Comparison((), left_out, None)
        pairs = [(self.figures[cell, mine], self.figures[cell, theirs]) for cell in used]
        counts = seed_counts(len(pairs[0][0].requests), resamples=WAIT_RESAMPLES)
        logs = [
            np.log(quantile_of_longest(m, counts, share) / quantile_of_longest(t, counts, share))
            for m, t in pairs
        ]
        draws = np.sort(np.expm1(np.mean(logs, axis=0)))
        change = self.times_waits(mine, theirs, asked, share) - 1
        return Comparison(tuple(used), left_out, Paired(change, draws))

    def times_waits(self, mine: str, theirs: str, cells: Iterable[Cell], share: float = 0.999) -> float:
        """How many times as long they are; NaN where nothing compares."""
        used = self._that_wait(mine, theirs, cells, share)
        if not used:
            return np.nan
        own, others = (
            np.array([_quantile_s(self.figures[cell, label], share) for cell in used])
            for label in (mine, theirs)
        )
        return float(np.exp(np.log(own / others).mean()))

    def _that_wait(self, mine: str, theirs: str, cells: Iterable[Cell], share: float) -> list[Cell]:
        pairs = {cell: (self.figures[cell, mine], self.figures[cell, theirs]) for cell in cells}
        return [c for c, pair in pairs.items() if all(f.drained and _quantile_s(f, share) > 0 for f in pair)]

    def verdicts(self, mine: str, cells: Sequence[Cell]) -> list[CellVerdict]:
        """A policy against each cell's best baseline, corrected for how many cells there are."""
        best = [self.best_of(cell) for cell in cells]
        changes = [
            None if name is None else self.compare(mine, name, [cell]).paired
            for cell, name in zip(cells, best, strict=True)
        ]
        known = [change for change in changes if change is not None]
        p = iter(holm([change.p for change in known]))
        levels = iter(holm_levels([change.p for change in known]))
        verdicts = []
        for cell, name, change in zip(cells, best, changes, strict=True):
            if change is None:
                verdicts.append(CellVerdict(cell, name, None, 1.0, np.nan, np.nan))
            else:
                verdicts.append(
                    CellVerdict(cell, name, change, float(next(p)), *change.interval(float(next(levels))))
                )
        return verdicts


def quantile_of_longest(figures: Figures, counts: Floats, share: float = 0.999) -> Floats:
    """A high quantile of waits in resamples of the seeds, from each seed's longest waits.

    Args:
        figures: Figures of one policy in one cell.
        counts: (R, S) how often each seed is drawn.
        share: Which quantile, as a share; an observed wait.

    Returns:
        (R,) in seconds.
    """
    seed = np.repeat(np.arange(len(figures.top_waits_s)), [len(w) for w in figures.top_waits_s])
    wait_s = np.concatenate([np.asarray(w) for w in figures.top_waits_s])
    order = np.argsort(-wait_s, kind="stable")[: math.ceil(LONGER * (1 - share) * sum(figures.requests))]
    longer = counts[:, seed[order]].cumsum(axis=1)
    total = counts @ np.asarray(figures.requests, np.float64)
    place = total - 1 - np.ceil(share * (total - 1))
    reached = longer > place[:, None]  # at the last that was kept, where a resample needs more of a seed's
    return np.asarray(wait_s[order][np.where(reached[:, -1], reached.argmax(axis=1), -1)])


def _quantile_s(figures: Figures, share: float) -> float:
    return {0.99: figures.waits.p99_s, 0.999: figures.waits.p99_9_s}[share]
