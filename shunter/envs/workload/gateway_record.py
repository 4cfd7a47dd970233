"""What a gateway wrote down of its requests (``shunter serve --record``), as a table and as a trace."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shunter.errors import BrokenFileError, InputError
from shunter.files import open_text

__all__ = ["TRACE_NAME", "counts", "read_gateway_requests"]

TRACE_NAME = "requests.jsonl"
"""Name of the file in the folder of a record."""

REQUIRED = ("arrival_s", "model", "prompt_tokens", "decode_tokens", "status")
OPTIONAL = ("session", "first_token_s", "finish_s", "sent_s", "device", "device_name", "endpoint")
DONE, CANCELLED = "done", "cancelled"


def read_gateway_requests(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """All requests of a record, in order of arrival, whatever became of them.

    Args:
        path: The file ``requests.jsonl``, gzipped or not.

    Returns:
        A row per request: ``arrival_s`` (seconds since 1970), ``model``, ``prompt_tokens``,
        ``decode_tokens``, ``status``, and, missing where they never came to be, ``first_token_s`` and
        ``finish_s`` (seconds since its arrival); and what was left out, a line each. A gateway that was
        killed leaves half a line, which is left out.

    Raises:
        BrokenFileError: It cannot be read, or no line is whole.
        InputError: A field is missing.
    """
    rows, halves = [], 0
    try:
        with open_text(path, "rt") as text:
            for line in text:
                row = _row(line)
                halves += row is None
                if row is not None:
                    rows.append(row)
    except (OSError, EOFError, UnicodeDecodeError, gzip.BadGzipFile) as error:
        raise BrokenFileError(path, str(error)) from None
    if not rows:
        raise BrokenFileError(path, "no line is a whole request" if halves else "it holds no requests")
    frame = pd.DataFrame(rows)
    for name in REQUIRED:
        if name not in frame:
            raise InputError(f"{path}: fields", f"hold {name!r}", sorted(map(str, frame)))
    frame = frame.reindex(columns=[*REQUIRED, *OPTIONAL])
    frame["session"] = frame["session"].fillna("")
    for name in ("arrival_s", "prompt_tokens", "decode_tokens", "first_token_s", "finish_s", "sent_s"):
        frame[name] = pd.to_numeric(frame[name], errors="coerce")
    notes = [f"{path}: {halves} half-written lines left out"] if halves else []
    return frame.sort_values("arrival_s", kind="stable", ignore_index=True), notes


def counts(frame: pd.DataFrame) -> pd.Series[bool]:
    """Which requests count as traffic: those that were answered, and those cancelled in mid-answer.

    What was cancelled in mid-answer kept its server busy for as many tokens as it got. How long the others
    would have become nobody knows: those that failed, that waited too long, or left before a first token.
    """
    cut_short = (frame["status"] == CANCELLED) & (frame["decode_tokens"] >= 1)
    return (frame["status"] == DONE) | cut_short


def _row(line: str) -> dict[str, Any] | None:
    """The line's request; None: it is half of one."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) else None


@dataclass(frozen=True)
class GatewayFormat:
    """One JSON object a line for each request that has ended, as gateways write them.

    Arrivals count from the first request, in order; of requests that were not answered to their end only
    those count that were cancelled in mid-answer (``counts``).
    """

    source: str
    columns: Mapping[str, str] = field(
        default_factory=lambda: {
            name: name for name in ("arrival_s", "prompt_tokens", "decode_tokens", "model", "session")
        }
    )

    def read(self, path: Path) -> pd.DataFrame:
        """See ``TraceFormat.read``; what was left out is in ``attrs["notes"]``."""
        frame, notes = read_gateway_requests(path)
        kept = counts(frame)
        if not kept.all():
            why = frame["status"][~kept].value_counts()
            said = ", ".join(f"{count} {name}" for name, count in why.items())
            notes.append(f"{path}: {int((~kept).sum())} requests without a whole answer left out ({said})")
        frame = frame.loc[kept, list(self.columns)].reset_index(drop=True)
        frame["arrival_s"] = (frame["arrival_s"] - frame["arrival_s"].min()).round(6)
        frame.attrs["notes"] = notes
        return frame

    def write(self, frame: pd.DataFrame, path: Path) -> None:
        """See ``TraceFormat.write``: all were answered, nobody says when."""
        with open_text(path, "wt") as text:
            for row in frame.to_dict("records"):
                line = {name: row[name] for name in self.columns} | {"status": DONE}
                text.write(json.dumps(line, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)
