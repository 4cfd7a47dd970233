"""Rows of a preemption measurement, their Parquet file, and the paper's own figures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from importlib.resources import files
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from shunter.errors import BrokenFileError, InputError, VersionError

__all__ = [
    "OWN_PARTS",
    "PARTS",
    "SCHEMA_VERSION",
    "PreemptionRow",
    "paper_figures",
    "read_rows",
    "write_rows",
]

SCHEMA_VERSION = 1
OWN_PARTS = ("kv_save_s", "unload_a_s", "load_a_s", "kv_restore_s")
"""What the preempted model itself costs: what ``PerformanceModel.preemption_cost_s`` predicts."""

PARTS = (*OWN_PARTS, "load_b_s", "unload_b_s", "other_s")
"""All of a cycle that is neither job's own computation."""

_VERSION_KEY = b"shunter_preemption_schema"


@dataclass(frozen=True)
class PreemptionRow:
    """One cycle: job A is cut, job B runs, A is finished. Times in seconds, memory in bytes.

    Attributes:
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
        weight_bytes: Of A's model.
        gpu_layers: A's layers on the device.
        total_layers: Of A's model.
        other: B's model.
        other_weight_bytes: Of B's model.
        page_cache: State of both files before each load: ``warm`` or ``cold``.
        prompt_tokens: A's prompt, and B's.
        job_tokens: Tokens that A generates in all.
        other_tokens: Tokens that B generates.
        cut_tokens: Tokens that A had generated when it was cut.
        kv_tokens: Tokens in A's KV cache then.
        kv_mode: ``save``, or ``recompute`` where the engine cannot save: kv_restore_s is then a prefill.
        kv_bytes: Bytes of KV saved; 0 for recompute.
        kv_save_s: Copying A's KV to host memory.
        unload_a_s: Freeing A.
        load_b_s: Loading B.
        unload_b_s: Freeing B.
        load_a_s: Loading A again.
        kv_restore_s: Bringing A's KV back.
        other_s: The rest of the overhead: between the engine's calls, memory checks included.
        overhead_s: The cycle less A's and B's computation; the sum of the seven parts.
        own_s: The four parts that A itself costs.
        compute_a_s: A's prefill and decoding.
        compute_b_s: B's prefill and decoding.
        resume_step_s: A's first step after it was resumed.
        step_p50_s: A's median step after that.
        baseline_s: Computation of A's uninterrupted run: the median of those so far.
        tokens_equal: Whether A's tokens equal those of an uninterrupted run.
        device_bytes_idle: Device memory with nothing resident.
        device_bytes_loaded: With A resident.
        device_bytes_after_unload_a: After A was unloaded (its saved KV may be in the same memory).
        device_bytes_after_unload_b: After B was unloaded.
        memory_back: Whether both are back near idle: see ``MEMORY_SLACK``.
        predicted_s: What own_s was predicted to be beforehand; missing without a performance model.
        predicted_low_s: Lower end of its 90 % interval.
        predicted_high_s: Upper end.
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
    cut_tokens: int
    kv_tokens: int
    kv_mode: str
    kv_bytes: int
    kv_save_s: float
    unload_a_s: float
    load_b_s: float
    unload_b_s: float
    load_a_s: float
    kv_restore_s: float
    other_s: float
    overhead_s: float
    own_s: float
    compute_a_s: float
    compute_b_s: float
    resume_step_s: float
    step_p50_s: float
    baseline_s: float
    tokens_equal: bool
    device_bytes_idle: int
    device_bytes_loaded: int
    device_bytes_after_unload_a: int
    device_bytes_after_unload_b: int
    memory_back: bool
    predicted_s: float | None
    predicted_low_s: float | None
    predicted_high_s: float | None
    predicted_out_of_range: bool


_DTYPES = {"str": "str", "int": "int64", "float": "float64", "float | None": "float64", "bool": "bool"}


def write_rows(rows: Sequence[PreemptionRow], path: str | os.PathLike[str]) -> None:
    """Writes rows as Parquet; readers see the old file or the new one, never a part."""
    path = Path(path)
    frame = pd.DataFrame([asdict(row) for row in rows], columns=[f.name for f in fields(PreemptionRow)])
    frame = frame.astype({f.name: _DTYPES[str(f.type)] for f in fields(PreemptionRow)})
    table = pa.Table.from_pandas(frame, preserve_index=False)
    metadata = {**(table.schema.metadata or {}), _VERSION_KEY: str(SCHEMA_VERSION).encode()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        pq.write_table(table.replace_schema_metadata(metadata), temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_rows(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Reads what ``write_rows`` wrote.

    Returns:
        Shape (n_cycles, fields of PreemptionRow).

    Raises:
        InputError: There is no such file.
        BrokenFileError: It is truncated, or holds no preemption measurement.
        VersionError: It was written for another schema version.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("measurement", "be an existing Parquet file", str(path))
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise BrokenFileError(path, str(error).splitlines()[0]) from error
    version = (table.schema.metadata or {}).get(_VERSION_KEY)
    if version is None:
        raise BrokenFileError(path, "it is no preemption measurement: its metadata name no schema version")
    if version.decode() != str(SCHEMA_VERSION):
        raise VersionError(path, "the preemption schema", version.decode(), SCHEMA_VERSION)
    frame: pd.DataFrame = table.to_pandas()
    return frame


def paper_figures() -> pd.DataFrame:
    """The seed paper's preemption figures, as summarised, one a row.

    Returns:
        Columns table, model, weight_gb, gpu, metric, value, unit, provenance and more.

    Source: ``shunter/data/paper_preemption.csv``; arXiv 2605.19593, Tables II and III.
    """
    with files("shunter.data").joinpath("paper_preemption.csv").open(encoding="utf-8") as text:
        return pd.read_csv(text)
