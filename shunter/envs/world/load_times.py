"""Predictions of a scenario's configurations, with loads from where it says that their bytes come from."""

from __future__ import annotations

import pandas as pd

from shunter.envs.scenario.limits import Limits
from shunter.models.performance import PerformanceModel
from shunter.models.published.load_costs import COSTS, load_costs

__all__ = ["predicted_for"]


def predicted_for(
    limits: Limits, performance: PerformanceModel, configurations: pd.DataFrame
) -> pd.DataFrame:
    """Predicts configurations.

    Args:
        limits: Say where loads come from, if anything; a load with a cold page cache is from the disk then.
        performance: Predicts times and bytes.
        configurations: As from ``Tabulation.configurations``; shape (n_configurations, any).

    Returns:
        As from ``PerformanceModel.predict``.
    """
    predicted = performance.predict(configurations)
    if limits.load_source is None:
        return predicted
    disk_bytes_per_s = None if limits.disk_gb_s is None else limits.disk_gb_s * 1e9
    is_load, is_cold = configurations["operation"].eq("load"), configurations["page_cache"].eq("cold")
    for source, chosen in (("disk", is_load & is_cold), (limits.load_source, is_load & ~is_cold)):
        if chosen.any():
            known = load_costs(performance, configurations[chosen], source, disk_bytes_per_s)
            for name in COSTS[:-1]:
                predicted[name] = predicted[name].mask(chosen, known[name].reindex(predicted.index))
    return predicted.astype({"out_of_range": bool})
