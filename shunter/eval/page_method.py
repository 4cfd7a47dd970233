"""How an evaluation was made: what its metrics mean, and with what it was measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shunter.profiling.report_page import ReportTable, Section

__all__ = ["DEFINITIONS", "definitions_section", "method_section"]

DEFINITIONS = {
    "response_mean_s": "Mean over requests of last token - arrival, of those that were served.",
    "response_p50_s": "Median of last token - arrival.",
    "response_p95_s": "What 95 % of the served requests' last token - arrival stay below.",
    "response_p99_s": "What 99 % of the served requests' last token - arrival stay below.",
    "ttft_mean_s": "Time to first token: mean of first token - arrival.",
    "tpot_mean_s": (
        "Time per output token: mean over requests of at least two tokens of "
        "(last token - first token) / (tokens - 1)."
    ),
    "swaps": "Loads of a model onto a device.",
    "preemptions": "Times that a started request was left for another model.",
    "loading_share": "Share of all devices' time that went into loading weights.",
    "unfinished": "Requests that were not served when the run ended.",
    "slo_attainment": "Share of all requests that were served within every limit; unserved ones violate it.",
    "goodput_per_s": "Requests per second of the run that were served within every limit.",
    "slowdown_mean": "Mean of response / response alone on the best device, loaded and idle.",
    "cost_mean": "What the scenario's objective accrued in a run, in its own unit.",
}
"""By key of ``shunter.eval.metrics.summarize``."""


def definitions_section(result: dict[str, Any]) -> Section:
    """What the metrics mean that the tables show."""
    rows = tuple(
        (text, DEFINITIONS[metric]) for metric, text in result["metrics"].items() if metric in DEFINITIONS
    )
    notes = (
        "Requests are pooled over all runs of a policy. Intervals are 95 % paired bootstraps: over request "
        "sequences if there are five or more, otherwise over blocks of ten requests, which is optimistic.",
    )
    return Section(
        "What the metrics mean", notes, tables=(ReportTable("", ("metric", "is"), rows, prose=True),)
    )


def method_section(result: dict[str, Any]) -> Section:
    """Scenario, seeds, engine, versions and machine."""
    rows = tuple((name, text) for name, text in _facts(result) if text)
    return Section("How it was measured", tables=(ReportTable("", ("what", "value"), rows, prose=True),))


def _facts(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    scenario, made = result["scenario"], result.get("provenance", {})
    workload = scenario["workload"]
    yield "scenario", scenario["name"]
    yield "engine", made.get("engine_version") or f"{scenario['engine']} (not run)"
    yield "devices", ", ".join(d["device"] or d["gpu"] for d in scenario["devices"])
    yield "models", ", ".join(model["name"] for model in scenario["models"])
    yield "requests", f"{workload['requests']} a sequence, {result['rate_per_s']:.4g}/s"
    yield "workload seeds", _ranges(result["seeds"])
    yield "predictions", f"tables interpolate them to within {result['interpolation_error']:.1%}"
    performance = made.get("performance")
    if performance:
        recalibrated = f", recalibrated on {performance['recalibrated_on_runs']} runs"
        yield "performance model", f"{performance['digest']}, of data {performance['data']}{recalibrated}"
    yield "versions", ", ".join(f"{n} {v}" for n, v in made.get("versions", {}).items())
    yield "commit", made.get("commit") or ""
    machine = made.get("machine", {})
    if machine:
        gpus = ", ".join(machine["gpus"]) or "no GPU"
        size = f"{machine['logical_cores']} cores, {machine['ram_gib']} GiB"
        yield "machine", f"{machine['cpu_model']}, {size}, {gpus}, {machine['system']} {machine['kernel']}"
    yield "when", made.get("created_utc", "")


def _ranges(seeds: list[int]) -> str:
    """Numbers as text, consecutive ones as ranges."""
    parts: list[list[int]] = []
    for seed in sorted(seeds):
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
