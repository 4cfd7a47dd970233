"""Writes a plan of vLLM's sleep mode: how each model is served, how deep it sleeps, what waking it costs.

Source: vLLM's documentation, https://docs.vllm.ai/en/latest/features/sleep_mode/: level 1 keeps the weights
in the host's memory, level 2 drops them; both drop the KV cache.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shunter.catalog.gpus import get_gpu
from shunter.envs.scenario.limits import ASLEEP_BYTES
from shunter.envs.scenario.model import Model
from shunter.envs.scenario.scenario import Scenario
from shunter.errors import InputError
from shunter.export.escaping import to_yaml, word
from shunter.export.placement import Home, checkpoint_path, fitting_sets, gpu_environment
from shunter.export.sleep_script import sleep_script
from shunter.models.performance import PerformanceModel
from shunter.models.published.load_costs import measured_sleep_level

__all__ = ["sleep_plan"]

MOST_UTILIZATION = 0.92
"""vLLM's own default of gpu_memory_utilization: the share of a GPU's memory that must be free to start.

Source: vllm/config/cache.py, 0.33.
"""

BLOCK_TOKENS = 16
"""Tokens of a KV block of vLLM's."""

LAST_PORT = 65535

_KV_TYPES: dict[str | None, list[str]] = {None: [], "f16": [], "q8_0": ["--kv-cache-dtype", "fp8"]}
"""What a model's ``kv_type`` is to vLLM."""

NOT_MEASURED = "not measured: the performance model has no rows of vLLM at this sleep level"


@dataclass(frozen=True)
class SleepPlan:
    """A plan and what carries it out.

    Attributes:
        plan: As plain data.
        script: A shell script: ``start``, ``wake MODEL``, ``sleep MODEL``, ``stop``.
    """

    plan: dict[str, Any]
    script: str

    def to_yaml(self) -> str:
        """The plan as a file."""
        return HEADER + to_yaml(self.plan)


HEADER = """\
# Plan of vLLM's sleep mode, written by `shunter export vllm`. The script beside it carries it out.
# Times are predictions in seconds: [predicted, low, high], 90 % intervals; null where sleep was not measured.
# room_mb: what of a device the servers that are awake may take beside what all of them keep asleep (asleep_mb
# each: CUDA context, graphs). Look at nvidia-smi once they sleep: if they keep more, export with --asleep-mb.
# A server without --gpu-memory-utilization (its device names no gpu of the catalogue) wants 92 % of the
# device free to start. The sleep endpoints need VLLM_SERVER_DEV_MODE=1; do not expose such a server to users.
"""


def sleep_plan(
    scenario: Scenario,
    homes: Sequence[Home],
    performance: PerformanceModel,
    *,
    models_dir: Path | None = None,
    first_port: int = 8001,
    asleep_bytes: float = ASLEEP_BYTES,
) -> SleepPlan:
    """Plans one vLLM server per model, all of them started once and asleep while others need the device.

    Level 1 goes to the models that gain most by it per byte, while the host's memory for weights lasts
    (``limits.host_memory_gb``); the others sleep at level 2 and read their weights again when they wake.

    Args:
        scenario: All of its models must run on vllm.
        homes: From ``homes_of``, one for each model.
        performance: Tells whether it was fitted to rows of a sleeping vLLM, and at which level.
        models_dir: Where a folder of its name lies of each model without a checkpoint.
        first_port: Port of the first server; the others follow.
        asleep_bytes: Device memory that each server keeps while it sleeps.

    Raises:
        InputError: The engine is another, a model has no checkpoint, a device is no GPU or has no room for a
            model beside what the others keep, a level is not all layers, or a port would be beyond the last.
    """
    if scenario.engines != ["vllm"]:
        rule = "be vllm: the plan is for vLLM servers, and the costs must be of the same engine"
        raise InputError("engine", rule, ", ".join(scenario.engines))
    if first_port + len(homes) - 1 > LAST_PORT:
        raise InputError("--port", f"leave {len(homes)} ports up to {LAST_PORT}", first_port)
    rooms = _rooms(scenario, homes, asleep_bytes)
    levels = _levels(scenario, homes)
    version = performance.state_.engine_versions.get("vllm")
    measured_level = measured_sleep_level(performance, "vllm")
    models = []
    for m, home in enumerate(homes):
        asked = scenario.model(home.model)
        port, path = first_port + m, checkpoint_path(asked, models_dir)
        costs = _costs(home, levels[m], measured_level)
        beside_bytes = asleep_bytes * (sum(other.device == home.device for other in homes) - 1)
        serve = _serve(scenario, home, path, port, beside_bytes)
        models.append(_server(scenario, home, serve, port, levels[m], costs))
    memory_gb = scenario.limits.host_memory_gb
    plan = {
        "scenario": scenario.name,
        "vllm_version_measured": version,
        "sleep_level_measured": measured_level,
        "host_memory_gb": memory_gb if memory_gb is not None else _UNSTATED,
        "asleep_mb": round(asleep_bytes / 1e6),
        "room_mb": {device.name: room for device, room in zip(scenario.devices, rooms, strict=True)},
        "awake_together": _together(scenario, homes, rooms),
        "models": models,
    }
    return SleepPlan(plan, sleep_script(plan))


