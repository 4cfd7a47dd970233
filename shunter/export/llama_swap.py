"""Writes a llama-swap configuration: its matrix of models that fit together, and what evicting each costs.

Source: llama-swap's config-schema.json and the comments of its config.example.yaml, as of August 2026,
https://github.com/mostlygeek/llama-swap (MIT).
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from shunter.envs.scenario.scenario import Scenario
from shunter.errors import InputError
from shunter.export.placement import Home, checkpoint_path, fitting_sets, gpu_index

__all__ = ["llama_swap_yaml"]

LEAST_TIMEOUT_S = 120
"""llama-swap's own default of healthCheckTimeout."""

HEADER = """\
# llama-swap configuration of the scenario {scenario}, written by `shunter export llama-swap`.
#
# evict_costs: milliseconds to unload a model and to load it again from {source}{weight}, as predicted.
# What a new llama-server process costs beyond its load (its start, the CUDA context) is not in them: it is
# about the same for every model.
# sets: models whose weights, KV of {max_batch} requests of {context} tokens each, and buffers fit together.
# metadata.shunter: the predictions behind both, with 90 % intervals.
"""


def llama_swap_config(
    scenario: Scenario, homes: Sequence[Home], *, models_dir: Path | None = None, by_demand: bool = False
) -> dict[str, Any]:
    """The configuration as plain data.

    Args:
        scenario: Its engine must be llama-cpp.
        homes: From ``homes_of``.
        models_dir: Where ``NAME.gguf`` lies of each model without a checkpoint.
        by_demand: Whether eviction costs are weighed by how often each model is asked for.

    Raises:
        InputError: The engine is another, a model has no checkpoint, or a device is the loopback device.
    """
    if scenario.engine != "llama-cpp":
        rule = "be llama-cpp: llama-swap is to start llama-server, and the costs must be of the same engine"
        raise InputError("engine", rule, scenario.engine)
    short = {home.model: f"m{m + 1}" for m, home in enumerate(homes)}
    longest_s = max(home.load.high for home in homes)
    return {
        "healthCheckTimeout": max(LEAST_TIMEOUT_S, math.ceil(3 * longest_s)),
        "models": {
            home.model: _model(scenario, home, checkpoint_path(scenario, m, models_dir, ".gguf"))
            for m, home in enumerate(homes)
        },
        "matrix": {
            "vars": {name: model for model, name in short.items()},
            "evict_costs": {short[home.model]: _cost_ms(home, by_demand) for home in homes},
            "sets": _sets(scenario, homes, short),
        },
    }


def llama_swap_yaml(
    scenario: Scenario, homes: Sequence[Home], *, models_dir: Path | None = None, by_demand: bool = False
) -> str:
    """The configuration as a commented file; see ``llama_swap_config``."""
    config = llama_swap_config(scenario, homes, models_dir=models_dir, by_demand=by_demand)
    header = HEADER.format(
        scenario=scenario.name,
        weight=", times its share of the requests" if by_demand else "",
        source="disk" if homes[0].is_cold else "the page cache",
        max_batch=scenario.limits.max_batch,
        context=scenario.limits.context_tokens,
    )
    if len(scenario.devices) > 1:
        header += "# Every model has one home device, so that no device has much more work than another.\n"
    return header + yaml.safe_dump(config, sort_keys=False, width=1000, allow_unicode=True)


def _cost_ms(home: Home, by_demand: bool) -> int:
    weight = home.share if by_demand else 1.0
    return max(1, round(1e3 * (home.unload.seconds + home.load.seconds) * weight))


def _model(scenario: Scenario, home: Home, path: Path) -> dict[str, Any]:
    device, model = scenario.devices[home.device], scenario.model(home.model)
    batch, context = scenario.batch_of(model), scenario.context_of(model)
    index = gpu_index(device, home.device)
    kind = "cuda" if device.device is None else device.spec.kind
    command = ["llama-server", "--host", "127.0.0.1", "--port", "${PORT}", "--model", str(path)]
    command += ["--n-gpu-layers", str(0 if kind == "cpu" else home.gpu_layers)]
    # llama-server divides its context among its slots.
    command += ["--ctx-size", str(context * batch)]
    command += ["--parallel", str(batch)]
    if model.kv_type is not None:
        command += ["--cache-type-k", model.kv_type, "--cache-type-v", model.kv_type]
    if kind == "cpu":
        command += ["--device", "none"]
    if kind == "vulkan":
        command += ["--device", f"Vulkan{device.spec.index}"]
    if device.device is not None and device.spec.threads is not None:
        command += ["--threads", str(device.spec.threads)]
    return {
        "cmd": " ".join(part if part == "${PORT}" else shlex.quote(part) for part in command),
        **({} if index is None else {"env": [f"CUDA_VISIBLE_DEVICES={index}"]}),
        "metadata": {"shunter": _metadata(scenario, home)},
    }


def _metadata(scenario: Scenario, home: Home) -> dict[str, Any]:
    return {
        "device": scenario.devices[home.device].name,
        "gpu_layers": home.gpu_layers,
        "total_layers": home.total_layers,
        "share_of_requests": round(home.share, 4),
        "device_mb": round(home.footprint_bytes / 1e6),
        "load_s": [_rounded(s) for s in (home.load.seconds, home.load.low, home.load.high)],
        "load_from": "disk" if home.is_cold else "page cache",
        "unload_s": [_rounded(s) for s in (home.unload.seconds, home.unload.low, home.unload.high)],
        "beyond_the_data": home.load.out_of_range or home.unload.out_of_range,
    }


def _rounded(seconds: float) -> float:
    return float(f"{seconds:.3g}")


def _sets(scenario: Scenario, homes: Sequence[Home], short: dict[str, str]) -> dict[str, str]:
    """A set for each device with models, and one of them all together."""
    sets = {}
    for d, device in enumerate(scenario.devices):
        mine = [home for home in homes if home.device == d]
        if mine:
            names = [short[home.model] for home in mine]
            sizes = [home.footprint_bytes for home in mine]
            sets[_set_name(device.name, d)] = _expression(names, sizes, device.memory_bytes)
    if len(sets) > 1:
        sets["all_devices"] = " & ".join(f"+{name}" for name in sets)
    return sets


def _set_name(device: str, d: int) -> str:
    return f"on{d}_" + re.sub(r"[^A-Za-z0-9_.-]", "_", device)


def _expression(names: Sequence[str], sizes: Sequence[float], capacity: float) -> str:
    found = fitting_sets(sizes, capacity)
    if found is not None:
        return " | ".join(" & ".join(names[i] for i in chosen) for chosen in found)
    together, total = 0, 0.0
    for size in sorted(sizes, reverse=True):
        total += size
        if total > capacity:
            break
        together += 1
    # Too many sets to list: any models, as many as fit even if they are the largest.
    return " & ".join(["(" + " | ".join(names) + ")"] * together)
