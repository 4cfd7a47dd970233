"""What of each model fits each device, how long loading it takes and how fast it then decodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from shunter.envs.scenario.scenario import Scenario
from shunter.envs.world.load_times import predicted_for
from shunter.envs.world.tabulation import Tabulation
from shunter.models.performance import PerformanceModel

__all__ = ["residency"]


def residency(scenario: Scenario, performance: PerformanceModel) -> pd.DataFrame:
    """One row per device, model and level.

    Args:
        scenario: The scenario that names devices, models and levels.
        performance: Performance model that predicts times and bytes.

    Returns:
        ``device``, ``gpu``, ``model``, ``gpu_layers``, ``total_layers``; ``fits`` and ``device_gb``, KV of a
        full batch included; ``load_s`` from the page cache, or where the
        scenario says, and ``tokens_per_s`` of one sequence at the
        workload's mean context, each with ``_low`` and ``_high`` (90 %); ``load_out_of_range`` and
        ``decode_out_of_range``: predicted beyond the data that the performance model was fitted to.
    """
    tabulation = Tabulation(scenario, performance)
    asked = np.rint(tabulation.lengths @ np.array([1.0, 0.5]))
    contexts = np.unique(asked)
    configurations = tabulation.configurations(contexts, np.empty(0))
    of_model = np.searchsorted(contexts, asked)[configurations.m]
    is_step = configurations.operation.eq("decode") & configurations.b.eq(0) & configurations.k.eq(of_model)
    configurations = configurations[configurations.operation.eq("load") | is_step]
    predicted = predicted_for(scenario.limits, performance, configurations)
    loads, steps = (
        {(row.h, row.m, row.l): row for row in predicted[predicted.operation == name].itertuples()}
        for name in ("load", "decode")
    )
    rows = []
    for d, device in enumerate(scenario.devices):
        for m, model in enumerate(scenario.models):
            for level, gpu_layers in enumerate(tabulation.gpu_layers[m]):
                key = (int(tabulation.hardware_of[d]), m, level)
                load: Any = loads[key]
                step: Any = steps[key]
                rows.append(
                    {
                        "device": device.name,
                        "gpu": device.text,
                        "model": model.name,
                        "gpu_layers": gpu_layers,
                        "total_layers": int(load.total_layers),
                        "fits": bool(tabulation.tables.level_ok[d, m, level]),
                        "device_gb": float(tabulation.tables.footprint_bytes[d, m, level]) / 1e9,
                        "load_s": float(load.duration_s_predicted),
                        "load_s_low": float(load.duration_s_low),
                        "load_s_high": float(load.duration_s_high),
                        "tokens_per_s": 1 / float(step.duration_s_predicted),
                        "tokens_per_s_low": 1 / float(step.duration_s_high),
                        "tokens_per_s_high": 1 / float(step.duration_s_low),
                        "load_out_of_range": bool(load.out_of_range),
                        "decode_out_of_range": bool(step.out_of_range),
                    }
                )
    return pd.DataFrame(rows)
