"""Other tools' measurements as rows of a dataset: with what their files say, and nothing that they do not."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from shunter.catalog.devices import parse_device
from shunter.catalog.gpus import gpu_name, similar_gpus
from shunter.catalog.work import FACT_COLUMNS, FAMILY_COLUMNS
from shunter.errors import InputError
from shunter.models.datasheets import HOST_BANDWIDTH_BYTES_PER_S, host_bandwidth_bytes_per_s
from shunter.models.published.naming import Namer
from shunter.profiling.dataset.fingerprint import digest
from shunter.profiling.dataset.schema import SCHEMA_VERSION
from shunter.profiling.measurements.measurement import Measurement

__all__ = ["ImportOptions", "imported_rows"]

_NATIVE = ("CUDA", "ROCM", "HIP", "METAL", "MTL", "")
"""What drives a GPU as its data sheet is about; Vulkan on the same one is a device of its own."""


_NOT_TOLD = ("session_id", "source", "checkpoint_format", *FACT_COLUMNS, *FAMILY_COLUMNS)
"""What an id does not depend on: where a file lies, and what the model's name stands for."""


@dataclass(frozen=True)
class ImportOptions:
    """What files do not say; empty or None: not known either.

    Attributes:
        models: Names of the catalogue or checkpoints, by what files call a model; "" is for any.
        quantization: How weights are stored, where a file does not say.
        device: A GPU by name, or ``cpu:N-threads``.
        engine: Name in the engine registry.
        engine_version: As the engine would report it.
        host_bandwidth_bytes_per_s: Peak of the host's memory; None: what the catalogue says of the CPU that a
            file names, all channels filled.
    """

    models: Mapping[str, str]
    quantization: str = ""
    device: str = ""
    engine: str = ""
    engine_version: str = ""
    host_bandwidth_bytes_per_s: float | None = None


@dataclass(frozen=True)
class Imported:
    """What came of measurements.

    Attributes:
        rows: In the dataset's columns.
        notes: What was concluded, and what stays unknown.
        left_out: Why a measurement is no row, by place: its model's shape is not known, say.
    """

    rows: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]
    left_out: Mapping[str, str]


def imported_rows(
    measurements: Iterable[Measurement], options: ImportOptions, beside: pd.DataFrame | None = None
) -> Imported:
    """Turns measurements into rows; the same ones always become the same rows.

    Args:
        measurements: Of any tools.
        options: What their files do not say.
        beside: The dataset that they will be added to: a model that it has is the same one.

    Raises:
        InputError: No file says, and no option does, what a row needs: the model's shape, how its weights
            are stored, the device, the engine; or an option says something else than a file.
        UnknownNameError: A kind of device is not known.
    """
    known, namer = list(measurements), Namer(options.models, options.quantization)
    if beside is not None:
        names = ["model", "checkpoint_format", "quantization", *FACT_COLUMNS, *FAMILY_COLUMNS]
        there: list[dict[Any, Any]] = beside[names].drop_duplicates("model").to_dict("records")
        namer.found.update({str(facts["model"]): facts for facts in there})
    rows: list[dict[str, Any]] = []
    seen: Counter[tuple[str, str]] = Counter()
    refused: dict[str, InputError] = {}
    for measurement in known:
        try:
            facts = _facts(measurement, options, namer)
        except InputError as error:
            if not error.field.startswith(measurement.place):
                raise  # an option is wrong, for all
            refused[measurement.place] = error
            continue
        for duration_s in measurement.duration_s:
            of = (facts["session_id"], facts["cell_id"])
            row = {**facts, **_times(measurement, duration_s), "repeat": seen[of]}
            seen[of] += 1
            # What was measured, not where it lay: a file that is imported twice is the same rows.
            told = [row[name] for name in sorted(row) if name not in _NOT_TOLD]
            rows.append({**row, "row_id": f"import/{digest(told, 20)}"})
    if not rows:
        raise next(iter(refused.values()))
    taken = [measurement for measurement in known if measurement.place not in refused]
    notes = (*namer.notes, *_unknown(taken, rows, options))
    why = {p: str(error).removeprefix(f"{p}, ") for p, error in refused.items()}
    return Imported(tuple(rows), notes, why)


def _facts(m: Measurement, options: ImportOptions, namer: Namer) -> dict[str, Any]:
    model = namer.facts(m.model, m.place)
    device, kind, count = _device(m, options)
    engine = _said(m.place, "engine", m.engine, options.engine, "--engine")
    total_layers = model["total_layers"]
    layers = total_layers if m.gpu_layers is None else min(m.gpu_layers, total_layers)
    hardware = {"cpu_model": m.cpu, "gpus": list(m.gpus)} if m.cpu or m.gpus else {}
    tokens = m.prompt_tokens if m.operation == "prefill" else 0
    file = Path(re.sub(r": (row|benchmark) \d+$", "", m.place)).name
    told = ", ".join(f"{name} {value}" for name, value in sorted(m.settings.items()))
    facts = {
        **model,
        "schema_version": SCHEMA_VERSION,
        "session_id": f"import/{file}",
        "measured_at": m.measured_at,
        "engine": engine,
        "engine_version": m.engine_version or options.engine_version,
        "device": device,
        "device_kind": kind,
        "device_threads": None if m.threads is None else float(m.threads),
        "hardware_id": digest(hardware) if hardware else "unknown",
        "hardware": json.dumps(hardware, sort_keys=True),
        "versions": json.dumps({m.tool.partition(" ")[0]: m.tool.partition(" ")[2]}),
        "operation": m.operation,
        "gpu_layers": layers,
        "offload_ratio": 1 - layers / total_layers,
        "page_cache": "warm",
        "batch": m.batch,
        "prompt_tokens": m.prompt_tokens,
        "decode_tokens": m.decode_tokens,
        "tokens": tokens,
        "context_tokens": m.prompt_tokens + (m.decode_tokens + 1) / 2 if m.decode_tokens else 0.0,
        "max_batch": m.batch,
        "max_context_tokens": max(1, m.prompt_tokens + m.decode_tokens),
        "output": "",
        "includes_process_start": False,
        "is_outlier": False,
        "source": f"{m.tool}, {file}" + (f" ({told})" if told else ""),
        "gpu_count": float(count),
        "kv_on_host": float(m.kv_on_host),
        "host_bandwidth_bytes_per_s": options.host_bandwidth_bytes_per_s or host_bandwidth_bytes_per_s(m.cpu),
    }
    asked = (
        "engine",
        "device",
        "model",
        "weight_bytes",
        "operation",
        "gpu_layers",
        "gpu_count",
        "kv_on_host",
    )
    lengths = ("batch", "prompt_tokens", "decode_tokens", "tokens", "context_tokens")
    return {**facts, "cell_id": digest([*(facts[name] for name in (*asked, *lengths)), told])}