def _mb(home: Home) -> int:
    return math.ceil(home.footprint_bytes / 1e6)


def _rooms(scenario: Scenario, homes: Sequence[Home], asleep_bytes: float) -> list[int]:
    """MB of each device that the servers that are awake may take, beside what all of them keep asleep."""
    rooms = []
    for d, device in enumerate(scenario.devices):
        word(f"devices.{device.name}.name", device.name)
        mine = [home for home in homes if home.device == d]
        room = math.floor((device.memory_bytes - asleep_bytes * len(mine)) / 1e6)
        for home in mine:
            if _mb(home) > room:
                kept = f"{len(mine)} servers keep {asleep_bytes / 1e6:.0f} MB each asleep (--asleep-mb)"
                left = f"{room} MB of {device.memory_bytes / 1e6:.0f} MB"
                raise InputError(
                    f"devices.{device.name}", f"have {_mb(home)} MB for {home.model}: {kept}", left
                )
        rooms.append(room)
    return rooms


def _server(
    scenario: Scenario, home: Home, serve: str, port: int, level: int, costs: dict[str, Any]
) -> dict[str, Any]:
    return {
        "name": home.model,
        "device": scenario.devices[home.device].name,
        "port": port,
        "serve": serve,
        "sleep_level": level,
        "sleep": _sleep(port, level),
        "wake": _wake(port, level),
        **costs,
        "device_mb": _mb(home),
        "host_mb_asleep": round(home.weight_bytes / 1e6) if level == 1 else 0,
        "share_of_requests": round(home.share, 4),
    }


_UNSTATED = "not stated (limits.host_memory_gb): taken to hold the weights of all models"


def _levels(scenario: Scenario, homes: Sequence[Home]) -> list[int]:
    left = math.inf if scenario.limits.host_memory_gb is None else scenario.limits.host_memory_gb * 1e9
    levels = [2] * len(homes)
    gain = [home.share * home.load.seconds / home.weight_bytes for home in homes]
    for m in sorted(range(len(homes)), key=lambda m: -gain[m]):
        if homes[m].weight_bytes <= left:
            left -= homes[m].weight_bytes
            levels[m] = 1
    return levels


def _costs(home: Home, level: int, measured_level: int | None) -> dict[str, Any]:
    """What a sleeping vLLM's loads and unloads were is waking and sleeping; else they are restarts."""
    load, unload = home.load.rounded(), home.unload.rounded()
    if level == measured_level:
        costs = {"wake_s": load, "sleep_s": unload, "reload_s": None}
        note = "reload_s not measured: loads of the performance model wake a sleeping vLLM"
    elif measured_level is None:
        costs = {"wake_s": None, "sleep_s": None, "reload_s": load}
        note = f"{NOT_MEASURED}; reload_s is a load without sleep, which waking replaces"
    else:
        costs = {"wake_s": None, "sleep_s": None, "reload_s": None}
        note = f"{NOT_MEASURED}, only at level {measured_level}"
    if level == measured_level and (home.load.out_of_range or home.unload.out_of_range):
        note += "; predicted beyond the data"
    return {**costs, "note": note}


