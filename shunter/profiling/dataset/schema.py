"""The profile dataset's columns: names, types, units and rules, as data.

One row is one measured operation of one repeat. Memory is what the engine's process and device held after
the operation; the ``*_before`` columns hold it just before the model was loaded, with nothing resident, so
that the difference is the footprint of this one resident.

Conditions (background load, clocks, temperature, swapping) are those of the unit of work that the operation
was part of; energy is that of the whole operation, for a decode all its steps. What a machine does not report
is missing. Nothing is left out for a bad condition: ``is_outlier`` flags rows, and whoever reads the dataset
decides.
* Summaries: take a configuration's median over all of its rows; it needs no exclusion.
* Fits by squared errors: leave flagged rows out, or weigh them down, and say how many they were.
* Tails (what a user waits at worst): keep them, they are real.

Rows that ``shunter dataset import`` took from other tools say so in ``source``. They have no memory, no load
and no conditions, since these tools do not say them: missing, not 0.

Datasets of older schema versions (1 lacks the conditions and the flag, 2 the attention heads, 3 what cycles
of preemption bring, 4 windows, experts and tied embeddings, the source, and what runs elsewhere differ in)
are read with missing values in their place (``upgraded``).
"""

from __future__ import annotations

import os
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from shunter.errors import InputError, VersionError

__all__ = ["COLUMNS", "LEAST_BYTES_PER_S", "SCHEMA_VERSION", "frame_of", "validate"]

SCHEMA_VERSION = 5
READABLE_VERSIONS = (1, 2, 3, 4, SCHEMA_VERSION)
_FILL = {"bool": False, "str": ""}
_COUNTED = ("layers", "tokens", "experts", "heads", "threads", "GPUs")
LEAST_BYTES_PER_S = 10**8
"""No memory is slower: what is less was written in GB/s, or in MB/s."""

OPERATIONS = ("load", "unload", "prefill", "decode", "kv_save", "kv_restore")


@dataclass(frozen=True)
class Column:
    """One column of the dataset.

    Attributes:
        name: Name of the column, with the unit as suffix where it has one.
        dtype: ``str``, ``int64``, ``float64`` or ``bool``; only floats can be missing (NaN).
        unit: Unit of the values; empty for names and flags.
        meaning: One line.
        nullable: Whether NaN is allowed.
        minimum: Smallest allowed value.
        choices: The allowed values, where they are few.
        since: Schema version that brought it.
    """

    name: str
    dtype: str
    unit: str
    meaning: str
    nullable: bool = False
    minimum: float | None = None
    choices: tuple[str, ...] = ()
    since: int = 1

    @property
    def counts(self) -> bool:
        """Whether it counts what cannot be halved, be it a float only because it can be missing."""
        return self.dtype == "int64" or (self.nullable and self.unit in _COUNTED)


def _condition(name: str, unit: str, meaning: str, since: int = 2) -> Column:
    return Column(name, "float64", unit, meaning, nullable=True, minimum=0, since=since)


def _family(name: str, unit: str, meaning: str) -> Column:
    return Column(name, "float64", unit, meaning, nullable=True, minimum=0, since=5)


