"""AIPerf's ``profile_export.jsonl``: a request a line, with when it was sent and when its answer ended.

The lines say which requests had the server for themselves: no other was under way from their first to their
last moment. Each of these is a prefill and its steps, and those of equal lengths are repeats. The others are
taken together, as ``operations`` takes a run of several at a time.

Source: AIPerf, docs/tutorials/working-with-profile-exports.md.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from shunter.errors import InputError
from shunter.profiling.measurements.measurement import Fields, Measurement, ModelSaid, Reading
from shunter.profiling.measurements.served import Served, operations

TOOL = "AIPerf"
PER_SECOND = {"s": 1.0, "sec": 1.0, "ms": 1e3, "us": 1e6, "µs": 1e6, "ns": 1e9}
"""How many of a unit of time are a second."""

_NS_PER_S = 1e9
_LATEST_NS = 1e19


@dataclass(frozen=True)
class _Request:
    """One answered request; None: not said, as by servers that do not stream."""

    place: str
    start_ns: float
    end_ns: float
    prompt_tokens: int
    decode_tokens: int
    first_token_s: float | None
    step_s: float | None


def is_record(record: Mapping[str, Any]) -> bool:
    """Whether an object is a line of such a file."""
    metadata = record.get("metadata")
    return isinstance(metadata, Mapping) and "request_start_ns" in metadata


def read_records(path: str, records: Sequence[Mapping[str, Any]]) -> Reading:
    """What the lines say of single operations.

    Raises:
        InputError: A value is no number, not possible, or of a unit that is not known.
    """
    left_out: dict[str, str] = {}
    found, spans = [], []
    for number, record in enumerate(records):
        line = Fields(f"{path}: row {number}", record)
        spans.append(_span_ns(line))
        why = _unusable(line, record)
        if why:
            left_out[line.place] = why
        else:
            found.append(_request(line, *spans[-1]))
    alone = _alone(found, spans)
    lone = [request for request in found if request in alone]
    crowd = [request for request in found if request not in alone]
    together = _together(path, crowd) if crowd else Reading((), {})
    why = "no times of first tokens and steps (streaming?)"
    silent = {request.place: why for request in lone if request.first_token_s is None}
    return Reading((*_apart(lone), *together.measurements), {**left_out, **silent, **together.left_out})


def _span_ns(line: Fields) -> tuple[float, float]:
    """When a request was sent and when its answer ended, be it usable or not; at one moment if none came."""
    metadata = line.part("metadata")
    start_ns = metadata.number("request_start_ns", most=_LATEST_NS)
    if not metadata.has("request_end_ns"):
        return start_ns, start_ns
    return start_ns, metadata.number("request_end_ns", start_ns, _LATEST_NS)


def _unusable(line: Fields, record: Mapping[str, Any]) -> str:
    metadata, metrics = line.part("metadata"), record.get("metrics")
    if record.get("error") or metadata.flag("was_cancelled") or not isinstance(metrics, Mapping):
        return "it failed, or was cancelled"
    if metadata.text("benchmark_phase") not in ("", "profiling"):
        return "it warmed the server up"
    return ""


def _request(line: Fields, start_ns: float, end_ns: float) -> _Request:
    metrics = line.part("metrics")

    def tokens(tag: str) -> int:
        return metrics.part(tag).count("value")

    def seconds(tag: str) -> float | None:
        metric = metrics.part(tag)
        if not metric.has("value"):
            return None
        if metric.text("unit") not in PER_SECOND:
            rule = f"be one of {', '.join(PER_SECOND)}"
            raise InputError(f"{line.place}, {tag}, unit", rule, metric.text("unit"))
        return metric.number("value") / PER_SECOND[metric.text("unit")] or None

    return _Request(
        line.place,
        start_ns,
        end_ns,
        tokens("input_sequence_length"),
        tokens("output_sequence_length"),
        seconds("time_to_first_token"),
        seconds("inter_token_latency"),
    )


def _alone(requests: Sequence[_Request], spans_ns: Sequence[tuple[float, float]]) -> set[_Request]:
    """Those beside which no other was under way, be it one that failed."""
    starts, ends = (sorted(times) for times in zip(*spans_ns, strict=True))
    return {r for r in requests if bisect_left(starts, r.end_ns) - bisect_right(ends, r.start_ns) <= 1}


def _apart(requests: Sequence[_Request]) -> list[Measurement]:
    """A prefill for each length of prompts, a decode for each pair of lengths."""
    prefills: dict[int, list[_Request]] = {}
    decodes: dict[tuple[int, int], list[_Request]] = {}
    for request in requests:
        if request.first_token_s and request.prompt_tokens:
            prefills.setdefault(request.prompt_tokens, []).append(request)
        if request.step_s and request.decode_tokens > 1:
            decodes.setdefault((request.prompt_tokens, request.decode_tokens), []).append(request)
    found = [
        _measurement(same[0].place, "prefill", prompt, 0, [r.first_token_s or 0.0 for r in same])
        for prompt, same in prefills.items()
    ]
    return found + [
        _measurement(same[0].place, "decode", prompt, decode, [r.step_s or 0.0 for r in same])
        for (prompt, decode), same in decodes.items()
    ]


def _measurement(
    place: str, operation: str, prompt: int, decode: int, durations_s: list[float]
) -> Measurement:
    return Measurement(
        place=place,
        tool=TOOL,
        engine="",
        model=ModelSaid(text=""),
        operation=operation,
        batch=1,
        prompt_tokens=prompt,
        decode_tokens=decode,
        duration_s=tuple(durations_s),
    )


def _together(path: str, requests: Sequence[_Request]) -> Reading:
    span_s = (max(r.end_ns for r in requests) - min(r.start_ns for r in requests)) / _NS_PER_S
    steps_s = [r.step_s for r in requests if r.step_s]
    return operations(
        Served(
            place=f"{path}: those of {len(requests)} requests that others ran beside",
            tool=TOOL,
            model="",
            concurrency=float(_most_at_once(requests)),
            prompt_tokens=fmean(r.prompt_tokens for r in requests),
            decode_tokens=fmean(r.decode_tokens for r in requests),
            output_tokens_per_s=sum(r.decode_tokens for r in requests) / span_s if span_s else None,
            first_token_s=None,
            step_s=fmean(steps_s) if steps_s else None,
            step_p50_s=median(steps_s) if steps_s else None,
        )
    )


def _most_at_once(requests: Sequence[_Request]) -> int:
    events = [(r.start_ns, 1) for r in requests] + [(r.end_ns, -1) for r in requests]
    now = most = 0
    for _, change in sorted(events):  # at one moment ends come first
        now += change
        most = max(most, now)
    return most
