"""One policy against another over request sequences: IQM, probability of improvement, performance profile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from shunter.eval.execution.runs import Run
from shunter.eval.metrics.metrics import request_times
from shunter.eval.metrics.statistics import Array, iqm, performance_profile, probability_of_improvement
from shunter.uncertainty import FEWEST_SEQUENCES, bootstrap

THRESHOLDS = (0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)
"""Thresholds of the performance profile: mean response relative to the other's on the same requests."""


def policy_statistics(runs: Sequence[Run], against: Sequence[Run]) -> dict[str, Any]:
    """Aggregates over request sequences that few odd ones do not move much.

    Args:
        runs: One policy's.
        against: The other's, of the same seeds; either may have several runs of one.

    Returns:
        ``iqm``: of the sequences' mean response relative to the other's, ``value`` and the ends of its 95 %
        interval over sequences (None: too few); ``probability_of_improvement``; ``profile``: the share of
        sequences with a ratio of at most each of ``THRESHOLDS``; ``sequences``: how many there are.
    """
    seeds = list(dict.fromkeys(run.seed for run in runs))
    mine, theirs = ([_means(each, seed) for seed in seeds] for each in (runs, against))
    ratios = np.array([np.mean(a) / np.mean(b) for a, b in zip(mine, theirs, strict=True)])
    enough = len(ratios) >= FEWEST_SEQUENCES
    found = bootstrap(ratios[:, None], lambda drawn: np.asarray(iqm(drawn[..., 0], axis=1)))
    return {
        "sequences": len(seeds),
        "iqm": {
            name: end if np.isfinite(end) and (enough or name == "value") else None
            for name, end in found._asdict().items()
        },
        "probability_of_improvement": probability_of_improvement(mine, theirs),
        "profile": dict(
            zip(map(str, THRESHOLDS), performance_profile(ratios, THRESHOLDS).tolist(), strict=True)
        ),
    }


def _means(runs: Sequence[Run], seed: int) -> Array:
    return np.array([request_times(run).response_s.mean() for run in runs if run.seed == seed])
