"""The seed paper's preemption measurement, from the reference data: its six cells and its KV transfers."""

from __future__ import annotations

from typing import Any

import pandas as pd

from shunter.profiling.dataset.reference import PAPER, read_reference
from shunter.profiling.preemption.summary import weights_line

_TABLE_II = {
    "overhead_s": ("total_preemption_overhead", 1),
    "swap_share": ("share_model_swap(unload+reload)", 100),
    "kv_share": ("share_kv_transfer(both directions)", 100),
    "overhead_of_baseline": ("overhead_vs_uninterrupted_baseline", 100),
}


def paper_cells() -> list[dict[str, Any]]:
    """The paper's six cells (its Table II) and the KV transfers (Table III), as summarised.

    Returns:
        One dictionary a model and GPU; shares as fractions, times in seconds, weights in bytes.

    Source: arXiv 2605.19593, Tables II and III, by way of ``read_reference``.
    """
    figures = read_reference()
    system = figures["system"].fillna("")
    table = figures[system == f"{PAPER} (Table II)"]
    moved = figures[system.str.startswith(f"{PAPER} (Table III")]
    transfers = {str(model): rows.set_index("operation") for model, rows in moved.groupby("model")}
    return [
        _cell(str(gpu), str(model), group, transfers[str(model)])
        for (gpu, model), group in table.groupby(["device", "model"], sort=False)
    ]


def paper_lines(cells: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The ``weights_line`` through the cells (``paper_cells``) of each GPU, by its name."""
    by_gpu = pd.DataFrame(cells).groupby("gpu")
    return {str(gpu): weights_line(group["weight_bytes"], group["overhead_s"]) for gpu, group in by_gpu}


def _cell(gpu: str, model: str, table: pd.DataFrame, kv: pd.DataFrame) -> dict[str, Any]:
    values = table.set_index("metric")["value"].astype(float)
    return {
        "model": model,
        "gpu": gpu,
        "weight_bytes": float(table["weight_bytes"].iloc[0]),
        **{name: float(values[metric]) / unit for name, (metric, unit) in _TABLE_II.items()},
        "kv_bytes": float(kv["kv_bytes"]["kv_save"]),
        "kv_save_s": float(kv["duration_s"]["kv_save"]),
        "kv_restore_s": float(kv["duration_s"]["kv_restore"]),
        "provenance": str(table["provenance"].iloc[0]),
    }
