"""Formats of request traces: which columns hold what, and how they are read and written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import pyarrow as pa

from shunter.envs.workload.gateway_record import TRACE_NAME, GatewayFormat
from shunter.errors import BrokenFileError, InputError
from shunter.files import open_text

__all__ = ["FORMATS"]

_EPOCH = pd.Timestamp("2000-01-01")
_DAMAGE = (
    OSError,
    EOFError,
    UnicodeDecodeError,
    pd.errors.ParserError,
    pd.errors.EmptyDataError,
    pa.ArrowException,
)


class TraceFormat(Protocol):
    """Reads and writes one format.

    Attributes:
        columns: The format's own names of ``arrival_s``, ``prompt_tokens``, ``decode_tokens`` and, where it
            has them, ``model`` and ``session``.
        source: Who publishes traces in it.
    """

    @property
    def columns(self) -> Mapping[str, str]:
        """The format's own names of our columns."""

    @property
    def source(self) -> str:
        """Who publishes traces in it."""

    def read(self, path: Path) -> pd.DataFrame:
        """The file's columns under our names, values as they stand; arrivals in seconds where numeric.

        What was left out on the way is in ``attrs["notes"]``, a line each.

        Raises:
            BrokenFileError: The file is truncated or not of this format.
            InputError: A column is missing.
        """

    def write(self, frame: pd.DataFrame, path: Path) -> None:
        """Writes a checked trace."""


@dataclass(frozen=True)
class CsvFormat:
    """CSV with a header, gzipped if the name ends in ``.gz``."""

    columns: Mapping[str, str]
    source: str
    constants: Mapping[str, Any] = field(default_factory=dict)
    is_timestamp: bool = False

    def read(self, path: Path) -> pd.DataFrame:
        """See ``TraceFormat.read``."""
        try:
            raw = pd.read_csv(path, dtype=str, keep_default_na=False)
        except _DAMAGE as error:
            raise BrokenFileError(path, str(error).splitlines()[0]) from None
        frame = _renamed(raw, self.columns, path)
        if self.is_timestamp:
            # Spelled with or without a fraction or an offset, sometimes in one file.
            times = pd.to_datetime(frame["arrival_s"], format="ISO8601", errors="coerce", utc=True)
            frame["arrival_s"] = (times - times.min()).dt.total_seconds()
        return frame

    def write(self, frame: pd.DataFrame, path: Path) -> None:
        """See ``TraceFormat.write``."""
        out = pd.DataFrame({name: frame[ours] for ours, name in self.columns.items()})
        if self.is_timestamp:
            times = _EPOCH + pd.to_timedelta(frame["arrival_s"], unit="s").dt.round("us")
            out[self.columns["arrival_s"]] = times.dt.strftime("%Y-%m-%d %H:%M:%S.%f")
        for name, value in self.constants.items():
            out[name] = value(frame) if callable(value) else value
        with open_text(path, "wt") as text:
            out.to_csv(text, index=False)


@dataclass(frozen=True)
class JsonLinesFormat:
    """One JSON object a line, times in milliseconds, gzipped if the name ends in ``.gz``."""

    columns: Mapping[str, str]
    source: str

    def read(self, path: Path) -> pd.DataFrame:
        """See ``TraceFormat.read``."""
        rows = []
        try:
            with open_text(path, "rt") as text:
                for number, line in enumerate(text, 1):
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise BrokenFileError(path, f"line {number} is no JSON object")
                    rows.append(row)
        except json.JSONDecodeError as error:
            raise BrokenFileError(path, f"line {len(rows) + 1} is no JSON: {error.msg}") from None
        except _DAMAGE as error:
            raise BrokenFileError(path, str(error)) from None
        frame = _renamed(pd.DataFrame(rows), self.columns, path)
        frame["arrival_s"] = pd.to_numeric(frame["arrival_s"], errors="coerce") / 1e3
        return frame

    def write(self, frame: pd.DataFrame, path: Path) -> None:
        """See ``TraceFormat.write``; without prefix hashes, since our traces know none."""
        with open_text(path, "wt") as text:
            for row in frame.to_dict("records"):
                record = {name: row[ours] for ours, name in self.columns.items()}
                record[self.columns["arrival_s"]] = round(row["arrival_s"] * 1e3)
                text.write(json.dumps({**record, "hash_ids": []}) + "\n")


