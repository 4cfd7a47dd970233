"""RAGPulse's traces: Mooncake's keys, the hashes by the part of the prompt that they are of, in seconds."""

from __future__ import annotations

from shunter.envs.workload.formats.base import TraceFormat, columns
from shunter.envs.workload.formats.tables import Table


class RagPulseFormat(TraceFormat):
    """Times are whole seconds, as texts."""

    def matches(self, table: Table) -> bool:
        """See ``TraceFormat.matches``."""
        return super().matches(table) and any(isinstance(ids, dict) for ids in table.rows["hash_ids"].head(1))


RAGPULSE = RagPulseFormat(
    "RAGPulse, https://github.com/flashserve/RAGPulse",
    columns("timestamp", "input_length", "output_length", session="session_id"),
    keys=frozenset({"hash_ids"}),
)