COLUMNS = (
    Column("schema_version", "int64", "", "version of this schema", minimum=SCHEMA_VERSION),
    Column("row_id", "str", "", "unique: session, unit of work and operation"),
    Column("cell_id", "str", "", "hash of what was asked; repeats of one measurement share it"),
    Column("session_id", "str", "", "one sweep"),
    Column("measured_at", "str", "", "when the row was written, UTC, ISO 8601"),
    Column("engine", "str", "", "name in the engine registry"),
    Column("engine_version", "str", "", "as the engine reports it"),
    Column("device", "str", "", "the hardware, named without its memory budget"),
    Column("device_kind", "str", "", "cpu, cuda or loopback"),
    Column("device_threads", "float64", "threads", "CPU threads of the device", nullable=True, minimum=1),
    Column("device_memory_bytes", "float64", "bytes", "budget; missing: no limit", nullable=True, minimum=1),
    Column("hardware_id", "str", "", "short hash of the hardware"),
    Column("hardware", "str", "", "CPU, cores, RAM, GPUs and kernel as JSON"),
    Column("versions", "str", "", "Python, engine and library versions as JSON"),
    _condition("load_average", "processes", "system load over 1 min when the row was written", since=1),
    Column("model", "str", "", "the checkpoint's name"),
    Column("checkpoint_format", "str", "", "gguf or safetensors"),
    Column("quantization", "str", "", "dominating weight type"),
    Column("params", "int64", "parameters", "all parameters", minimum=1),
    Column("weight_bytes", "int64", "bytes", "all tensors", minimum=1),
    Column("layer_weight_bytes", "int64", "bytes", "one transformer layer, mean", minimum=1),
    Column("layers", "int64", "layers", "transformer layers", minimum=1),
    Column("total_layers", "int64", "layers", "transformer layers and the output layer", minimum=2),
    Column("hidden_size", "int64", "elements", "width of the residual stream", minimum=1),
    Column("attn_heads", "float64", "heads", "query heads of a layer", nullable=True, minimum=1, since=3),
    Column("kv_bytes_per_token", "float64", "bytes", "keys and values of one token in FP16", minimum=1),
    Column("vocab_size", "int64", "tokens", "rows of the embedding", minimum=1),
    _family("windowed_layers", "layers", "layers that keep a window of keys and values only"),
    _family("window_tokens", "tokens", "length of that window"),
    _family("experts", "experts", "routed experts of a layer; 0: its MLP is dense"),
    _family("experts_used", "experts", "experts that a token is sent to"),
    _family("expert_share", "", "share of the layers' bytes that routed experts are"),
    _family("tied_bytes", "bytes", "an embedding that is the output layer too, and on both sides"),
    Column("operation", "str", "", "what was measured", choices=OPERATIONS),
    Column("gpu_layers", "int64", "layers", "layers on the device", minimum=0),
    Column("offload_ratio", "float64", "", "1 - gpu_layers / total_layers", minimum=0),
    Column("page_cache", "str", "", "file state before a load", choices=("warm", "cold")),
    Column("batch", "int64", "requests", "requests that the operation worked on", minimum=1),
    Column("prompt_tokens", "int64", "tokens", "prompt of each request", minimum=0),
    Column("decode_tokens", "int64", "tokens", "tokens generated for each request", minimum=0),
    Column("tokens", "int64", "tokens", "prefill: tokens processed; kv_*: tokens held", minimum=0),
    Column("context_tokens", "float64", "tokens", "decode: mean tokens in cache per request", minimum=0),
    Column("max_batch", "int64", "requests", "the load's limit", minimum=1),
    Column("max_context_tokens", "int64", "tokens", "the load's limit per request", minimum=1),
    Column("repeat", "int64", "", "counts repeats of a unit of work from 0", minimum=0),
    Column("duration_s", "float64", "s", "of the operation; decode: mean per step", minimum=0),
    Column("step_p50_s", "float64", "s", "decode: median step", nullable=True, minimum=0),
    Column("first_step_s", "float64", "s", "decode: first step", nullable=True, minimum=0, since=4),
    Column("gap_s", "float64", "s", "cycle: since the operation before", nullable=True, since=4),
    Column("output", "str", "", "cycle, or its run: hash of all tokens of the request", since=4),
    Column("steps", "int64", "steps", "decode: steps run", minimum=0),
    Column("tokens_per_s", "float64", "tokens/s", "prefill and decode", nullable=True, minimum=0),
    Column("kv_bytes", "float64", "bytes", "kv_*: bytes copied", nullable=True, minimum=0),
    Column("includes_process_start", "bool", "", "load: whether the time holds a process start"),
    _condition("device_bytes_before", "bytes", "device memory just before the load", since=1),
    _condition("host_bytes_before", "bytes", "host memory just before the load", since=1),
    _condition("device_bytes", "bytes", "device memory after the operation", since=1),
    _condition("host_bytes", "bytes", "host memory after the operation", since=1),
    _condition("background_cores", "cores", "CPU cores busy with others' work while the unit ran"),
    _condition("cpu_clock_mhz", "MHz", "mean over the CPU's cores, at the end of the unit"),
    _condition("swapped_bytes", "bytes", "moved from or to swap, by anybody, while the unit ran"),
    _condition("memory_stall_s", "s", "all tasks waited for memory at once (PSI full) while the unit ran"),
    _condition("cpu_energy_j", "J", "CPU packages (RAPL) during the operation, other work included"),
    _condition("device_energy_j", "J", "the GPU (NVML) during the operation, idle power included"),
    _condition("sm_clock_mhz", "MHz", "the GPU's SM clock just after the operation"),
    _condition("device_temperature_c", "°C", "the GPU's just after the operation"),
    _condition("throttle_reasons", "", "NVML's bit mask of why its clock is held back; 0: it is not"),
    Column(
        "is_outlier", "bool", "", "far from its configuration's median; kept, flagged at a write", since=2
    ),
    Column(
        "source", "str", "", "tool and file that the row was imported from; empty: measured here", since=5
    ),
    Column(
        "gpu_count", "float64", "GPUs", "that share the layers; missing: 1", nullable=True, minimum=1, since=5
    ),
    Column(
        "kv_on_host", "float64", "", "1: KV is in host memory wherever layers are", nullable=True, since=5
    ),
    Column(
        "host_bandwidth_bytes_per_s",
        "float64",
        "bytes/s",
        "the host's peak memory bandwidth",
        nullable=True,
        minimum=LEAST_BYTES_PER_S,
        since=5,
    ),
)


