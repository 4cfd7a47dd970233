"""Our own format, names as in the code: Parquet, CSV or JSON lines, as the file's ending says."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from shunter.envs.workload.formats.base import TraceFormat, columns, records, write_csv, write_json_lines
from shunter.files import lasting_name
from shunter.parquet import write_frame


class OwnFormat(TraceFormat):
    """Names a model and a session for every request."""

    def write(self, frame: pd.DataFrame, path: Path, unread: pd.DataFrame) -> None:
        """See ``TraceFormat.write``."""
        ending = Path(lasting_name(path).removesuffix(".gz")).suffix
        if ending == ".csv":
            write_csv({name: frame[name] for name in self.columns}, unread, path)
        elif ending == ".jsonl":
            write_json_lines(records(frame), unread, path)
        else:
            kept = pd.DataFrame({name: unread[name].to_numpy() for name in unread}, frame.index)
            write_frame(pd.concat([frame, kept], axis=1), path)


OWN = OwnFormat(
    "shunter itself; names a model and a session for every request",
    columns("arrival_s", "prompt_tokens", "decode_tokens", model="model", session="session"),
    says_unit=True,
    is_written=True,
)