def _times(m: Measurement, duration_s: float) -> dict[str, Any]:
    each = m.batch if m.operation == "decode" else m.prompt_tokens
    steps = m.decode_tokens if m.operation == "decode" else 0
    return {"duration_s": duration_s, "steps": steps, "tokens_per_s": each / duration_s}


def _said(place: str, what: str, said: str, given: str, option: str) -> str:
    if said and given and said != given:
        raise InputError(option, f"be what the file says, {said}, or be left out ({place})", given)
    if not said and not given:
        raise InputError(f"{place}, {what}", f"be said by the file or by {option}", "neither")
    return said or given


def _device(m: Measurement, options: ImportOptions) -> tuple[str, str, int]:
    """The dataset's device, its kind and how many of it share the layers."""
    gpus = set(m.gpus)
    if len(gpus) > 1:
        rule = "be of one kind of GPU: a row has one device (--device cannot help)"
        raise InputError(f"{m.place}, gpu_info", rule, ", ".join(sorted(gpus)))
    said = next(iter(gpus), "")
    given = options.device
    if re.match(r"(cpu|loopback|cuda|vulkan)\b(?!\s)", given) and (given == "cpu" or ":" in given):
        device = parse_device(given, field="--device")
        if said or (m.backend not in ("CPU", "") and device.kind == "cpu"):
            raise InputError("--device", f"be what the file says, {said or m.backend} ({m.place})", given)
        threads = int(found[1]) if (found := re.search(r":(\d+)-threads", given)) else None
        if device.kind == "cpu" and (threads or m.threads) is None:
            raise InputError("--device", "say the threads, as in cpu:8-threads", given)
        if threads and m.threads and threads != m.threads:
            raise InputError("--device", f"have the {m.threads} threads of the file ({m.place})", given)
        name = f"cpu:{threads or m.threads}-threads" if device.kind == "cpu" else device.hardware_name
        return name, device.kind, 1
    if said and given and (gpu_name(said) or said) != (gpu_name(given) or given):
        raise InputError("--device", f"be what the file says, {said}, or be left out ({m.place})", given)
    if said or given:
        if m.backend == "CPU" and not said:
            raise InputError("--device", f"be a CPU, which the file says ({m.place})", given)
        name = gpu_name(said or given) or said or given
        backend = m.backend.upper()
        name = name if backend in _NATIVE else f"{name} ({m.backend})"
        if len(m.gpus) > 1 and gpu_name(name) is None:
            rule = "be one where the catalogue has no data sheet of it"
            raise InputError(f"{m.place}, GPUs", rule, f"{len(m.gpus)} of {name}")
        return name, "cuda" if gpu_name(name) else backend.lower() or "gpu", max(1, len(m.gpus))
    if m.backend == "CPU" and m.threads:
        return f"cpu:{m.threads}-threads", "cpu", 1
    rule = "be said by the file or by --device ('RTX 4090', cpu:8-threads)"
    raise InputError(f"{m.place}, device", rule, m.backend or "nothing")


def _unknown(known: list[Measurement], rows: list[dict[str, Any]], options: ImportOptions) -> Iterable[str]:
    """What the rows do not know."""
    if any(m.is_mean for m in known):
        yield "not known: single repeats of what files have means of, so that outliers cannot be told"
    silent = {
        "when it was measured": sum(not m.measured_at for m in known),
        "the engine's version": sum(not row["engine_version"] for row in rows),
        "the processor": sum(not m.cpu for m in known),
    }
    yield from (f"not known: {what}, of {n} measurements" for what, n in silent.items() if n)
    devices = sorted({row["device"] for row in rows if ":" not in row["device"]})
    for name in (name for name in devices if gpu_name(name) is None):
        alike = similar_gpus(name)
        hint = f" (GPUs of such a name: {', '.join(alike)})" if alike else ""
        yield f"{name} has no data sheet here{hint}: it is fitted by itself, others' rows say nothing of it"
    split = (row for row in rows if row["offload_ratio"] > 0 and row["device_kind"] != "cpu")
    if any(row["host_bandwidth_bytes_per_s"] is None for row in split):
        assumed = HOST_BANDWIDTH_BYTES_PER_S / 1e9
        yield (
            "not known: the host's memory bandwidth (--host-bandwidth), which layers on the host wait for; "
            f"a fit takes {assumed:.0f} GB/s and corrects it by the rows"
        )
    yield "not known, and left missing: memory, loads, clocks, temperature"