def frame_of(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Builds a frame in the schema's column order and types.

    Args:
        rows: Mappings with every column; None stands for a missing number.
    """
    frame = pd.DataFrame(list(rows), columns=[c.name for c in COLUMNS])
    return frame.astype({c.name: c.dtype for c in COLUMNS})


def empty_frame() -> pd.DataFrame:
    """A dataset without rows."""
    return frame_of([])


def readable_version(said: object, path: str | os.PathLike[str]) -> int:
    """The schema version that a file says it was written for.

    Raises:
        VersionError: It is not one of ``READABLE_VERSIONS``.
    """
    found = [version for version in READABLE_VERSIONS if str(version) == str(said)]
    if not found:
        raise VersionError(path, "the dataset schema", said, SCHEMA_VERSION)
    return found[0]


def upgraded(frame: pd.DataFrame, version: int) -> pd.DataFrame:
    """A frame of an older schema version in the columns of this one, what it lacks filled in as missing.

    Args:
        frame: The dataset as it was read.
        version: One of ``READABLE_VERSIONS``.
    """
    return frame.assign(**_lacking(frame, version)) if version < SCHEMA_VERSION else frame


def upgraded_row(row: Mapping[str, Any], version: int) -> dict[str, Any]:
    """A row of an older schema version with the columns of this one; as ``upgraded`` for a frame."""
    return {**row, **_lacking(row, version)}


def _lacking(held: Container[str], version: int) -> dict[str, Any]:
    """What a version's rows lack: numbers are missing, flags not raised, texts empty."""
    late = [column for column in COLUMNS if column.since > version and column.name not in held]
    fill = {column.name: _FILL.get(column.dtype, float("nan")) for column in late}
    return {**fill, "schema_version": SCHEMA_VERSION}


def validate(frame: pd.DataFrame, path: str | os.PathLike[str]) -> pd.DataFrame:
    """Checks a frame against the schema.

    Args:
        frame: Any frame.
        path: Where it came from; named in errors.

    Returns:
        The frame, columns in the schema's order and types.

    Raises:
        InputError: Columns are missing or unknown, or a value breaks its column's rule; the error names the
            row, the column, the rule and the value.
    """
    names = [c.name for c in COLUMNS]
    missing, unknown = sorted(set(names) - set(frame)), sorted(set(map(str, frame)) - set(names))
    if missing or unknown:
        rule = f"have exactly the columns of schema version {SCHEMA_VERSION}"
        raise InputError(str(path), rule, f"missing: {missing}, unknown: {unknown}")
    for column in COLUMNS:
        _check_column(frame[column.name], column, path)
    return frame[names].astype({c.name: c.dtype for c in COLUMNS})


def _check_column(values: pd.Series[Any], column: Column, path: str | os.PathLike[str]) -> None:
    if column.dtype in ("int64", "float64") and not pd.api.types.is_numeric_dtype(values):
        raise InputError(f"{path}: column {column.name}", f"hold numbers ({column.dtype})", str(values.dtype))
    if not column.nullable:
        _check(values.notna(), values, column, "not be missing", path)
    if column.counts:
        _check(values.isna() | (values % 1 == 0), values, column, "be a whole number", path)
    if column.minimum is not None:
        _check(
            values.isna() | (values >= column.minimum),
            values,
            column,
            f"be at least {column.minimum:g}",
            path,
        )
    if column.choices:
        _check(values.isin(column.choices), values, column, f"be one of {', '.join(column.choices)}", path)


def _check(
    good: pd.Series[bool], values: pd.Series[Any], column: Column, rule: str, path: str | os.PathLike[str]
) -> None:
    if not good.all():
        position = int((~good).to_numpy().argmax())
        raise InputError(f"{path}: row {position}, column {column.name}", rule, values.iloc[position])
