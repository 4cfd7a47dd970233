"""Summaries of AIPerf (and GenAI-Perf, whose layout it keeps) as JSON and CSV.

Every metric says its unit, in JSON beside its statistics and in CSV after its name; none is assumed.

Source: AIPerf, docs/reference/json-export-schema.md (schema 1.5).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from typing import Any

from shunter.errors import BrokenFileError, InputError
from shunter.profiling.measurements.aiperf_records import PER_SECOND
from shunter.profiling.measurements.measurement import Fields, Reading
from shunter.profiling.measurements.served import Served, operations

_NAMES = {
    "time_to_first_token": "time to first token",
    "inter_token_latency": "inter token latency",
    "input_sequence_length": "input sequence length",
    "output_sequence_length": "output sequence length",
    "output_token_throughput": "output token throughput",
}
"""Tags of metrics, and what a CSV calls them, in small letters."""


def read_json(path: str, record: Mapping[str, Any]) -> Reading:
    """What ``profile_export_aiperf.json`` says of single operations.

    Raises:
        InputError: A value is no number, not possible, or of a unit that is not known.
    """
    run = Fields(path, record)
    if run.flag("was_cancelled"):
        return Reading((), {path: "the run was cancelled"})
    version = run.text("aiperf_version")
    config = run.part("input_config")
    telemetry = record.get("telemetry_data")
    return _served(
        run,
        tool=f"AIPerf {version}".strip(),
        model=_model(config),
        concurrency=_concurrency(config),
        measured_at=run.text("start_time"),
        gpus=tuple(_gpu_names(telemetry)),
    )


def read_csv(path: str, text: str) -> Reading:
    """What ``profile_export_aiperf.csv`` says: the metrics, but neither the model nor how many at a time.

    Raises:
        BrokenFileError: It is no CSV.
        InputError: A value is no number, not possible, or of a unit that is not known.
    """
    try:
        lines = list(csv.reader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise BrokenFileError(path, str(error)) from error
    metrics: dict[str, Any] = {}
    header: list[str] = []
    tags = {name: tag for tag, name in _NAMES.items()}
    for line in lines:
        if line[:1] == ["Metric"]:
            header = [name.strip() for name in line]
            continue
        named = re.fullmatch(r"(.+?)\s*\(([^()]*)\)\s*", line[0]) if line else None
        tag = tags.get(named[1].lower()) if named else None
        if named and tag and header:
            values = {name: value.replace(",", "") for name, value in zip(header[1:], line[1:], strict=False)}
            metrics[tag] = {**values, "avg": values.get("avg", values.get("Value")), "unit": named[2]}
    return _served(Fields(path, metrics), tool="AIPerf", model="", concurrency=None)


def _served(
    run: Fields,
    *,
    tool: str,
    model: str,
    concurrency: float | None,
    measured_at: str = "",
    gpus: tuple[str, ...] = (),
) -> Reading:
    return operations(
        Served(
            place=run.place,
            tool=tool,
            model=model,
            measured_at=measured_at,
            gpus=gpus,
            concurrency=concurrency,
            prompt_tokens=_value(run, "input_sequence_length", "avg"),
            decode_tokens=_value(run, "output_sequence_length", "avg"),
            output_tokens_per_s=_rate(run, "output_token_throughput"),
            first_token_s=_seconds(run, "time_to_first_token", "avg"),
            step_s=_seconds(run, "inter_token_latency", "avg"),
            step_p50_s=_seconds(run, "inter_token_latency", "p50"),
        )
    )


def _value(run: Fields, tag: str, statistic: str) -> float | None:
    metric = run.part(tag)
    return metric.number(statistic) if metric.has(statistic) else None


def _seconds(run: Fields, tag: str, statistic: str) -> float | None:
    value = _value(run, tag, statistic)
    if value is None:
        return None
    unit = run.part(tag).text("unit")
    if unit not in PER_SECOND:
        raise InputError(f"{run.place}, {tag}, unit", f"be one of {', '.join(PER_SECOND)}", unit)
    return value / PER_SECOND[unit] or None


def _rate(run: Fields, tag: str) -> float | None:
    value, unit = _value(run, tag, "avg"), run.part(tag).text("unit")
    if value is not None and unit not in ("tokens/sec", "tokens/s"):
        raise InputError(f"{run.place}, {tag}, unit", "be tokens/sec", unit)
    return value


def _model(config: Fields) -> str:
    """The only model of a run; empty where there are several, or none is said."""
    old = config.part("endpoint").names("model_names")
    new = config.part("models").objects("items")
    names = old or tuple(Fields(config.place, item).text("name") for item in new)
    return names[0] if len(names) == 1 else ""


def _concurrency(config: Fields) -> float | None:
    load = config.part("loadgen")
    if load.has("concurrency"):
        return load.number("concurrency", 1)
    listed = [Fields(config.place, phase) for phase in config.objects("phases")]
    phases = [*listed, *config.children("phases")]
    said = {phase.number("concurrency", 1) for phase in phases if phase.has("concurrency")}
    return said.pop() if len(said) == 1 else None


def _gpu_names(telemetry: Any) -> list[str]:
    """Names of the GPUs that were watched; they are the server's."""
    place = Fields("telemetry_data", telemetry if isinstance(telemetry, Mapping) else {})
    found = []
    for endpoint in place.children("endpoints"):
        found += [gpu.text("gpu_name") for gpu in endpoint.children("gpus")]
    return [name for name in found if name]