@dataclass(frozen=True)
class ParquetFormat:
    """Parquet under our own names."""

    columns: Mapping[str, str]
    source: str

    def read(self, path: Path) -> pd.DataFrame:
        """See ``TraceFormat.read``."""
        try:
            raw = pd.read_parquet(path)
        except _DAMAGE as error:
            raise BrokenFileError(path, str(error).splitlines()[0]) from None
        return _renamed(raw, self.columns, path)

    def write(self, frame: pd.DataFrame, path: Path) -> None:
        """See ``TraceFormat.write``."""
        frame.to_parquet(path, index=False)


def _columns(arrival: str, prompt: str, decode: str, **more: str) -> dict[str, str]:
    return {"arrival_s": arrival, "prompt_tokens": prompt, "decode_tokens": decode, **more}


FORMATS: dict[str, TraceFormat] = {
    "azure": CsvFormat(
        _columns("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
        "Azure LLM inference traces 2023 and 2024, https://github.com/Azure/AzurePublicDataset",
        is_timestamp=True,
    ),
    "burstgpt": CsvFormat(
        _columns("Timestamp", "Request tokens", "Response tokens", model="Model", session="Session ID"),
        "BurstGPT, https://github.com/HPMLL/BurstGPT",
        constants={
            "Total tokens": lambda frame: frame["prompt_tokens"] + frame["decode_tokens"],
            "Elapsed time": "",
            "Log Type": "API log",
        },
    ),
    "mooncake": JsonLinesFormat(
        _columns("timestamp", "input_length", "output_length"),
        "Mooncake, https://github.com/kvcache-ai/Mooncake",
    ),
    "vidur": CsvFormat(
        _columns("arrived_at", "num_prefill_tokens", "num_decode_tokens"),
        "Vidur, https://github.com/microsoft/vidur",
    ),
    "shunter": ParquetFormat(
        _columns("arrival_s", "prompt_tokens", "decode_tokens", model="model", session="session"),
        "shunter itself; names a model and a session for every request",
    ),
    "gateway": GatewayFormat("shunter serve --record"),
}
"""Trace formats by name."""


def trace_file(path: Path) -> Path:
    """The file of a trace: the one given, or the requests of a gateway's record whose folder is given."""
    return path / TRACE_NAME if path.is_dir() else path


def detect_format(path: Path) -> str:
    """Names the format that a file's ending or header shows.

    Raises:
        InputError: There is no such file, or none fits.
        BrokenFileError: It cannot be read as text.
    """
    if not path.is_file():
        raise InputError("trace", "be an existing file", str(path))
    if path.suffix == ".parquet":
        return "shunter"
    try:
        with open_text(path, "rt") as text:
            header = text.readline()
    except _DAMAGE as error:
        raise BrokenFileError(path, str(error)) from None
    if header.lstrip().startswith("{"):
        return "gateway" if '"arrival_s"' in header else "mooncake"
    names = {name.strip().strip('"') for name in header.split(",")}
    for name, known in FORMATS.items():
        if isinstance(known, CsvFormat) and known.columns["arrival_s"] in names:
            return name
    rule = "have the header of a known format (" + "; ".join(
        f"{name}: {', '.join(known.columns.values())}" for name, known in FORMATS.items()
    )
    raise InputError(f"{path}: header", f"{rule})", header.strip()[:120])


def _renamed(raw: pd.DataFrame, columns: Mapping[str, str], path: Path) -> pd.DataFrame:
    for ours in ("arrival_s", "prompt_tokens", "decode_tokens"):
        if columns[ours] not in raw:
            raise InputError(f"{path}: columns", f"hold {columns[ours]!r}", sorted(map(str, raw)))
    return pd.DataFrame({ours: raw[name] for ours, name in columns.items() if name in raw})
