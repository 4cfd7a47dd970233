"""Formats of request traces by name, and which of them a file is of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from shunter.envs.workload.formats.aiperf import AIPERF
from shunter.envs.workload.formats.azure import AZURE
from shunter.envs.workload.formats.bailian import BAILIAN
from shunter.envs.workload.formats.base import TraceFormat
from shunter.envs.workload.formats.burstgpt import BURSTGPT
from shunter.envs.workload.formats.gateway import GATEWAY
from shunter.envs.workload.formats.llmservingsim import LLMSERVINGSIM
from shunter.envs.workload.formats.logs import LITELLM, LLAMA_SWAP
from shunter.envs.workload.formats.mooncake import MOONCAKE
from shunter.envs.workload.formats.own import OWN
from shunter.envs.workload.formats.ragpulse import RAGPULSE
from shunter.envs.workload.formats.servegen import SERVEGEN, SERVEGEN_OFFLINE
from shunter.envs.workload.formats.splitwise import SPLITWISE
from shunter.envs.workload.formats.tables import Table
from shunter.envs.workload.formats.vidur import VIDUR, VIDUR_LENGTHS
from shunter.envs.workload.formats.vllm import VLLM
from shunter.envs.workload.gateway_record import TRACE_NAME
from shunter.errors import InputError

__all__ = ["FORMATS", "WRITTEN"]

FORMATS: dict[str, TraceFormat] = {
    "gateway": GATEWAY,
    "shunter": OWN,
    "azure": AZURE,
    "burstgpt": BURSTGPT,
    "bailian": BAILIAN,
    "ragpulse": RAGPULSE,
    "mooncake": MOONCAKE,
    "vidur": VIDUR,
    "splitwise": SPLITWISE,
    "llmservingsim": LLMSERVINGSIM,
    "vllm": VLLM,
    "aiperf": AIPERF,
    "litellm": LITELLM,
    "llama-swap": LLAMA_SWAP,
    "servegen": SERVEGEN,
    "vidur-lengths": VIDUR_LENGTHS,
    "servegen-offline": SERVEGEN_OFFLINE,
}
"""Trace formats by name; the first that a file's columns match is the file's."""

WRITTEN = tuple(name for name, known in FORMATS.items() if known.is_written)
"""Names of the formats that traces can be written in."""

_REFUSED = {
    ("conversations",): "hold token counts: it is ShareGPT's text, whose lengths depend on a tokenizer",
    ("completed", "total_input_tokens"): "hold a row per request: run vllm bench serve with --save-detailed",
    ("input_length", "hash_ids", "request_id"): "hold output lengths: it is a ServeGen trace of hashes alone",
}
"""What is wrong with files that are known and are no traces, by columns that they have."""


def trace_file(path: Path) -> Path:
    """The file of a trace: the one given, or the requests of a gateway's record whose folder is given."""
    return path / TRACE_NAME if path.is_dir() else path


def detect_format(table: Table) -> str:
    """Names the format that a file's columns show.

    Raises:
        InputError: None fits.
        BrokenFileError: It cannot be read.
    """
    for name in _matching(table):
        return name
    for keys, rule in _REFUSED.items():
        if table.keys >= set(keys):
            raise InputError(str(table.path), rule, sorted(table.keys))
    for name, known in FORMATS.items():
        if known.nearly_matches(table):
            return name
    rule = f"have the header of a known format ({', '.join(FORMATS)}), such as {', '.join(OWN.columns)}"
    raise InputError(f"{table.path}", rule, ", ".join(sorted(table.keys))[:120])


def _matching(table: Table) -> Iterator[str]:
    return (name for name, known in FORMATS.items() if known.matches(table))
