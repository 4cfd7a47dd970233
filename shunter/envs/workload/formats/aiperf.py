"""AIPerf's ``profile_export.jsonl``: a JSON object a request, what it was and what was measured."""

from __future__ import annotations

from typing import Any

import pandas as pd

from shunter.envs.workload.formats.base import Reading, TraceFormat, columns, numbers, records
from shunter.envs.workload.formats.tables import Table

_WHERE = {
    "arrival_s": ("metadata", "request_start_ns"),
    "prompt_tokens": ("metrics", "input_sequence_length", "value"),
    "decode_tokens": ("metrics", "output_sequence_length", "value"),
    "session": ("metadata", "x_correlation_id"),
}

_UNREAD = ("error", *(".".join(keys[:2]) for keys in _WHERE.values()))


class AiperfFormat(TraceFormat):
    """Times are nanoseconds since 1970, when a request was sent; rows are in the order of their ends."""

    def matches(self, table: Table) -> bool:
        """See ``TraceFormat.matches``."""
        return table.keys >= {"metadata", "metrics"}

    def read(self, table: Table) -> Reading:
        """See ``TraceFormat.read``; requests that failed or warmed the server up are left out."""
        rows = records(table.rows)
        frame = pd.DataFrame(
            {ours: [inside(row, *keys) for row in rows] for ours, keys in _WHERE.items()}, dtype=object
        )
        failed = pd.Series([_is_failed(row) for row in rows], dtype=bool)
        others = pd.Series(
            [inside(row, "metadata", "benchmark_phase") not in (None, "profiling") for row in rows]
        )
        notes = tuple(
            f"{table.path}: {int(which.sum())} requests that {what} left out"
            for which, what in ((failed, "failed"), (others & ~failed, "were no part of the measurement"))
            if which.any()
        )
        unread = pd.json_normalize(rows, max_level=1).drop(columns=list(_UNREAD), errors="ignore")
        frame = frame.loc[~failed & ~others]
        sent = numbers(frame["arrival_s"])
        frame = frame.assign(arrival_s=sent - sent.min())
        return Reading(frame, self.unit, unread, notes)


def inside(value: Any, *keys: str) -> Any:
    """What a JSON object holds under a path of keys; None where there is nothing."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _is_failed(row: dict[str, Any]) -> bool:
    has_failed = isinstance(row.get("error"), dict) or inside(row, "metadata", "was_cancelled") is True
    return has_failed or not isinstance(row.get("metrics"), dict)


AIPERF = AiperfFormat(
    "AIPerf's profile_export.jsonl, https://github.com/ai-dynamo/aiperf",
    columns(
        "metadata.request_start_ns",
        "metrics.input_sequence_length",
        "metrics.output_sequence_length",
        session="metadata.x_correlation_id",
    ),
    unit="ns",
    says_unit=True,
    is_sorted=False,
)
