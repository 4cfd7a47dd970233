"""Rows of a preemption measurement, and the Parquet file that grows by them."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from shunter.files import replaced
from shunter.profiling.dataset.versioned_parquet import FileKind, read_versioned_parquet, stamped
from shunter.profiling.preemption.cycle import Cycle

SCHEMA_VERSION = 1
_KIND = FileKind(
    "preemption measurement", "the preemption schema", "shunter_preemption_schema", SCHEMA_VERSION
)

OWN_PARTS = ("kv_save_s", "unload_a_s", "load_a_s", "kv_restore_s")
"""What the preempted model itself costs: what ``PerformanceModel.preemption_cost_s`` predicts."""

PARTS = (*OWN_PARTS, "load_b_s", "unload_b_s", "other_s")
"""All of a cycle that is neither job's own computation."""


@dataclass(frozen=True, kw_only=True)
class PreemptionRow(Cycle):
    """One cycle: job A is cut, job B runs, A is finished; the columns of the file.

    Attributes (those of ``Cycle`` as well):
        session_id: One measurement.
        order: Position in the order of measurement, from 0.
        repeat: Counts repeats of a cell from 0.
        measured_at: When the cycle ended, UTC, ISO 8601.
        engine: Name in the engine registry.
        engine_version: As the engine reports it.
        device: As the user wrote it.
        hardware_id: Short hash of the hardware.
        load_average: System load over one minute when the cycle ended.
        model: A's model.
        weight_bytes: Weights of A's model, bytes.
        gpu_layers: A's layers on the device.
        total_layers: Layers of A's model in all.
        other: B's model.
        other_weight_bytes: Weights of B's model, bytes.
        page_cache: State of both files before each load: ``warm`` or ``cold``.
        prompt_tokens: A's prompt, and B's.
        job_tokens: Tokens that A generates in all.
        other_tokens: Tokens that B generates.
        baseline_s: Computation of A's uninterrupted run: the median of those so far.
        tokens_equal: Whether A's tokens equal those of an uninterrupted run.
        memory_back: Whether both are back near idle: see ``MEMORY_SLACK``.
        predicted_s: What own_s was predicted to be beforehand; missing without a performance model.
        predicted_low_s: Lower end of the 90 % interval of ``predicted_s``.
        predicted_high_s: Upper end of the 90 % interval of ``predicted_s``.
        predicted_out_of_range: Whether the model was asked beyond its data.
    """

    session_id: str
    order: int
    repeat: int
    measured_at: str
    engine: str
    engine_version: str
    device: str
    hardware_id: str
    load_average: float
    model: str
    weight_bytes: int
    gpu_layers: int
    total_layers: int
    other: str
    other_weight_bytes: int
    page_cache: str
    prompt_tokens: int
    job_tokens: int
    other_tokens: int
    baseline_s: float
    tokens_equal: bool
    memory_back: bool
    predicted_s: float | None
    predicted_low_s: float | None
    predicted_high_s: float | None
    predicted_out_of_range: bool


_DTYPES = {"str": "str", "int": "int64", "float": "float64", "float | None": "float64", "bool": "bool"}
_COLUMNS = {f.name: _DTYPES[str(f.type)] for f in fields(PreemptionRow)}


class PreemptionFile:
    """The Parquet file of a measurement; grows cycle by cycle.

    Args:
        path: Path of the file; its rows, if there are any, are kept.

    Attributes:
        rows: All rows so far; shape (n_cycles, fields of PreemptionRow).
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self.rows = read_rows(path) if self._path.exists() else _frame([])

    def append(self, row: PreemptionRow) -> None:
        """Adds a row; readers see the old file or the new one, never a part."""
        fresh = _frame([row])
        self.rows = pd.concat([self.rows, fresh], ignore_index=True) if len(self.rows) else fresh
        table = pa.Table.from_pandas(self.rows, preserve_index=False)
        with replaced(self._path) as temporary:
            pq.write_table(stamped(table, _KIND), temporary)


def _frame(rows: list[PreemptionRow]) -> pd.DataFrame:
    return pd.DataFrame([asdict(row) for row in rows], columns=list(_COLUMNS)).astype(_COLUMNS)


def read_rows(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Reads the file of a measurement.

    Returns:
        Shape (n_cycles, fields of PreemptionRow).

    Raises:
        InputError: There is no such file.
        BrokenFileError: It is truncated, or holds no preemption measurement.
        VersionError: It was written for another schema version.
    """
    return read_versioned_parquet(path, _KIND)[0]
