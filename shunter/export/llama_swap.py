"""Writes a llama-swap configuration: its matrix of models that fit together, and what evicting each costs.

Source: llama-swap's config-schema.json, its loader and the comments of its config.example.yaml, as of August
2026, https://github.com/mostlygeek/llama-swap (MIT).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shunter.envs.scenario.model import Model
from shunter.envs.scenario.scenario import Scenario
from shunter.errors import InputError, one_line
from shunter.export.escaping import swap_text, swap_words, to_yaml
from shunter.export.placement import Home, checkpoint_path, fitting_sets, gpu_environment

__all__ = ["MAX_QUEUE", "PROCESS_BYTES", "llama_swap_yaml"]

PROCESS_BYTES = 457 * 2**20
"""Memory of a GPU that a llama-server takes besides what it reports: its CUDA context and libraries.

Source: ``cudaMinimumMemory`` of Ollama, which runs llama.cpp in processes of its own.
"""

MAX_QUEUE = 512
"""Requests that may wait for one model, as for ``shunter serve``; of its own llama-swap takes ten in all."""

LEAST_TIMEOUT_S = 120
"""llama-swap's own default of healthCheckTimeout."""

HEADER = """\
# llama-swap configuration of the scenario {scenario}, written by `shunter export llama-swap`.
#
# evict_costs: milliseconds to unload a model and to load it again from {source}{weight}, as predicted.
# What a new llama-server process costs beyond its load (its start, the CUDA context) is not in them: it is
# about the same for every model.
# sets: models whose weights, KV of {max_batch} requests of {context} tokens each, buffers and processes
# ({process_mb} MB on a GPU) fit together.
# concurrencyLimit: requests of a model that run or wait; llama-swap turns further ones away with 429.
# metadata.shunter: the predictions behind both, with 90 % intervals.
"""


def llama_swap_config(
    scenario: Scenario,
    homes: Sequence[Home],
    *,
    models_dir: Path | None = None,
    by_demand: bool = False,
    max_queue: int = MAX_QUEUE,
) -> dict[str, Any]:
    """The configuration as plain data.

    Args:
        scenario: All of its models must run on llama-cpp.
        homes: From ``homes_of``; a model with several is one entry for each and a selector of its name.
        models_dir: Where ``NAME.gguf`` lies of each model without a checkpoint.
        by_demand: Whether eviction costs are weighed by how often each model is asked for.
        max_queue: Requests that may wait for one model.

    Raises:
        InputError: The engine is another, a model has no checkpoint, a device is the loopback device, or a
            name or a path holds what llama-swap cannot carry.
    """
    if scenario.engines != ["llama-cpp"]:
        rule = "be llama-cpp: llama-swap is to start llama-server, and the costs must be of the same engine"
        raise InputError("engine", rule, ", ".join(scenario.engines))
    names = _entry_names(scenario, homes)
    short = [f"m{i}" for i in range(1, len(homes) + 1)]
    longest_s = max(home.load.high for home in homes)
    costs = {short[i]: _cost_ms(home, by_demand) for i, home in enumerate(homes)}
    matrix = {
        "vars": dict(zip(short, names, strict=True)),
        "evict_costs": costs,
        "sets": _sets(scenario, homes, short),
    }
    selectors = _selectors(scenario, homes, names)
    models = {
        name: _model(scenario, home, models_dir, max_queue, is_target=home.model in selectors)
        for name, home in zip(names, homes, strict=True)
    }
    routing: dict[str, Any] = {"router": {"use": "matrix", "settings": {"matrix": matrix}}}
    by_entry = [(name, scenario.model(home.model)) for name, home in zip(names, homes, strict=True)]
    if priority := {name: model.priority for name, model in by_entry if model.priority}:
        routing["scheduler"] = {"use": "fifo", "settings": {"fifo": {"priority": priority}}}
    first = [home.model not in {h.model for h in homes[:i]} for i, home in enumerate(homes)]
    preload = [name for i, (name, m) in enumerate(by_entry) if first[i] and (m.pinned or m.preload)]
    return {
        "healthCheckTimeout": max(LEAST_TIMEOUT_S, math.ceil(3 * longest_s)),
        "models": models,
        **({"selectors": selectors} if selectors else {}),
        "routing": routing,
        **({"hooks": {"on_startup": {"preload": preload}}} if preload else {}),
    }


def llama_swap_yaml(
    scenario: Scenario,
    homes: Sequence[Home],
    *,
    models_dir: Path | None = None,
    by_demand: bool = False,
    max_queue: int = MAX_QUEUE,
) -> str:
    """The configuration as a commented file; see ``llama_swap_config``."""
    config = llama_swap_config(
        scenario, homes, models_dir=models_dir, by_demand=by_demand, max_queue=max_queue
    )
    header = HEADER.format(
        scenario=one_line(scenario.name),
        weight=", times its share of the requests" if by_demand else "",
        source="disk" if homes[0].is_cold else "the page cache",
        max_batch=scenario.limits.max_batch,
        context=scenario.limits.context_tokens,
        process_mb=round(max(home.process_bytes for home in homes) / 1e6),
    )
    if len(scenario.devices) > 1:
        header += (
            "# GPUs are numbered as nvidia-smi does. Every model has its home devices, so that no device\n"
        )
        header += "# has much more work than another.\n"
    return header + to_yaml(config)


def _entry_names(scenario: Scenario, homes: Sequence[Home]) -> list[str]:
    """What llama-swap calls each home: the model, with the device where it has several."""
    models = [home.model for home in homes]
    taken = {name for model in scenario.models for name in (model.name, *model.aliases)}
    names = []
    for home in homes:
        name = home.model
        if models.count(name) > 1:
            name = f"{name}@{scenario.devices[home.device].name}"
            while name in taken:
                name += "@"
        taken.add(name)
        names.append(swap_text(f"models.{home.model}.name", name))
    return names


