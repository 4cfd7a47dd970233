"""What a preemption measurement says: overhead by part, its share of reload, and whether the cut matters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from shunter.profiling.preemption.cycles import PARTS
from shunter.uncertainty import bootstrap, ratio_of_sums

SWAP_PARTS = ["unload_a_s", "load_b_s", "unload_b_s", "load_a_s"]
LOAD_PARTS = ["load_b_s", "load_a_s"]
KV_PARTS = ["kv_save_s", "kv_restore_s"]


def summarise(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Summarises the cycles of each model; shares are of the mean overhead.

    Args:
        rows: Cycles as from ``read_measurement``.

    Returns:
        By model: plain data. Intervals are None with fewer than two cycles, slopes with fewer than three.
    """
    return {str(model): _summary(group) for model, group in rows.groupby("model", sort=False)}


def slope_per_1000_tokens(cut_tokens: pd.Series[Any], seconds: pd.Series[Any]) -> dict[str, float] | None:
    """Straight line through cycles: seconds against tokens at the cut.

    Returns:
        ``slope`` in seconds per 1000 tokens with ``low`` and ``high``, the ends of its 95 % interval (least
        squares, Student's t); ``robust_slope`` with its ends (Theil and Sen: the median of all pairs'
        slopes, which a few slow cycles do not move). None with fewer than two cuts or three cycles.
    """
    x, y = cut_tokens.to_numpy(dtype=float) / 1000, seconds.to_numpy(dtype=float)
    if len(x) < 3 or len(np.unique(x)) < 2:
        return None
    line = stats.linregress(x, y)
    half = float(stats.t.ppf(0.975, len(x) - 2)) * line.stderr
    robust = stats.theilslopes(y, x, alpha=0.95)
    return {
        "slope": float(line.slope),
        "low": float(line.slope - half),
        "high": float(line.slope + half),
        "robust_slope": float(robust[0]),
        "robust_low": float(robust[2]),
        "robust_high": float(robust[3]),
    }


def line_over_models(summary: dict[str, dict[str, Any]]) -> dict[str, float] | None:
    """Straight line through the models: A's own overhead = intercept + weights / rate.

    Returns:
        ``intercept_s`` and ``bytes_per_s``; None with fewer than three models, or where a larger one is no
        slower.
    """
    if len(summary) < 3:
        return None
    line = weights_line(*zip(*((s["weight_bytes"], s["own_mean_s"]) for s in summary.values()), strict=True))
    return line if 0 < line["bytes_per_s"] < math.inf else None


def weights_line(weight_bytes: Any, seconds: Any) -> dict[str, float]:
    """Straight line through points: seconds = ``intercept_s`` + weights / ``bytes_per_s``."""
    line = stats.linregress(weight_bytes, seconds)
    rate = 1 / float(line.slope) if line.slope else math.inf
    return {"intercept_s": float(line.intercept), "bytes_per_s": rate}


def _summary(rows: pd.DataFrame) -> dict[str, Any]:
    overhead_s = rows["overhead_s"]
    mean_s = float(overhead_s.mean())
    cuts = rows["cut_tokens"]
    slope = slope_per_1000_tokens(cuts, overhead_s)
    kv_s = rows[KV_PARTS].sum(axis=1)
    span = (int(cuts.max()) - int(cuts.min())) / 1000
    return {
        "cycles": len(rows),
        **{name: int(rows[name].iloc[0]) for name in ("weight_bytes", "gpu_layers", "total_layers")},
        **{name: str(rows[name].iloc[0]) for name in ("other", "kv_mode")},
        "overhead_mean_s": mean_s,
        "overhead_ci_s": _half_width_s(overhead_s),
        **{f"overhead_{how}_s": float(overhead_s.agg(how)) for how in ("median", "min", "max")},
        "own_mean_s": float(rows["own_s"].mean()),
        "parts_mean_s": {part: float(rows[part].mean()) for part in PARTS},
        **_swap_share(rows),
        "load_share": float(rows[LOAD_PARTS].sum(axis=1).mean()) / mean_s,
        "kv_share": float(kv_s.mean()) / mean_s,
        "own_load_share": float(rows["load_a_s"].mean() / rows["own_s"].mean()),
        "overhead_of_baseline": float((overhead_s / rows["baseline_s"]).mean()),
        "slope": slope,
        "kv_slope": slope_per_1000_tokens(cuts, kv_s),
        "change_over_cuts": (
            {end: slope[end] * span / mean_s for end in ("slope", "low", "high")} if slope else None
        ),
        "load_bytes_per_s": float((rows["weight_bytes"] / rows["load_a_s"]).median()),
        "resume_extra_s": float((rows["resume_step_s"] - rows["step_p50_s"]).median()),
        "longest_cut": _longest_cut(rows),
        "prediction": _prediction(rows),
        "tokens_equal": int(rows["tokens_equal"].sum()),
        "memory_back": int(rows["memory_back"].sum()),
    }


def _swap_share(rows: pd.DataFrame) -> dict[str, float | None]:
    """Share of the mean overhead that unloads and loads, with its 95 % interval over cycles."""
    units = np.column_stack([rows[SWAP_PARTS].sum(axis=1), rows["overhead_s"]])
    found = bootstrap(units, ratio_of_sums)
    low, high = (None if np.isnan(end) else end for end in (found.low, found.high))
    return {"swap_share": found.value, "swap_share_low": low, "swap_share_high": high}


def _half_width_s(seconds: pd.Series[Any]) -> float | None:
    """Half of the 95 % interval of the mean."""
    if len(seconds) < 2:
        return None
    return float(stats.t.ppf(0.975, len(seconds) - 1) * seconds.sem())


def _longest_cut(rows: pd.DataFrame) -> dict[str, float]:
    """KV transfers at the last cut, as in the paper's Table III; medians."""
    last = rows[rows["cut_tokens"] == rows["cut_tokens"].max()]
    columns = ["cut_tokens", "kv_tokens", "kv_bytes", *KV_PARTS]
    return {column: float(last[column].median()) for column in columns}


def _prediction(rows: pd.DataFrame) -> dict[str, Any] | None:
    """How good the predictions of A's own part were; None where there are none."""
    if rows["predicted_s"].isna().any():
        return None
    own_s, predicted_s = rows["own_s"], rows["predicted_s"]
    inside = own_s.between(rows["predicted_low_s"], rows["predicted_high_s"])
    return {
        "own_mean_s": float(own_s.mean()),
        "predicted_mean_s": float(predicted_s.mean()),
        **{f"{end}_mean_s": float(rows[f"predicted_{end}_s"].mean()) for end in ("low", "high")},
        "mape": float(((predicted_s - own_s).abs() / own_s).mean()),
        "bias": float(predicted_s.mean() / own_s.mean() - 1),
        "inside_interval": float(inside.mean()),
        "out_of_range": float(rows["predicted_out_of_range"].mean()),
    }
