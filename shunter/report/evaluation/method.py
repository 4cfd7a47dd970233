"""How an evaluation was made: what its metrics mean, and with what it was measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shunter.report.page import ReportTable, Section


def definitions_section(result: dict[str, Any]) -> Section:
    """What the words mean that the tables show."""
    table = ReportTable("", ("word", "means"), tuple(result["definitions"].items()), prose=True)
    return Section(
        "What the words mean", ("Requests are pooled over all runs of a policy.",), tables=(table,)
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
