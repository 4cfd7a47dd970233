"""What a gateway wrote down of its requests (``shunter serve --record``), as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from shunter.envs.workload.formats.base import numbers
from shunter.envs.workload.formats.tables import Table, json_or_none
from shunter.errors import BrokenFileError, InputError
from shunter.seals import DIGEST, unsealed

__all__ = ["TRACE_NAME", "counts", "is_sealed_record", "read_gateway_requests"]

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
        BrokenFileError: It cannot be read, no line is whole, or one was changed since it was written (older
            gateways wrote no digests).
        InputError: A field is missing.
    """
    found = [(number, json_or_none(line)) for number, line in Table(path).lines]
    rows = [_unsealed(path, number, row) for number, row in found if isinstance(row, dict)]
    halves = len(found) - len(rows)
    if not rows:
        raise BrokenFileError(path, "no line is a whole request" if halves else "it holds no requests")
    frame = pd.DataFrame(rows)
    for name in REQUIRED:
        if name not in frame:
            raise InputError(f"{path}: fields", f"hold {name!r}", sorted(map(str, frame)))
    frame = frame.reindex(columns=[*REQUIRED, *OPTIONAL])
    frame["session"] = frame["session"].fillna("")
    for name in ("arrival_s", "prompt_tokens", "decode_tokens", "first_token_s", "finish_s", "sent_s"):
        frame[name] = numbers(frame[name])
    notes = [f"{path}: {halves} half-written lines left out"] if halves else []
    return frame.sort_values("arrival_s", kind="stable", ignore_index=True), notes


def is_sealed_record(path: Path) -> bool:
    """Whether every line of a record is whole and holds a digest."""
    rows = [json_or_none(line) for _, line in Table(path).lines]
    return all(isinstance(row, dict) and DIGEST in row for row in rows)


def _unsealed(path: Path, number: int, row: dict[str, Any]) -> dict[str, Any]:
    meant = f"line {number} (if its change was meant, take {DIGEST} out of it): "
    return unsealed(path, row, meant)[0]


def counts(frame: pd.DataFrame) -> pd.Series[bool]:
    """Which requests count as traffic: those that were answered, and those cancelled in mid-answer.

    What was cancelled in mid-answer kept its server busy for as many tokens as it got. How long the others
    would have become nobody knows: those that failed, that waited too long, or left before a first token.
    """
    cut_short = (frame["status"] == CANCELLED) & (frame["decode_tokens"] >= 1)
    return (frame["status"] == DONE) | cut_short
