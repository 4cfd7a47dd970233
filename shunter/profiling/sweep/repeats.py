"""How well the median of a configuration is known from its repeats, and which of them need more."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

GRAIN_S = 1e-3
"""An interval that is no wider in seconds is narrow enough: below it a scheduler's noise is all one sees."""

_LEVEL = 0.95
_LEAST_ORDER_STATISTICS = 6  # the range of 5 values covers the median with only 94 %
_WIDEST = 3


@dataclass(frozen=True)
class Precision:
    """How well a sweep knows its configurations.

    Attributes:
        wanted: Width of the 95 % interval of the median, relative to the median.
        configurations: How many configurations there are.
        reached: How many have an interval that narrow, or narrower than a millisecond.
        widest: The widest others, what they are and their width, widest first.
    """

    wanted: float
    configurations: int
    reached: int
    widest: tuple[tuple[str, float], ...]

    def lines(self) -> list[str]:
        """What to tell people."""
        return [
            f"median known within {self.wanted:.0%} (95 % interval): "
            f"{self.reached} of {self.configurations} configurations",
            *(
                f"  still wide: {name}: {f'{width:.0%}' if math.isfinite(width) else 'measured once'}"
                for name, width in self.widest
            ),
        ]


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % confidence interval of the median that some values were drawn around.

    From six values on between two order statistics, which assumes nothing of the distribution. For two to
    five, which no such interval covers with 95 %, Student's t interval of the mean of the logarithms, which
    assumes that these are normal. One value gives (0, infinity).

    Args:
        values: Positive, in any order.

    Source: Conover, Practical Nonparametric Statistics, 3rd edition, section 3.2.
    """
    ordered = sorted(values)
    n = len(ordered)
    if n < 2:
        return 0.0, math.inf
    if n >= _LEAST_ORDER_STATISTICS:
        # The k-th smallest and largest values miss the median if fewer than k of n lie on one side of it.
        k = int(stats.binom.ppf((1 - _LEVEL) / 2, n, 0.5))
        return ordered[max(k, 1) - 1], ordered[n - max(k, 1)]
    logs = np.log(np.maximum(ordered, 1e-9))
    half = float(stats.t.ppf((1 + _LEVEL) / 2, n - 1) * logs.std(ddof=1) / math.sqrt(n))
    return math.exp(logs.mean() - half), math.exp(logs.mean() + half)


class ConfigurationTimes:
    """Durations of configurations, one value for each pass: its rows share the state of the machine."""

    def __init__(self) -> None:
        self._passes: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        self._names: dict[str, str] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        """Takes a row of the dataset."""
        self._passes[row["cell_id"]][row["repeat"]].append(row["duration_s"])
        self._names[row["cell_id"]] = _name(row)

    def width(self, cell_id: str) -> float:
        """Width of the interval of the median, relative to the median; 0 below a millisecond."""
        values = [float(np.median(rows)) for rows in self._passes[cell_id].values()]
        low, high = median_interval(values)
        return 0.0 if high - low <= GRAIN_S else (high - low) / max(float(np.median(values)), 1e-9)

    def precision(self, wanted: float, configurations: Iterable[str]) -> Precision:
        """How many of some configurations are known as well as wanted."""
        widths = {configuration: self.width(configuration) for configuration in configurations}
        wide = sorted((w, self._names[configuration]) for configuration, w in widths.items() if w > wanted)
        widest = tuple((name, width) for width, name in wide[: -_WIDEST - 1 : -1])
        return Precision(wanted, len(widths), len(widths) - len(wide), widest)


def _name(row: Mapping[str, Any]) -> str:
    tokens = row["context_tokens"] if row["operation"] == "decode" else row["tokens"]
    held = f", {tokens:g} tokens" if tokens else ""
    batch = f", batch {row['batch']}" if row["operation"] == "decode" else ""
    return f"{row['operation']} of {row['model']}, {row['gpu_layers']} layers{batch}{held}"
