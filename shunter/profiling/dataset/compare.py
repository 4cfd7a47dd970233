"""Datasets beside each other: merged without doubling a row, and compared configuration by configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from shunter.errors import InputError
from shunter.profiling.dataset.schema import COLUMNS, empty_frame

__all__ = ["diff_datasets", "merge_datasets"]

DESCRIPTION = (
    *("engine", "device", "model", "quantization", "operation", "gpu_layers", "batch"),
    *("prompt_tokens", "decode_tokens", "tokens", "page_cache", "max_batch"),
)
"""Columns that say what a configuration is, for people."""


@dataclass(frozen=True)
class DatasetDiff:
    """Two datasets compared by ``cell_id``.

    Attributes:
        only_a: Configurations of the first alone, a row each, with the columns ``DESCRIPTION`` and ``rows``.
        only_b: Configurations of the second alone, a row each, with the columns of ``only_a``.
        shared: Configurations of both, with ``DESCRIPTION``, ``rows_a``, ``rows_b``, the medians
            ``duration_a_s`` and ``duration_b_s``, and ``ratio``, the second's median over the first's (NaN
            where that is 0).
    """

    only_a: pd.DataFrame
    only_b: pd.DataFrame
    shared: pd.DataFrame


def merge_datasets(datasets: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """All rows of some datasets, none twice.

    Args:
        datasets: Validated frames by the name that errors call them.

    Returns:
        Rows in the order given; a row that several datasets have stands where it first comes.

    Raises:
        InputError: Two rows have one row_id but differ, within a dataset or between two.
    """
    merged = empty_frame()
    for name, frame in datasets.items():
        both = pd.concat([merged, frame], ignore_index=True) if len(merged) else frame
        # Whether a row is an outlier depends on the rows beside it, so it may differ between files.
        unique = both.drop_duplicates([c.name for c in COLUMNS if c.name != "is_outlier"], ignore_index=True)
        clashing = unique.loc[unique["row_id"].duplicated(), "row_id"]
        if len(clashing):
            row_id = clashing.iloc[0]
            first, second = (row for _, row in unique[unique["row_id"] == row_id].head(2).iterrows())
            different = [c.name for c in COLUMNS if not _same(first[c.name], second[c.name])]
            rule = f"not have another row of the same row_id {row_id!r} ({len(clashing)} clash)"
            raise InputError(name, rule, f"different {', '.join(different[:5])}")
        merged = unique
    return merged


def _same(a: object, b: object) -> bool:
    return a == b or bool(pd.isna(a) and pd.isna(b))  # type: ignore[call-overload]


def diff_datasets(a: pd.DataFrame, b: pd.DataFrame) -> DatasetDiff:
    """Compares two validated datasets: configurations of either alone, and durations of those of both."""
    configurations_a, configurations_b = _configurations(a), _configurations(b)
    both = configurations_a.index[configurations_a.index.isin(configurations_b.index)]
    shared = configurations_a.loc[both, list(DESCRIPTION)].assign(
        rows_a=configurations_a.loc[both, "rows"],
        rows_b=configurations_b.loc[both, "rows"],
        duration_a_s=configurations_a.loc[both, "duration_s"],
        duration_b_s=configurations_b.loc[both, "duration_s"],
    )
    shared["ratio"] = (shared["duration_b_s"] / shared["duration_a_s"]).where(shared["duration_a_s"] > 0)
    return DatasetDiff(
        configurations_a.drop(index=both).drop(columns="duration_s"),
        configurations_b.drop(index=both).drop(columns="duration_s"),
        shared,
    )


def _configurations(frame: pd.DataFrame) -> pd.DataFrame:
    groups = frame.groupby("cell_id", sort=False)
    configurations = groups[list(DESCRIPTION)].first()
    return configurations.assign(rows=groups.size(), duration_s=groups["duration_s"].median())
