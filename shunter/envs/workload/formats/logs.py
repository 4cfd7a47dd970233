"""Logs of gateways with OpenAI's interface: LiteLLM's of spending, and llama-swap's of activity."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from shunter.envs.workload.formats.aiperf import inside
from shunter.envs.workload.formats.base import (
    Reading,
    TraceFormat,
    columns,
    dates_or_seconds,
    is_blank,
    numbers,
    records,
)
from shunter.envs.workload.formats.tables import Table
from shunter.errors import InputError


class LiteLlmFormat(TraceFormat):
    """Rows of its table of spending, times as dates, or what it gives to loggers, in seconds since 1970."""

    def read(self, table: Table) -> Reading:
        """See ``TraceFormat.read``; requests that failed are left out."""
        reading = super().read(table)
        rows, frame = table.rows, reading.frame.copy()
        frame["arrival_s"] = dates_or_seconds(frame["arrival_s"], f"{table.path}: startTime")
        if "model_group" in rows:  # the name that clients ask for; model is the provider's
            frame["model"] = rows["model_group"].where(~rows["model_group"].map(is_blank), frame["model"])
        if "session_id" not in rows and "trace_id" in rows:
            frame["session"] = rows["trace_id"]
        used = [name for name in ("model_group", "trace_id") if name in rows]
        status = rows.get("status", pd.Series("success", rows.index))
        hits = (
            rows.get("cache_hit", pd.Series(dtype=object)).map(lambda hit: str(hit).lower() == "true").sum()
        )
        doubt = (
            f"{table.path}: {hits} answers came from LiteLLM's cache, and count: no model was asked for them"
        )
        reading = replace(
            reading, frame=frame, unread=reading.unread.drop(columns=used), notes=(doubt,) if hits else ()
        )
        return _answered(table, reading, status.ne("failure"))


class LlamaSwapFormat(TraceFormat):
    """A row's time is that of its end; what of its prompt was in the cache may or may not be counted."""

    def matches(self, table: Table) -> bool:
        """See ``TraceFormat.matches``; its first versions had the tokens beside the rest."""
        keys = {"timestamp", "duration_ms", "model"}
        return table.keys >= {*keys, "tokens"} or table.keys >= {*keys, "cache_tokens", "input_tokens"}

    def read(self, table: Table) -> Reading:
        """See ``TraceFormat.read``; requests that failed are left out."""
        rows = table.rows
        for name in ("timestamp", "duration_ms", "model"):
            if name not in rows:
                raise InputError(f"{table.path}: columns", f"hold {name!r}", sorted(table.keys))
        tokens = rows["tokens"] if "tokens" in rows else pd.Series(records(rows), dtype=object)
        end_s = dates_or_seconds(rows["timestamp"], f"{table.path}: timestamp")
        frame = pd.DataFrame(
            {
                "arrival_s": end_s - numbers(rows["duration_ms"]) / 1e3,
                "prompt_tokens": [inside(row, "input_tokens") for row in tokens],
                "decode_tokens": [inside(row, "output_tokens") for row in tokens],
                "model": rows["model"],
            }
        )
        cached = numbers(pd.Series([inside(row, "cache_tokens") for row in tokens])).clip(lower=0).sum()
        doubt = "not added to prompts: llama-server leaves them out there, others count them in"
        notes = (f"{table.path}: {cached:.0f} cached tokens {doubt}",) if cached else ()
        status = (
            numbers(rows["resp_status_code"]) if "resp_status_code" in rows else pd.Series(200, rows.index)
        )
        unread = rows.drop(columns=["timestamp", "duration_ms", "model", "tokens"], errors="ignore")
        return _answered(table, Reading(frame, self.unit, unread, notes), status.eq(200))


def _answered(table: Table, reading: Reading, kept: pd.Series[bool]) -> Reading:
    """The requests that were answered, with what else there is to say of the file."""
    notes = list(reading.notes)
    if not kept.all():
        notes.append(f"{table.path}: {int((~kept).sum())} requests that failed left out")
    pages = table.envelope.get("total_pages", 1)
    if pages != 1:
        notes.append(f"{table.path}: it is one of {pages} pages of the log")
    frame = reading.frame.loc[kept]
    frame = frame.assign(arrival_s=frame["arrival_s"] - frame["arrival_s"].min())
    return replace(reading, frame=frame, notes=tuple(notes))


LITELLM = LiteLlmFormat(
    "LiteLLM's spend logs and StandardLoggingPayload, https://docs.litellm.ai/docs/proxy/logging_spec",
    columns("startTime", "prompt_tokens", "completion_tokens", model="model", session="session_id"),
    keys=frozenset({"call_type", "model"}),
    says_unit=True,
    is_sorted=False,
)

LLAMA_SWAP = LlamaSwapFormat(
    "llama-swap's /api/metrics/activity, https://github.com/mostlygeek/llama-swap",
    columns("timestamp", "tokens.input_tokens", "tokens.output_tokens", model="model"),
    says_unit=True,
    is_sorted=False,
)
