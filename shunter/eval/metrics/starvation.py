"""Who waits longest: waits by model, and how evenly they are spread."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from shunter.eval.execution.batched import Batched
from shunter.eval.execution.runs import Run

ALL = "all models"


def waits(runs: Sequence[Run] | Batched) -> pd.DataFrame:
    """Waits of one policy's requests, runs pooled: from arrival to the first token.

    A request without a first token has waited at least until its run ended, and is counted with that.

    Returns:
        One row per model, then one for all, index ``model``: requests, unserved (without a first token),
        mean_s, p99_9_s (an observed wait), max_s, jain (of the models' mean waits; only in the last row).
    """
    if isinstance(runs, Batched):
        ended = list(zip(runs.requests, runs.makespan_s.tolist(), strict=True))
    else:
        ended = [(run.requests, run.makespan_s) for run in runs]
    frames = []
    for requests, end_s in ended:
        seen = requests[requests.arrival_s <= end_s]
        wait_s = seen.first_token_s.fillna(end_s) - seen.arrival_s
        frames.append(
            pd.DataFrame({"model": seen.model, "wait_s": wait_s, "unserved": seen.first_token_s.isna()})
        )
    pooled = pd.concat(frames, ignore_index=True)
    rows = {str(model): _row(group) for model, group in pooled.groupby("model", sort=True)}
    table = pd.DataFrame.from_dict({**rows, ALL: _row(pooled)}, orient="index").rename_axis("model")
    table["jain"] = np.nan
    table.loc[ALL, "jain"] = jain_index([row["mean_s"] for row in rows.values()])
    return table


def jain_index(values: ArrayLike) -> float:
    """How even values are: 1 if all are equal, 1/n if one of n has everything; 1 if all are 0.

    Source:
        Jain, Chiu and Hawe 1984, DEC-TR-301.
    """
    x = np.asarray(values, np.float64)
    squares = len(x) * float((x**2).sum())
    return float(x.sum()) ** 2 / squares if squares > 0 else 1.0


def _row(group: pd.DataFrame) -> dict[str, float]:
    return {
        "requests": len(group),
        "unserved": int(group.unserved.sum()),
        "mean_s": float(group.wait_s.mean()),
        "p99_9_s": float(group.wait_s.quantile(0.999, interpolation="higher")),
        "max_s": float(group.wait_s.max()),
    }
