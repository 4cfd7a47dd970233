"""Vidur's traces: CSV, in seconds; and its files of lengths, which ShareGPT's are published as, too."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from shunter.envs.workload.formats.base import TraceFormat, columns, write_csv


class VidurFormat(TraceFormat):
    """Three columns."""

    def write(self, frame: pd.DataFrame, path: Path, unread: pd.DataFrame) -> None:
        """See ``TraceFormat.write``."""
        write_csv({name: frame[ours] for ours, name in self.columns.items()}, unread, path)


VIDUR = VidurFormat(
    "Vidur, https://github.com/microsoft/vidur",
    columns("arrived_at", "num_prefill_tokens", "num_decode_tokens"),
    has_fractions=True,
    is_written=True,
)

VIDUR_LENGTHS = TraceFormat(
    "Vidur and Etalon, https://github.com/project-etalon/etalon: lengths without arrivals",
    {"prompt_tokens": "num_prefill_tokens", "decode_tokens": "num_decode_tokens"},
)
