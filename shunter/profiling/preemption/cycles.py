"""Cycles of a preemption measurement: one row each, put together from the operations in its dataset."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from shunter.errors import BrokenFileError
from shunter.profiling.dataset.schema import frame_of
from shunter.profiling.dataset.table import read_dataset
from shunter.profiling.dataset.versioned_parquet import FileKind, read_versioned_parquet

_OLD_KIND = FileKind("preemption measurement", "the preemption schema", "shunter_preemption_schema", 1)
"""What was written before a measurement was a profile dataset: cycles themselves, with their predictions."""

OWN_PARTS = ("kv_save_s", "unload_a_s", "load_a_s", "kv_restore_s")
"""What the preempted model itself costs: what ``PerformanceModel.preemption_cost_s`` predicts."""

PARTS = (*OWN_PARTS, "load_b_s", "unload_b_s", "other_s")
"""All of a cycle that is neither job's own computation."""

MEMORY_SLACK = 0.1
"""Share of A's footprint that may still be in use after an unload, beside saved KV and 16 MB."""

_SLACK_BYTES = 16_000_000
_SECONDS = {
    "kv_save_s": ("kv_save0",),
    "unload_a_s": ("unload0",),
    "load_a_s": ("load0",),
    "kv_restore_s": ("kv_restore0", "prefill2"),
    "load_b_s": ("load1",),
    "unload_b_s": ("unload1",),
    "compute_a_s": ("prefill0", "decode0", "decode2"),
    "compute_b_s": ("prefill1", "decode1"),
}
"""Which rows of a cycle make which time; what ends in 1 is B's."""

_OF_A = """session_id repeat measured_at engine engine_version device hardware_id load_average
model weight_bytes gpu_layers total_layers step_p50_s"""


def read_old_cycles(path: str | os.PathLike[str]) -> pd.DataFrame | None:
    """Reads cycles of before a measurement was a profile dataset; None if the file is none of these."""
    try:
        return read_versioned_parquet(path, _OLD_KIND)[0]
    except BrokenFileError:
        return None


def read_cycles(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Reads the cycles in the file of a measurement, also of one before it was a profile dataset.

    Returns:
        See ``cycles_of``.

    Raises:
        InputError: There is no such file.
        BrokenFileError: It is truncated, or neither kind of file.
        VersionError: It was written for another schema version.
    """
    old = read_old_cycles(path)
    return cycles_of(read_dataset(path)) if old is None else old


def cycles_of(rows: pd.DataFrame | Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row for each finished cycle, in the order of measurement; times in seconds, memory in bytes.

    Beside columns of the dataset that are A's: ``cut_tokens`` that A had generated when it was cut, and
    ``kv_tokens`` in its cache then; ``kv_mode`` (``save``, or ``recompute`` where the engine cannot save:
    kv_restore_s is then a prefill) and ``kv_bytes``; each of ``PARTS``, of which ``other_s`` lies between the
    engine's calls; their sum ``overhead_s``, and ``own_s`` that of ``OWN_PARTS``; ``compute_a_s`` and
    ``compute_b_s``; ``baseline_s``, the median computation of A's uninterrupted runs; ``resume_step_s``, A's
    first step after it came back; ``other``, B's model; ``device_bytes_idle``, ``…_loaded`` (with A),
    ``…_after_unload_a`` and ``…_b``; whether the tokens equal those of the uninterrupted runs and whether
    memory came back (``tokens_equal``, ``memory_back``).

    Args:
        rows: Rows of a profile dataset whose plan is a ``PreemptionPlan``'s.
    """
    frame = rows if isinstance(rows, pd.DataFrame) else frame_of(rows)
    key = frame["row_id"].str.partition("/")[2].str.partition("/")
    frame = frame.assign(unit=key[0], part=key[2], total_s=frame["duration_s"] * frame["steps"].clip(lower=1))
    # A cycle's rows are written in order: where its last one is, all are.
    last = frame[frame["part"] == "decode2"].set_index("unit")

    def at(part: str, column: str) -> pd.Series[Any]:
        return frame[frame["part"] == part].set_index("unit")[column].reindex(last.index)

    def seconds(parts: tuple[str, ...]) -> Any:
        return sum(at(part, "total_s").fillna(0.0) for part in parts)

    cycles = last[_OF_A.split()].assign(
        **{name: seconds(parts) for name, parts in _SECONDS.items()},
        other_s=frame.groupby("unit")["gap_s"].sum().reindex(last.index),
        cut_tokens=at("decode0", "steps") + 1,
        kv_tokens=at("decode0", "prompt_tokens") + at("decode0", "steps"),
        kv_mode=at("kv_save0", "operation").map({"kv_save": "save"}).fillna("recompute"),
        kv_bytes=at("kv_save0", "kv_bytes").fillna(0).astype("int64"),
        page_cache=at("load0", "page_cache"),
        other=at("load1", "model"),
        other_weight_bytes=at("load1", "weight_bytes"),
        resume_step_s=last["first_step_s"],
        device_bytes_idle=at("decode0", "device_bytes_before"),
        device_bytes_loaded=at("decode0", "device_bytes"),
        device_bytes_after_unload_a=at("unload0", "device_bytes"),
        device_bytes_after_unload_b=at("unload1", "device_bytes"),
    )
    cycles["own_s"] = cycles[list(OWN_PARTS)].sum(axis=1)
    cycles["overhead_s"] = cycles[list(PARTS)].sum(axis=1)
    return _judged(cycles, last["output"], frame[~frame["unit"].isin(last.index)])


def _judged(cycles: pd.DataFrame, output: pd.Series[Any], others: pd.DataFrame) -> pd.DataFrame:
    """Adds what the uninterrupted runs say, and whether memory came back."""
    whole = others[(others["part"] == "decode0") & (others["output"] != "")]
    runs = others[others["unit"].isin(whole["unit"])].groupby(["model", "unit"])["total_s"].sum()
    expected = whole.groupby("model")["output"].first()
    footprint = cycles["device_bytes_loaded"] - cycles["device_bytes_idle"]
    limit = cycles["device_bytes_idle"] + MEMORY_SLACK * footprint + cycles["kv_bytes"] + _SLACK_BYTES
    after = cycles[["device_bytes_after_unload_a", "device_bytes_after_unload_b"]].max(axis=1)
    return cycles.assign(
        baseline_s=cycles["model"].map(runs.groupby("model").median()),
        tokens_equal=output == cycles["model"].map(expected),
        memory_back=after <= limit,
    ).reset_index(drop=True)
