"""BurstGPT's traces: CSV, in seconds."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from shunter.envs.workload.formats.base import TraceFormat, columns, write_csv


class BurstGptFormat(TraceFormat):
    """Six columns in its first version; with sessions and durations, eight, in its second."""

    def write(self, frame: pd.DataFrame, path: Path, unread: pd.DataFrame) -> None:
        """See ``TraceFormat.write``; what kind of log it was, our traces do not know."""
        out = {name: frame[ours] for ours, name in self.columns.items()}
        out["Total tokens"] = frame["prompt_tokens"] + frame["decode_tokens"]
        for name in ("Elapsed time", "Log Type"):
            out[name] = unread[name] if name in unread else pd.Series("", frame.index)
        write_csv(out, unread, path)


BURSTGPT = BurstGptFormat(
    "BurstGPT, https://github.com/HPMLL/BurstGPT",
    columns("Timestamp", "Request tokens", "Response tokens", model="Model", session="Session ID"),
    is_written=True,
)
