"""ServeGen's requests as it saves them, CSV in seconds, and the lengths of its offline traces."""

from __future__ import annotations

from dataclasses import replace

from shunter.envs.workload.formats.base import Reading, TraceFormat, columns
from shunter.envs.workload.formats.tables import Table

_DOCUMENTED = frozenset({"request_id", "timestamp", "input_tokens", "output_tokens", "reason_ratio"})


class ServeGenFormat(TraceFormat):
    """Whatever else has columns of these three names may be in any unit."""

    def read(self, table: Table) -> Reading:
        """See ``TraceFormat.read``."""
        reading = super().read(table)
        is_known = "request_id" in table.keys and table.keys <= _DOCUMENTED
        return reading if is_known else replace(reading, unit=None)


SERVEGEN = ServeGenFormat(
    "ServeGen, https://github.com/alibaba/ServeGen",
    columns("timestamp", "input_tokens", "output_tokens"),
    has_fractions=True,
)

SERVEGEN_OFFLINE = TraceFormat(
    "ServeGen's offline traces, https://github.com/alibaba/ServeGen: lengths without arrivals",
    {"prompt_tokens": "input_length", "decode_tokens": "output_length"},
    keys=frozenset({"request_id", "duration"}),
)
