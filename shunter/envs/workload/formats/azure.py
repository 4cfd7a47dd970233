"""Azure's traces: CSV with dates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from shunter.envs.workload.formats.base import Reading, TraceFormat, columns, since_first, write_csv
from shunter.envs.workload.formats.tables import Table

_EPOCH = pd.Timestamp("2000-01-01")


class AzureFormat(TraceFormat):
    """Arrivals are dates, counted from the first request."""

    def read(self, table: Table) -> Reading:
        """See ``TraceFormat.read``."""
        reading = super().read(table)
        return replace(reading, frame=reading.frame.assign(arrival_s=lambda f: since_first(f["arrival_s"])))

    def write(self, frame: pd.DataFrame, path: Path, unread: pd.DataFrame) -> None:
        """See ``TraceFormat.write``; to the microsecond."""
        times = _EPOCH + pd.to_timedelta(frame["arrival_s"], unit="s").dt.round("us")
        out = {
            "TIMESTAMP": times.dt.strftime("%Y-%m-%d %H:%M:%S.%f"),
            "ContextTokens": frame["prompt_tokens"],
            "GeneratedTokens": frame["decode_tokens"],
        }
        write_csv(out, unread, path)


AZURE = AzureFormat(
    "Azure LLM inference traces 2023 to 2025, https://github.com/Azure/AzurePublicDataset",
    columns("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    says_unit=True,
    is_written=True,
)
