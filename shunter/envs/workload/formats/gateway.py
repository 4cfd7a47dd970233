"""The record of ``shunter serve --record`` as a trace: JSON lines, a request each once it has ended."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from shunter.envs.workload.formats.base import Reading, TraceFormat, columns, records, write_json_lines
from shunter.envs.workload.formats.tables import Table
from shunter.envs.workload.gateway_record import DONE, counts, read_gateway_requests


class GatewayFormat(TraceFormat):
    """Arrivals count from the first request, in order; a killed gateway leaves half a line.

    Of requests that were not answered to their end only those count that were cancelled in mid-answer.
    """

    def matches(self, table: Table) -> bool:
        """See ``TraceFormat.matches``; the first line alone tells, since another may be half of one."""
        first = table.lines[0][1] if table.is_json else ""
        return '"arrival_s"' in first and '"status"' in first

    def nearly_matches(self, table: Table) -> bool:
        """See ``TraceFormat.nearly_matches``; our own format has the same names."""
        return False

    def read(self, table: Table) -> Reading:
        """See ``TraceFormat.read``."""
        frame, notes = read_gateway_requests(table.path)
        kept = counts(frame)
        if not kept.all():
            why = frame["status"][~kept].astype(str).value_counts()
            said = ", ".join(f"{count} {name}" for name, count in why.items())
            notes.append(
                f"{table.path}: {int((~kept).sum())} requests without a whole answer left out ({said})"
            )
        frame = frame.loc[kept, list(self.columns)].reset_index(drop=True)
        frame["arrival_s"] = (frame["arrival_s"] - frame["arrival_s"].min()).round(6)
        return Reading(frame, notes=tuple(notes))

    def write(self, frame: pd.DataFrame, path: Path, unread: pd.DataFrame) -> None:
        """See ``TraceFormat.write``: all were answered, nobody says when."""
        rows = records(frame.assign(status=DONE)[[*self.columns, "status"]])
        write_json_lines(rows, unread, path)


GATEWAY = GatewayFormat(
    "shunter serve --record",
    columns("arrival_s", "prompt_tokens", "decode_tokens", model="model", session="session"),
    says_unit=True,
    is_written=True,
)
