"""What sleep takes and keeps, as tables: waking, falling asleep, and the memory of a sleeper."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shunter.envs.scenario.limits import Limits
from shunter.envs.state.tables import Tables
from shunter.models.published.load_costs import published_costs
from shunter.models.published.sleep_costs import sleep_costs

if TYPE_CHECKING:
    from shunter.envs.world.tabulation import Tabulation

Array = NDArray[np.float64]
_NOTHING = np.empty(0)


def kept_asleep_bytes(limits: Limits, footprint_bytes: Array) -> Array:
    """Device memory that models keep asleep: what engines do, and at most what they take awake.

    Args:
        limits: Say whether and what.
        footprint_bytes: (devices, models, levels) what they take awake.
    """
    most = limits.asleep_bytes if limits.sleep else 0.0
    return np.minimum(footprint_bytes, most)


def with_sleep(tabulation: Tabulation, tables: Tables) -> tuple[Tables, bool]:
    """Tables of models that sleep, where ``limits.sleep`` says that they do.

    Where the performance model's own loads are wakes, loads from nothing are as others published them; its
    unloads, which are falls into sleep, stand for ending a model too.

    Args:
        tabulation: Has the scenario, the performance model and what is asked of it.
        tables: All else.

    Returns:
        The tables, and whether waking is as others published it.

    Raises:
        InputError: The performance model was measured on an engine that sleeps at the other level.
    """
    limits, performance = tabulation.scenario.limits, tabulation.performance
    if limits.sleep == 0:
        return tables, False
    asked = tabulation.configurations(_NOTHING, _NOTHING)
    loads = asked[asked.operation == "load"]
    wakes, falls, own = sleep_costs(performance, loads, limits.sleep)

    def spread(values: pd.Series[float]) -> Array:
        table = np.zeros((len(tabulation.hardware), *tabulation.shape[1:]))
        table[loads.h, loads.m, loads.l] = values.to_numpy(dtype=np.float64)
        return np.asarray(table[tabulation.hardware_of])

    width = (wakes.duration_s_high - wakes.duration_s_low) / 2
    changed = tables.changed(
        sleep=limits.sleep,
        wake_s=spread(wakes.duration_s_mean),
        fall_asleep_s=spread(falls.duration_s_mean),
        wake_halfwidth=spread(width / wakes.duration_s_predicted.where(wakes.duration_s_predicted > 0, 1.0)),
        asleep_bytes=kept_asleep_bytes(limits, tables.footprint_bytes),
    )
    is_own = spread(own.astype(float)) > 0
    if is_own.any():
        disk = None if limits.disk_gb_s is None else limits.disk_gb_s * 1e9
        known = limits.load_source not in (None, "unknown")
        warm = published_costs(performance, loads, str(limits.load_source) if known else "page-cache", disk)
        cold = published_costs(performance, loads, "disk", disk)
        warm_s, cold_s = spread(warm.duration_s_mean), spread(cold.duration_s_mean)
        changed = changed.changed(
            load_s=np.where(is_own, warm_s, tables.load_s),
            cold_load_s=np.where(is_own, cold_s if limits.host_memory_gb else warm_s, tables.cold_load_s),
        )
    return changed, not own.all()
