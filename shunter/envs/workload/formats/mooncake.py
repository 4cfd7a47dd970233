"""Mooncake's traces and AIPerf's of the same form: JSON lines, in milliseconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from shunter.envs.workload.formats.base import (
    Reading,
    TraceFormat,
    columns,
    is_blank,
    numbers,
    records,
    write_json_lines,
)
from shunter.envs.workload.formats.tables import Table
from shunter.errors import InputError

_DOCUMENTED = frozenset(
    {"timestamp", "input_length", "output_length", "hash_ids", "session_id", "delay", "type", "extra"}
    | {"text_input", "messages", "message_mode", "tools", "payload"}
)
"""Keys of Mooncake's traces and of AIPerf's ``mooncake_trace``, whose times are in milliseconds."""


class MooncakeFormat(TraceFormat):
    """Whole milliseconds under the documented keys; whatever else has the three keys may be in any unit."""

    def read(self, table: Table) -> Reading:
        """See ``TraceFormat.read``."""
        _refuse_delays(table)
        reading = super().read(table)
        times = reading.frame["arrival_s"]
        counted = numbers(times)
        says = table.keys <= _DOCUMENTED and counted.mod(1).fillna(0).eq(0).all()
        if table.is_json and times[counted.notna()].map(_is_text).any():  # what is no number is a row's fault
            says = False
        return reading if says else replace(reading, unit=None)

    def write(self, frame: pd.DataFrame, path: Path, unread: pd.DataFrame) -> None:
        """See ``TraceFormat.write``; to the millisecond, sessions only where there are any."""
        rows = []
        has_sessions, has_hashes = frame["session"].ne("").any(), "hash_ids" in unread
        for row in records(frame):
            line = {name: row[ours] for ours, name in self.columns.items() if ours != "session"}
            line["timestamp"] = round(row["arrival_s"] * 1e3)
            session = {"session_id": row["session"]} if has_sessions and row["session"] else {}
            rows.append(line | session | ({} if has_hashes else {"hash_ids": []}))
        write_json_lines(rows, unread, path)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _refuse_delays(table: Table) -> None:
    """A request that is sent some time after an answer arrives when the answer is there: no trace knows when.

    Raises:
        InputError: There is one.
    """
    for row, delay in enumerate(table.rows.get("delay", ()), 1):
        if not is_blank(delay):
            rule = "not be given: it counts from an answer, and a trace has arrivals (see closed_loop)"
            raise InputError(f"{table.path}: delay, row {row}", rule, delay)


MOONCAKE = MooncakeFormat(
    "Mooncake, https://github.com/kvcache-ai/Mooncake, and AIPerf, https://github.com/ai-dynamo/aiperf",
    columns("timestamp", "input_length", "output_length", session="session_id"),
    unit="ms",
    is_written=True,
)
