"""What policies did in cells, and comparisons between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.paired import Paired, holm, holm_levels, paired, seed_counts
from benchmarks.policy_cells import Cell
from benchmarks.policy_runs import Contender, Figures

__all__ = ["CellVerdict", "Comparison", "Results", "quantile_of_longest"]

WAIT_RESAMPLES = 2000
MARGIN = 0.02
"""What a cell may lose against its best baseline."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Two policies over the cells where both are stable.

    Attributes:
        cells: Where they were compared.
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
        cell: Which.
        baseline: Label of its best baseline; None if all are unstable.
        paired: The change; None if either is unstable.
        p: Holm-adjusted over all cells that compare; 1 where this one does not.
        low: Lower end of the corrected interval.
        high: Upper end.
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
        if self.baseline is None:
            return False
        if self.paired is None:
            return True
        return self.p < 0.05 and self.paired.change > 0 and self.high > MARGIN


@dataclass(frozen=True)
class Results:
    """All figures.

    Attributes:
        figures: By cell and label.
        contenders: That were evaluated in all cells.
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
        """Of all contenders."""
        return [contender.label for contender in self.contenders]

    def best_of(self, cell: Cell) -> str | None:
        """Label of the heuristic with the lowest mean response in a cell; None if all are unstable."""
        stable = [c.label for c in self.contenders if c.heuristic and self.figures[cell, c.label].drained]
        return min(stable, key=lambda label: self.figures[cell, label].mean_s, default=None)

    def compare(self, mine: str, theirs: str, cells: Iterable[Cell]) -> Comparison:
        """The change of the mean response, geometric mean over cells."""
        asked = list(cells)
        stable = [c for c in asked if self.figures[c, mine].drained and self.figures[c, theirs].drained]
        unstable = tuple(c for c in asked if c not in stable)
        if not stable:
            return Comparison((), unstable, None)
        change = paired(self._responses(mine, stable), self._responses(theirs, stable))
        return Comparison(tuple(stable), unstable, change)

    def compare_waits(self, mine: str, theirs: str, cells: Iterable[Cell]) -> Comparison:
        """The change of the p99.9 wait, geometric mean over cells where both are stable and wait at all."""
        asked = list(cells)
        waits = [(c, self.figures[c, mine], self.figures[c, theirs]) for c in asked]
        used = [w for w in waits if w[1].drained and w[2].drained and min(_p99_9(w[1]), _p99_9(w[2])) > 0]
        left_out = tuple(c for c in asked if c not in [w[0] for w in used])
        if not used:
            return Comparison((), left_out, None)
        counts = seed_counts(len(used[0][1].requests), resamples=WAIT_RESAMPLES)
        logs = [np.log(quantile_of_longest(m, counts) / quantile_of_longest(t, counts)) for _, m, t in used]
        change = np.mean([np.log(_p99_9(m) / _p99_9(t)) for _, m, t in used])
        draws = np.sort(np.expm1(np.mean(logs, axis=0)))
        return Comparison(tuple(w[0] for w in used), left_out, Paired(float(np.expm1(change)), draws))

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

    def _responses(self, label: str, cells: Sequence[Cell]) -> Floats:
        return np.array([self.figures[cell, label].response_s for cell in cells])


def quantile_of_longest(figures: Figures, counts: Floats, share: float = 0.999) -> Floats:
    """A high quantile of waits in resamples of the seeds, from each seed's longest waits.

    Args:
        figures: Of one policy in one cell.
        counts: (R, S) how often each seed is drawn.
        share: Which quantile; an observed wait.

    Returns:
        (R,) in seconds.
    """
    seed = np.repeat(np.arange(len(figures.top_waits_s)), [len(w) for w in figures.top_waits_s])
    wait_s = np.concatenate([np.asarray(w) for w in figures.top_waits_s])
    order = np.argsort(-wait_s, kind="stable")
    longer = counts[:, seed[order]].cumsum(axis=1)
    total = counts @ np.asarray(figures.requests, np.float64)
    place = total - 1 - np.ceil(share * (total - 1))
    return np.asarray(wait_s[order][(longer > place[:, None]).argmax(axis=1)])


def _p99_9(figures: Figures) -> float:
    return figures.p99_9_wait_s
