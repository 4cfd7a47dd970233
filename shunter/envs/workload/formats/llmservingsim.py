"""LLMServingSim's workloads: JSON lines, formerly TSV, in nanoseconds."""

from __future__ import annotations

from shunter.envs.workload.formats.base import Reading, TraceFormat, columns, is_blank
from shunter.envs.workload.formats.tables import Table
from shunter.errors import InputError


class LlmServingSimFormat(TraceFormat):
    """Independent requests in any order; sessions of calls that wait for answers are no trace."""

    def matches(self, table: Table) -> bool:
        """See ``TraceFormat.matches``."""
        return super().matches(table) or table.keys >= {"arrival_time_ns", "sub_requests"}

    def read(self, table: Table) -> Reading:
        """See ``TraceFormat.read``."""
        for row, calls in enumerate(table.rows.get("sub_requests", ()), 1):
            if not is_blank(calls):
                rule = "not be given: each but the first waits for an answer, and a trace has arrivals"
                count = len(calls) if isinstance(calls, list) else calls
                raise InputError(f"{table.path}: sub_requests, row {row}", rule, count)
        return super().read(table)


LLMSERVINGSIM = LlmServingSimFormat(
    "LLMServingSim, https://github.com/casys-kaist/LLMServingSim",
    columns("arrival_time_ns", "input_toks", "output_toks"),
    unit="ns",
    says_unit=True,
    is_sorted=False,
)
