"""Reports of GuideLLM (JSON or YAML): a run for each rate of a sweep, with distributions by outcome.

Times are in the metrics' names: ``_ms``. Only successful requests count.

Source: guidellm/benchmark/schemas/generative/{metrics,report}.py of GuideLLM 0.2 to 0.7.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

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