def _selectors(scenario: Scenario, homes: Sequence[Home], names: Sequence[str]) -> dict[str, Any]:
    """Of models with several homes: each is filled to its batch before the next is started."""
    selectors = {}
    for model in scenario.models:
        targets = [names[i] for i, home in enumerate(homes) if home.model == model.name]
        for name in (model.name, *_aliases(model)) if len(targets) > 1 else ():
            spillover = {"spillover": scenario.batch_of(model)}
            selectors[name] = {"strategy": "spillover", "targets": list(targets), "settings": spillover}
    return selectors


def _aliases(model: Model) -> list[str]:
    return [swap_text(f"models.{model.name}.aliases", alias) for alias in model.aliases]


def _cost_ms(home: Home, by_demand: bool) -> int:
    weight = home.share if by_demand else 1.0
    return max(1, round(1e3 * (home.unload.seconds + home.load.seconds) * weight))


def _model(
    scenario: Scenario, home: Home, models_dir: Path | None, max_queue: int, *, is_target: bool
) -> dict[str, Any]:
    model = scenario.model(home.model)
    environment = gpu_environment(scenario.devices[home.device], home.device)
    path = checkpoint_path(model, models_dir, ".gguf")
    entry: dict[str, Any] = {
        "cmd": _command(scenario, home, path),
        "proxy": "http://127.0.0.1:${PORT}",
        "concurrencyLimit": scenario.batch_of(model) + max_queue,
    }
    if environment:
        entry["env"] = [f"{name}={value}" for name, value in environment.items()]
    if is_target:
        entry["unlisted"] = True
    elif model.aliases:
        entry["aliases"] = _aliases(model)
    if model.ttl_s is not None:
        entry["ttl"] = math.ceil(model.ttl_s)
    return {**entry, "metadata": {"shunter": _metadata(scenario, home)}}


def _command(scenario: Scenario, home: Home, path: Path) -> str:
    device, model = scenario.devices[home.device], scenario.model(home.model)
    batch, context = scenario.batch_of(model), scenario.context_of(model)
    kind = "cuda" if device.device is None else device.spec.kind
    words = ["--model", str(path), "--n-gpu-layers", str(0 if kind == "cpu" else home.gpu_layers)]
    # llama-server divides its context among its slots.
    words += ["--ctx-size", str(context * batch), "--parallel", str(batch)]
    if model.kv_type is not None:
        words += ["--cache-type-k", model.kv_type, "--cache-type-v", model.kv_type]
        if model.kv_type != "f16":  # llama.cpp quantises values only where it attends by flash attention
            words += ["--flash-attn", "on"]
    if kind == "cpu":
        words += ["--device", "none"]
    if kind == "vulkan":
        words += ["--device", f"Vulkan{device.spec.index}"]
    if device.device is not None and device.spec.threads is not None:
        words += ["--threads", str(device.spec.threads)]
    field = f"models.{model.name}"
    start = "llama-server --host 127.0.0.1 --port ${PORT} "
    return start + swap_words(f"{field}.checkpoint", words) + _further(f"{field}.args", model.args)


def _further(field: str, words: Sequence[str]) -> str:
    return " " + swap_words(field, words) if words else ""


def _metadata(scenario: Scenario, home: Home) -> dict[str, Any]:
    device = scenario.devices[home.device].name
    return {
        "device": swap_text(f"devices.{device}.name", device),
        "gpu_layers": home.gpu_layers,
        "total_layers": home.total_layers,
        "share_of_requests": round(home.share, 4),
        "device_mb": round(home.footprint_bytes / 1e6),
        "process_mb": round(home.process_bytes / 1e6),
        "load_s": home.load.rounded(),
        "load_from": "disk" if home.is_cold else "page cache",
        "unload_s": home.unload.rounded(),
        "beyond_the_data": home.load.out_of_range or home.unload.out_of_range,
    }


def _sets(scenario: Scenario, homes: Sequence[Home], short: Sequence[str]) -> dict[str, str]:
    """A set for each device with models, and one of them all together."""
    sets = {}
    for d, device in enumerate(scenario.devices):
        mine = [i for i, home in enumerate(homes) if home.device == d]
        if mine:
            stay = [i for i in mine if _stays(scenario, homes, i)]
            sizes = [homes[i].footprint_bytes + homes[i].process_bytes for i in mine]
            size = dict(zip(mine, sizes, strict=True))
            room = max(1.0, device.memory_bytes - sum(size[i] for i in stay))  # one fits always, alone
            go = [i for i in mine if i not in stay]
            expression = _expression([short[i] for i in go], [min(size[i], room) for i in go], room)
            if expression and stay:
                expression = f"({expression})"
            parts = [short[i] for i in stay] + [expression] * bool(expression)
            sets[_set_name(device.name, d)] = " & ".join(parts)
    if len(sets) > 1:
        sets["all_devices"] = " & ".join(f"+{name}" for name in sets)
    return sets


def _stays(scenario: Scenario, homes: Sequence[Home], i: int) -> bool:
    """Whether a home is the one where its model is pinned: the first of them."""
    model = homes[i].model
    return bool(scenario.model(model).pinned) and all(home.model != model for home in homes[:i])


def _set_name(device: str, d: int) -> str:
    return f"on{d}_" + re.sub(r"[^A-Za-z0-9_.-]", "_", device)


def _expression(names: Sequence[str], sizes: Sequence[float], capacity: float) -> str:
    if not names:
        return ""
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
