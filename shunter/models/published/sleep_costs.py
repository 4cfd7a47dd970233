"""What waking and falling asleep take, for the configurations of loads: as measured, else as published.

Of a vLLM that was profiled with sleep on, loads woke it and unloads sent it to sleep, and its version says at
which level. What else there is of sleep is what others published, flagged so.
"""

from __future__ import annotations

import pandas as pd

from shunter.errors import InputError
from shunter.models.performance import PerformanceModel
from shunter.models.published.load_costs import COSTS, measured_sleep_levels, published_costs
from shunter.models.published.load_rows import FALL_ASLEEP

__all__ = ["sleep_costs"]

_NAMES = [*COSTS[:-1]]


def sleep_costs(
    model: PerformanceModel, loads: pd.DataFrame, level: int
) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series[bool]]:
    """Predicts waking, falling asleep, and whether loads of the model itself are such wakes.

    Args:
        model: What it measured of sleep counts before what is published.
        loads: Configurations of loads as ``PerformanceModel.predict`` takes them; shape (n_loads, any).
        level: Level of sleep, 1 or 2.

    Returns:
        Two frames of shape (n_loads, ...), waking and falling asleep: ``duration_s_predicted``,
        ``duration_s_low``, ``duration_s_high``, ``duration_s_mean`` and ``out_of_range``; and of shape
        (n_loads,), whether that is of the model's own rows.

    Raises:
        InputError: An engine was measured asleep at the other level, or as ``PerformanceModel.predict``.
    """
    levels = measured_sleep_levels(model, loads)
    own, other = levels == level, (levels != level) & (levels != 0)
    if other.any():
        engine, measured = loads.loc[other, "engine"].iloc[0], levels[other].iloc[0]
        rule = f"be 0 or {measured}: the performance model was measured on {engine} at that level"
        raise InputError("limits.sleep", rule, level)
    found = []
    for path, operation in (f"sleep-{level}", "load"), (FALL_ASLEEP[level - 1], "unload"):
        done = published_costs(model, loads, path)[_NAMES]
        if own.any():
            mine = model.predict(loads[own].assign(operation=operation))[_NAMES]
            done = pd.concat([done[~own], mine]).reindex(loads.index)
        found.append(done.astype({"out_of_range": bool}))
    return found[0], found[1], own