def _serve(scenario: Scenario, home: Home, path: Path, port: int, beside_bytes: float) -> str:
    device, model = scenario.devices[home.device], scenario.model(home.model)
    batch, context = scenario.batch_of(model), scenario.context_of(model)
    environment = {"VLLM_SERVER_DEV_MODE": "1", **gpu_environment(device, home.device)}
    if len(environment) == 1:
        raise InputError(f"devices.{device.name}.device", "be a GPU: vLLM sleeps on no other", device.device)
    if home.gpu_layers != home.total_layers:
        rule = "be all: a plan with some layers on the host is not supported"
        raise InputError(f"models.{home.model}.levels", rule, f"{home.gpu_layers}/{home.total_layers} layers")
    if model.kv_type not in _KV_TYPES:
        rule = f"be {' or '.join(name for name in _KV_TYPES if name)} for vLLM"
        raise InputError(f"models.{home.model}.kv_type", rule, model.kv_type)
    blocks = math.ceil(context / BLOCK_TOKENS) * batch + 1
    kv_bytes = math.ceil(blocks * BLOCK_TOKENS * home.kv_bytes_per_token)
    command = ["vllm", "serve", word(f"models.{model.name}.checkpoint", str(path)), *_served_names(model)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--enable-sleep-mode", "--max-model-len", str(context)]
    command += [
        "--max-num-seqs",
        str(batch),
        "--kv-cache-memory-bytes",
        str(kv_bytes),
        *_KV_TYPES[model.kv_type],
    ]
    if device.gpu is not None:
        command += [
            "--gpu-memory-utilization",
            _utilization(home, get_gpu(device.gpu).memory_bytes, beside_bytes),
        ]
    command += [word(f"models.{model.name}.args", each) for each in model.args]
    return " ".join([*(f"{name}={value}" for name, value in environment.items()), shlex.join(command)])


def _served_names(model: Model) -> list[str]:
    """The names that it answers to. One that begins with a dash is a value only as part of the option."""
    name, *aliases = [word(f"models.{model.name}.name", name) for name in (model.name, *model.aliases)]
    if not aliases:
        return [f"--served-model-name={name}"]
    for each in (name, *aliases):
        if each.startswith("-"):
            rule = "begin with no dash, nor may the name beside them: vLLM would take it for an option"
            raise InputError(f"models.{model.name}.aliases", rule, each)
    return ["--served-model-name", name, *aliases]


def _utilization(home: Home, total_bytes: float, beside_bytes: float) -> str:
    """Share of the GPU that must be free when the server starts, where the others sleep."""
    wanted = math.ceil(110 * home.footprint_bytes / total_bytes) / 100
    free = math.floor(100 * (1 - beside_bytes / total_bytes)) / 100
    return f"{min(wanted, free, MOST_UTILIZATION):.2f}"


def _sleep(port: int, level: int) -> list[str]:
    # Without mode=wait it ends the requests under way.
    return [f"curl -fsS -X POST 'http://127.0.0.1:{port}/sleep?level={level}&mode=wait'"]


def _wake(port: int, level: int) -> list[str]:
    url = f"http://127.0.0.1:{port}"
    if level == 1:
        return [f"curl -fsS -X POST '{url}/wake_up'"]
    reload = '{"method": "reload_weights"}'
    return [
        f"curl -fsS -X POST '{url}/wake_up?tags=weights'",
        f"curl -fsS -X POST '{url}/collective_rpc' -H 'Content-Type: application/json' -d '{reload}'",
        f"curl -fsS -X POST '{url}/wake_up?tags=kv_cache'",
        f"curl -fsS -X POST '{url}/reset_prefix_cache'",
    ]


def _together(scenario: Scenario, homes: Sequence[Home], rooms: Sequence[int]) -> dict[str, Any]:
    together: dict[str, Any] = {}
    for d, device in enumerate(scenario.devices):
        mine = [home for home in homes if home.device == d]
        found = fitting_sets([_mb(home) for home in mine], rooms[d]) if mine else []
        text = "too many to list: add up device_mb"
        together[device.name] = (
            text if found is None else [[mine[i].model for i in chosen] for chosen in found]
        )
    return together
