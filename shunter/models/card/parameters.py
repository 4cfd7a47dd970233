"""What was calibrated, as a table for people: values with units, and what they mean as a rate."""

from __future__ import annotations

from shunter.models.performance import PerformanceModel
from shunter.report.page import ReportTable

_PER = (
    ("more_sequences_params", "sequence and parameter"),
    ("more_sequences_layers", "sequence and layer"),
    ("is_batched_params", "parameter"),
    ("token_params", "token and parameter"),
    ("token_width", "token, layer and element"),
    ("hop_token_width", "token and element"),
    ("attention", "token (pair), layer and element"),
    ("batch_width", "reserved token and element"),
    ("read_bytes", "byte"),
    ("weight_bytes", "byte"),
    ("kv_bytes", "byte"),
    ("kv_reserved_bytes", "byte"),
    ("split_bytes", "byte"),
    ("layers", "layer"),
    ("hop", "operation"),
    ("constant", "operation"),
)
"""What a feature counts, by how its name begins; see ``shunter.models.physics.features``."""


def parameter_table(model: PerformanceModel) -> list[ReportTable]:
    """A table of ``PerformanceModel.parameters``; none if nothing was calibrated."""
    rows = tuple(
        (
            target,
            " ".join(part for part in (engine, device or "any GPU", page_cache) if part),
            parameter,
            *_said(target, parameter, value, bool(device)),
        )
        for target, engine, device, page_cache, parameter, value in model.parameters().to_numpy().tolist()
    )
    columns = ("target", "on", "parameter", "value", "unit", "as a rate")
    note = (
        "Of a device without data sheet: what each feature costs. Of all GPUs: how many times as long as "
        "the closed form at the data sheet's peak rates, and device_factor: how much slower one GPU is than "
        "that. What is 0 is left out. Few data can share one cost among features in many ways."
    )
    return [ReportTable("Calibrated parameters", columns, rows, note)] if rows else []


def _said(target: str, parameter: str, value: float, local: bool) -> tuple[str, str, str]:
    """Value, unit and rate."""
    per = next((what for start, what in _PER if parameter.startswith(start)), None)
    if per is None or not local:
        return f"{value:.3g}", "times", ""
    unit = "bytes" if target.endswith("_bytes") else "s"
    rate = f"{1e-9 / value:.3g} GB/s" if unit == "s" and per == "byte" and value > 0 else ""
    return f"{value:.3g}", f"{unit} per {per}", rate
