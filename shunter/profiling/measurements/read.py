"""Which tool wrote a file, by what is in it, and what it says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from shunter.errors import BrokenFileError, InputError
from shunter.profiling.measurements import aiperf, aiperf_records, guidellm, llama_bench, vllm
from shunter.profiling.measurements.measurement import Reading
from shunter.reading import from_json, read_text, read_yaml

__all__ = ["read_measurements"]

FORMATS = (
    "llama-bench (csv, json, jsonl, md, sql), vllm bench serve and latency (json), AIPerf (json, csv, jsonl) "
    "and GuideLLM (json, yaml, csv)"
)

_MOST_YAML_BYTES = 20_000_000
"""GuideLLM lists every request of a benchmark."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
"""What terminals are told to colour; it stays in a log that is kept."""


def read_measurements(
    paths: Iterable[Path], latency_shape: tuple[int, int, int] | None = None
) -> dict[Path, Reading]:
    """Reads files of other tools.

    Args:
        paths: Files; what only two of them together say (vLLM's latencies) is found among all of them.
        latency_shape: Batch, prompt tokens and answer tokens of vLLM's latencies, whose files do not say.

    Returns:
        What each file says.

    Raises:
        InputError: There is no such file, or a value in it is not possible; names file, row and field.
        BrokenFileError: A file is of no known tool, cut short or damaged.
    """
    found: dict[Path, Reading] = {}
    latencies: dict[str, Path] = {}
    kept: list[vllm.Latency] = []
    for path in paths:
        reading = _read(path)
        if isinstance(reading, Reading):
            found[path] = reading
            continue
        new, found[path] = reading
        kept += new
        latencies.update({one.place: path for one in new})
    whole = vllm.told_apart(kept, latency_shape)
    for path in dict.fromkeys(latencies.values()):
        mine = [m for m in whole.measurements if latencies[m.place] == path]
        why = {place: reason for place, reason in whole.left_out.items() if latencies[place] == path}
        before = found[path]
        found[path] = Reading((*before.measurements, *mine), {**before.left_out, **why})
    return found


def _read(path: Path) -> Reading | tuple[list[vllm.Latency], Reading]:
    name = str(path)
    if not path.is_file():
        raise InputError("FILES", "exist", name)
    text = _COLOURS.sub("", read_text(path))
    begin = text.lstrip()[:1]
    header = text.lstrip().partition("\n")[0]
    if "INSERT INTO llama_bench" in text:
        return llama_bench.read_llama_bench(name, llama_bench.sql_records(text, name))
    if begin in ("{", "["):
        return _read_json(name, text)
    if "n_prompt" in header and "," in header:
        return llama_bench.read_llama_bench(name, llama_bench.csv_records(text, name))
    if header.startswith("Run Info,"):
        return guidellm.read_csv(name, text)
    if header.startswith("Metric,"):
        return aiperf.read_csv(name, text)
    if any(llama_bench.is_header(line) for line in text.splitlines()):
        return llama_bench.read_llama_bench(name, llama_bench.markdown_records(text, name))
    if path.suffix in (".yaml", ".yml"):
        return _read_yaml(name, text)
    raise _unknown(name)


def _unknown(name: str) -> BrokenFileError:
    return BrokenFileError(name, f"it is none of {FORMATS}")


def _read_yaml(name: str, text: str) -> Reading:
    report = read_yaml(name, text, _MOST_YAML_BYTES)
    if not isinstance(report, dict) or "benchmarks" not in report:
        raise _unknown(name)
    return guidellm.read_guidellm(name, report)


def _read_json(name: str, text: str) -> Reading | tuple[list[vllm.Latency], Reading]:
    records = _objects(name, text)
    if not records:
        return Reading((), {name: "it is empty"})
    first = records[0]
    if "n_prompt" in first:
        return llama_bench.read_llama_bench(name, iter(records))
    if aiperf_records.is_record(first):
        return aiperf_records.read_records(name, records)
    if isinstance(first.get("metric"), Mapping) and isinstance(first.get("benchmark"), Mapping):
        return vllm.read_pytorch(name, records)
    readers: tuple[tuple[bool, Callable[[str, Mapping[str, Any]], Reading]], ...] = (
        ("total_input_tokens" in first and "completed" in first, vllm.read_serve),
        (isinstance(first.get("benchmarks"), list), guidellm.read_guidellm),
        (isinstance(first.get("input_sequence_length"), Mapping), aiperf.read_json),
        ("elapsed_time" in first and "num_requests" in first, _throughput),
    )
    for is_its, read in readers:
        if is_its:
            parts = [read(_numbered(name, i, len(records)), record) for i, record in enumerate(records)]
            left_out = {place: why for part in parts for place, why in part.left_out.items()}
            return Reading(tuple(m for part in parts for m in part.measurements), left_out)
    if "avg_latency" in first:
        places = (_numbered(name, i, len(records)) for i in range(len(records)))
        pairs = zip(places, records, strict=True)
        return [vllm.read_latency(place, record) for place, record in pairs], Reading((), {})
    raise _unknown(name)


def _numbered(name: str, number: int, count: int) -> str:
    return name if count == 1 else f"{name}: row {number}"


def _throughput(name: str, _: Mapping[str, Any]) -> Reading:
    return Reading((), {name: vllm.THROUGHPUT})


def _objects(name: str, text: str) -> list[dict[str, Any]]:
    """A JSON object, those of a list, or one after another, line by line as vLLM appends them.

    Raises:
        BrokenFileError: It is no JSON, or cut short, or something else is in it.
    """
    try:
        whole = from_json(text)
    except ValueError:
        whole = None
    if whole is None:
        try:
            whole = [from_json(line) for line in text.splitlines() if line.strip()]
        except ValueError as error:
            raise BrokenFileError(name, f"it is no JSON, or cut short: {error}") from error
    found = whole if isinstance(whole, list) else [whole]
    for part in found:
        if not isinstance(part, dict):
            raise BrokenFileError(name, f"it holds something else than objects: {str(part)[:40]}")
    return found
