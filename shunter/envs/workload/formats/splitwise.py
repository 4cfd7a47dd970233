"""splitwise-sim's traces: CSV, in seconds."""

from __future__ import annotations

from shunter.envs.workload.formats.base import Reading, TraceFormat, columns
from shunter.envs.workload.formats.tables import Table
from shunter.errors import InputError


class SplitwiseFormat(TraceFormat):
    """A row can be a batch of several requests; here each is one."""

    def read(self, table: Table) -> Reading:
        """See ``TraceFormat.read``."""
        for row, size in enumerate(table.rows.get("batch_size", ()), 1):
            if str(size).strip() != "1":
                raise InputError(f"{table.path}: batch_size, row {row}", "be 1", size)
        return super().read(table)


SPLITWISE = SplitwiseFormat(
    "splitwise-sim, https://github.com/Mutinifni/splitwise-sim",
    columns("arrival_timestamp", "prompt_size", "token_size"),
    has_fractions=True,
)
