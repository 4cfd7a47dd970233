"""Files of traces in the formats that we only read, made from requests as their programs make them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd

_START = datetime(2026, 3, 1, tzinfo=UTC)
_START_NS = int(_START.timestamp()) * 10**9


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _csv(columns: Mapping[str, Any]) -> str:
    return str(pd.DataFrame(columns).to_csv(index=False))


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {**row, "n": n, "ms": round(row["arrival_s"] * 1e3)} for n, row in enumerate(frame.to_dict("records"))
    ]


def bailian(frame: pd.DataFrame) -> str:
    return _lines(
        {"chat_id": r["n"], "parent_chat_id": -1, "timestamp": r["arrival_s"], "type": "text", "turn": 1}
        | {"input_length": r["prompt_tokens"], "output_length": r["decode_tokens"], "hash_ids": [1]}
        for r in _rows(frame)
    )


def ragpulse(frame: pd.DataFrame) -> str:
    return _lines(
        {"timestamp": str(r["arrival_s"]), "input_length": r["prompt_tokens"], "session_id": r["session"]}
        | {"output_length": r["decode_tokens"], "hash_ids": {"user_input": [1]}}
        for r in _rows(frame)
    )


def splitwise(frame: pd.DataFrame) -> str:
    sizes = {"batch_size": 1, "prompt_size": frame["prompt_tokens"], "token_size": frame["decode_tokens"]}
    return _csv({"request_id": frame.index, "arrival_timestamp": frame["arrival_s"], **sizes})


def servegen(frame: pd.DataFrame) -> str:
    tokens = {"input_tokens": frame["prompt_tokens"], "output_tokens": frame["decode_tokens"]}
    return _csv({"request_id": frame.index, "timestamp": frame["arrival_s"], **tokens})


def llmservingsim(frame: pd.DataFrame) -> str:
    return _lines(
        {
            "input_toks": r["prompt_tokens"],
            "output_toks": r["decode_tokens"],
            "arrival_time_ns": r["ms"] * 10**6,
        }
        for r in _rows(frame)
    )


def vllm(frame: pd.DataFrame) -> str:
    sent = {"start_times": (frame["arrival_s"] + 7000.5).tolist(), "errors": [""] * len(frame)}
    lengths = {"input_lens": frame["prompt_tokens"].tolist(), "output_lens": frame["decode_tokens"].tolist()}
    return json.dumps({"model_id": "one", "max_concurrency": None, **lengths, **sent})


def aiperf(frame: pd.DataFrame) -> str:
    def value(number: int) -> dict[str, Any]:
        return {"value": number, "unit": "tokens"}

    return _lines(
        {
            "metadata": {"request_start_ns": _START_NS + r["ms"] * 10**6, "x_correlation_id": r["session"]},
            "metrics": {
                "input_sequence_length": value(r["prompt_tokens"]),
                "output_sequence_length": value(r["decode_tokens"]),
            },
            "error": None,
        }
        for r in _rows(frame)
    )


def litellm(frame: pd.DataFrame) -> str:
    return json.dumps(
        [
            {
                "call_type": "acompletion",
                "startTime": (_START + timedelta(milliseconds=r["ms"])).isoformat(),
                "prompt_tokens": r["prompt_tokens"],
                "completion_tokens": r["decode_tokens"],
                "model": r["model"],
                "session_id": r["session"],
                "status": "success",
            }
            for r in _rows(frame)
        ],
        indent=1,
    )


def llama_swap(frame: pd.DataFrame) -> str:
    entries = [
        {
            "timestamp": (_START + timedelta(milliseconds=r["ms"] + 250)).isoformat(),
            "duration_ms": 250,
            "model": r["model"],
            "resp_status_code": 200,
            "tokens": {"input_tokens": r["prompt_tokens"], "output_tokens": r["decode_tokens"]},
        }
        for r in _rows(frame)
    ]
    return json.dumps({"data": entries, "total_pages": 1})


MADE: Mapping[str, tuple[Callable[[pd.DataFrame], str], str]] = {
    "bailian": (bailian, ".jsonl"),
    "ragpulse": (ragpulse, ".jsonl"),
    "splitwise": (splitwise, ".csv"),
    "servegen": (servegen, ".csv"),
    "llmservingsim": (llmservingsim, ".jsonl"),
    "vllm": (vllm, ".json"),
    "aiperf": (aiperf, ".jsonl"),
    "litellm": (litellm, ".json"),
    "llama-swap": (llama_swap, ".json"),
}
"""How a file of each format is made, and the ending of its name."""
