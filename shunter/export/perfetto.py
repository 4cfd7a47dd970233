"""A run as a trace in Chrome's Trace Event Format, which Perfetto reads.

Source: "Trace Event Format", the Chromium project's description of the JSON that chrome://tracing and
ui.perfetto.dev open.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from shunter.eval.timeline import Timeline, each, queue_lengths
from shunter.files import write_json

__all__ = ["perfetto_trace", "write_perfetto"]

Event = dict[str, Any]

_REQUESTS = 1  # process of the requests; devices follow
_DECISIONS, _OPERATIONS, _RESIDENTS = 1, 2, 3  # threads of a device; residents need one for each model


def write_perfetto(timeline: Timeline, path: str | os.PathLike[str]) -> Path:
    """Writes the trace as JSON, whole or not at all."""
    return write_json(path, perfetto_trace(timeline))


def perfetto_trace(timeline: Timeline) -> dict[str, Any]:
    """The run as a trace.

    A process per device with threads for its decisions (instants), its operations (slices with batch, steps
    and layers) and each resident model, and a counter of its memory. One process for the requests: a slice
    from arrival to last token, in it the time to the first token and the time after, and counters of those
    in the system. Times are in microseconds.

    Returns:
        Plain data for JSON.
    """
    events = _process("requests", _REQUESTS)
    events += _request_events(timeline)
    events += _queue_events(timeline)
    for pid, device in enumerate(timeline.devices, _REQUESTS + 1):
        events += _device_events(timeline, device, pid)
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"run_id": timeline.run_id, "title": timeline.title},
    }


def _device_events(timeline: Timeline, device: str, pid: int) -> Iterator[Event]:
    yield from _process(device, pid)
    yield _name("thread_name", pid, _DECISIONS, "decisions")
    yield _name("thread_name", pid, _OPERATIONS, "operations")
    for row in _of(timeline.decisions.dropna(subset=["choice_name"]), device):
        args = {"in_system": row.in_system, "policy_ms": round(row.decision_s * 1e3, 3)}
        instant = _event("i", row.choice_name, row.decided_s, pid, _DECISIONS)
        yield {**instant, "cat": "decision", "s": "t", "args": args}
    for row in _of(timeline.operations, device):
        name = f"{row.operation} {row.model}"
        yield _slice(name, str(row.operation), row, pid, _OPERATIONS, _operation_args(row))
        if pd.notna(row.device_bytes):
            memory = _event("C", "device memory", row.end_s, pid, 0)
            yield {**memory, "args": {"bytes": row.device_bytes}}
    for index, model in enumerate(timeline.models):
        rows = [row for row in _of(timeline.residents, device) if row.model == model]
        if rows:
            yield _name("thread_name", pid, _RESIDENTS + index, f"resident: {model}")
        for row in rows:
            layers = int(row.gpu_layers)
            name = f"{model}, {layers} layers"
            yield _slice(name, "resident", row, pid, _RESIDENTS + index, {"gpu_layers": layers})


def _operation_args(row: Any) -> dict[str, Any]:
    args: dict[str, Any] = {"gpu_layers": int(row.gpu_layers)}
    if row.operation == "run":
        args |= {
            "batch": len(row.request_ids),
            "steps": int(row.steps),
            "tokens": int(sum(row.tokens)),
            "request_ids": [int(request) for request in row.request_ids],
        }
    if len(row.evicted):
        args["evicted"] = list(row.evicted)
    if len(row.servers):
        args["servers"] = list(row.servers)
    return args


def _request_events(timeline: Timeline) -> Iterator[Event]:
    for row in each(timeline.requests):
        finished = bool(pd.notna(row.finish_s))
        end_s = row.finish_s if finished else timeline.end_s
        first_s = row.first_token_s if pd.notna(row.first_token_s) else end_s
        # Named after the model alone, so that Perfetto puts a model's requests together. Slices of one id
        # nest in the order of the file where their times are equal.
        whole = str(row.model)
        marks = [("b", whole, row.arrival_s), ("b", "to first token", row.arrival_s)]
        marks += [("e", "to first token", first_s)]
        if first_s < end_s:
            marks += [("b", "to last token", first_s), ("e", "to last token", end_s)]
        for phase, name, time_s in (*marks, ("e", whole, end_s)):
            event = _event(phase, name, time_s, _REQUESTS, 0)
            args = {"request": int(row.request_id), "model": row.model, "finished": finished}
            yield {**event, "cat": "request", "id2": {"local": str(row.request_id)}, "args": args}


def _queue_events(timeline: Timeline) -> Iterator[Event]:
    times, lengths = queue_lengths(timeline)
    for i, time_s in enumerate(times):
        by_model = {model: int(values[i]) for model, values in lengths.items()}
        in_system = _event("C", "in the system", time_s, _REQUESTS, 0)
        yield {**in_system, "args": {"all": sum(by_model.values()), **by_model}}


def _slice(name: str, category: str, row: Any, pid: int, tid: int, args: dict[str, Any]) -> Event:
    lasts_ns = _ns(row.end_s) - _ns(row.start_s)
    slice_ = _event("X", name, row.start_s, pid, tid)
    return {**slice_, "cat": category, "dur": lasts_ns / 1000, "args": args}


def _event(phase: str, name: str, time_s: float, pid: int, tid: int) -> Event:
    return {"ph": phase, "name": name, "ts": _ns(time_s) / 1000, "pid": pid, "tid": tid}


def _process(name: str, pid: int) -> list[Event]:
    order = {**_event("M", "process_sort_index", 0.0, pid, 0), "args": {"sort_index": pid}}
    return [_name("process_name", pid, 0, name), order]


def _name(kind: str, pid: int, tid: int, name: str) -> Event:
    return {**_event("M", kind, 0.0, pid, tid), "args": {"name": name}}


def _of(frame: pd.DataFrame, device: str) -> list[Any]:
    return list(each(frame[frame["device"] == device]))


def _ns(time_s: float) -> int:
    """Whole nanoseconds, as the simulator counts them: slices that touch do not overlap by rounding."""
    return round(time_s * 1e9)
