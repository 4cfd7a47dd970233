"""Reports of GuideLLM (JSON, YAML or CSV): a run for each rate of a sweep, with distributions by outcome.

Times are in the metrics' names: ``_ms``. Only successful requests count.

Source: guidellm/benchmark/schemas/generative/{metrics,report}.py of GuideLLM 0.2 to 0.7, and
guidellm/benchmark/outputs/csv.py of 0.4 on, whose header has three lines.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from shunter.errors import BrokenFileError
from shunter.profiling.measurements.measurement import Fields, Measurement, Reading
from shunter.profiling.measurements.served import Served, operations


def read_guidellm(path: str, report: Mapping[str, Any]) -> Reading:
    """What a report says of single operations, run by run.

    Raises:
        InputError: A value is no number, or not possible.
    """
    whole = Fields(path, report)
    version = whole.part("metadata").text("guidellm_version")
    measurements: list[Measurement] = []
    left_out: dict[str, str] = {}
    for number, benchmark in enumerate(whole.objects("benchmarks")):
        run = Fields(f"{path}: benchmark {number}", benchmark)
        if run.part("metrics", "request_totals").count("successful", missing=1) == 0:
            left_out[run.place] = "no request succeeded"
            continue
        found = operations(_served(whole, run, f"GuideLLM {version}".strip()))
        measurements += found.measurements
        left_out.update(found.left_out)
    return Reading(tuple(measurements), left_out)


_HEADER_LINES = 3
_CSV_METRICS = {
    ("Server Throughput", "Successful Concurrency"): "request_concurrency",
    ("Token Metrics", "Successful Input Tokens"): "prompt_token_count",
    ("Token Metrics", "Successful Output Tokens"): "output_token_count",
    ("Token Throughput", "Successful Output Tokens/Sec"): "output_tokens_per_second",
    ("Time to First Token", "Successful ms"): "time_to_first_token_ms",
    ("Inter Token Latency", "Successful ms"): "inter_token_latency_ms",
}
"""Metrics by what the first two lines of a CSV's header call them; the third is a statistic."""


def read_csv(path: str, text: str) -> Reading:
    """What a report as CSV says of single operations: the same figures, as a report of JSON has them.

    Raises:
        BrokenFileError: It is no CSV, or has no whole header.
        InputError: A value is no number, or not possible.
    """
    try:
        lines = list(csv.reader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise BrokenFileError(path, str(error)) from error
    header = list(zip(*lines[:_HEADER_LINES], strict=False))
    if len({len(line) for line in lines[:_HEADER_LINES]}) != 1 or len(lines) <= _HEADER_LINES:
        raise BrokenFileError(path, "its header of three lines is not whole, or no run follows")
    reports, left_out = [], {}
    for number, line in enumerate(filter(None, lines[_HEADER_LINES:])):
        if len(line) == len(header):
            reports.append((f"{path}: row {number}", _report_of(dict(zip(header, line, strict=True)))))
        else:
            left_out[f"{path}: row {number}"] = "it has other cells than the header, the first run's"
    parts = [read_guidellm(place, report) for place, report in reports]
    left_out |= {place: why for part in parts for place, why in part.left_out.items()}
    return Reading(tuple(m for part in parts for m in part.measurements), left_out)


def _report_of(row: Mapping[tuple[str, ...], str]) -> dict[str, Any]:
    """A row as a report of JSON with one run."""

    def held(group: str, name: str) -> Any:
        try:
            return json.loads(row.get((group, name, ""), "") or "{}")
        except (ValueError, RecursionError):
            return {}

    metrics: dict[str, Any] = {
        name: {"successful": {s: row.get((*place, s.capitalize()), "") for s in ("mean", "median")}}
        for place, name in _CSV_METRICS.items()
    }
    metrics["request_totals"] = {"successful": row.get(("Request Counts", "Successful", ""), "")}
    strategy = {"type_": row.get(("Benchmark", "Strategy", ""), "")}
    run = {"config": {"strategy": strategy, "backend": held("Run Info", "Backend")}, "metrics": metrics}
    about = {"metadata": held("Runtime Info", "Metadata"), "args": held("Runtime Info", "Arguments")}
    return {**about, "benchmarks": [run]}


def _served(report: Fields, run: Fields, tool: str) -> Served:
    def statistic(metric: str, name: str) -> float | None:
        values = run.part("metrics", metric, "successful")
        return values.number(name) if values.has(name) else None

    def seconds(metric: str, name: str) -> float | None:
        ms = statistic(metric, name)
        return ms / 1e3 if ms else None

    began = run.number("start_time") if run.has("start_time") else 0.0
    return Served(
        place=run.place,
        tool=tool,
        model=_model(report, run),
        measured_at=datetime.fromtimestamp(began, UTC).isoformat() if 0 < began < 1e11 else "",
        concurrency=_concurrency(run, statistic("request_concurrency", "mean")),
        prompt_tokens=statistic("prompt_token_count", "mean"),
        decode_tokens=statistic("output_token_count", "mean"),
        output_tokens_per_s=statistic("output_tokens_per_second", "mean"),
        first_token_s=seconds("time_to_first_token_ms", "mean"),
        step_s=seconds("inter_token_latency_ms", "mean"),
        step_p50_s=seconds("inter_token_latency_ms", "median"),
    )


def _concurrency(run: Fields, mean: float | None) -> float | None:
    strategy = run.part("config", "strategy")
    if strategy.text("type_") == "synchronous":
        return 1.0
    return strategy.number("streams", 1) if strategy.has("streams") else mean


def _model(report: Fields, run: Fields) -> str:
    """Where versions have put it."""
    places = (
        run.part("config", "backend"),
        run.part("benchmarker", "backend"),
        report.part("args"),
        report.part("config", "backend"),
    )
    names = [place.text(name) for place in places for name in ("model", "model_name")]
    return next((name for name in names if name), "")
