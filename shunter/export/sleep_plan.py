"""Writes a plan of vLLM's sleep mode: how each model is served, how deep it sleeps, what waking it costs.

Source: vLLM's documentation, https://docs.vllm.ai/en/latest/features/sleep_mode/: level 1 keeps the weights
in the host's memory, level 2 drops them; both drop the KV cache.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from shunter.catalog.gpus import get_gpu
from shunter.envs.scenario.scenario import Scenario
from shunter.errors import InputError
from shunter.export.placement import Estimate, Home, checkpoint_path, fitting_sets, gpu_index
from shunter.models.performance import PerformanceModel

__all__ = ["sleep_plan"]

BLOCK_TOKENS = 16
"""Tokens of a KV block of vLLM's."""

NOT_MEASURED = "not measured: the performance model has no rows of vLLM at this sleep level"


@dataclass(frozen=True)
class SleepPlan:
    """A plan and what carries it out.

    Attributes:
        plan: As plain data.
        script: A shell script: ``start``, ``wake MODEL``, ``sleep MODEL``.
    """

    plan: dict[str, Any]
    script: str

    def to_yaml(self) -> str:
        """The plan as a file."""
        return HEADER + yaml.safe_dump(self.plan, sort_keys=False, width=1000, allow_unicode=True)


HEADER = """\
# Plan of vLLM's sleep mode, written by `shunter export vllm`. The script beside it carries it out.
# Times are predictions in seconds: [predicted, low, high], 90 % intervals; null where sleep was not measured.
# A sleeping server keeps its CUDA context and graphs on the device: leave room for them. A server without
# --gpu-memory-utilization (its device names no gpu of the catalogue) wants 90 % of the device free to start.
# The sleep endpoints need VLLM_SERVER_DEV_MODE=1; do not expose such a server to users.
"""


def sleep_plan(
    scenario: Scenario,
    homes: Sequence[Home],
    performance: PerformanceModel,
    *,
    models_dir: Path | None = None,
    first_port: int = 8001,
) -> SleepPlan:
    """Plans one vLLM server per model, all of them started once and asleep while others need the device.

    Level 1 goes to the models that gain most by it per byte, while the host's memory for weights lasts
    (``limits.host_memory_gb``); the others sleep at level 2 and read their weights again when they wake.

    Args:
        scenario: Its engine must be vllm.
        homes: From ``homes_of``.
        performance: Tells whether it was fitted to rows of a sleeping vLLM, and at which level.
        models_dir: Where a folder of its name lies of each model without a checkpoint.
        first_port: Port of the first server; the others follow.

    Raises:
        InputError: The engine is another, a model has no checkpoint, a device is no GPU, or a level is not
            all layers.
    """
    if scenario.engine != "vllm":
        rule = "be vllm: the plan is for vLLM servers, and the costs must be of the same engine"
        raise InputError("engine", rule, scenario.engine)
    levels = _levels(scenario, homes)
    version = performance.state_.engine_versions.get("vllm")
    measured = re.search(r"sleep level (\d)", version or "")
    measured_level = int(measured[1]) if measured else None
    models = []
    for m, home in enumerate(homes):
        port = first_port + m
        serve = _serve(scenario, home, checkpoint_path(scenario, m, models_dir), port)
        costs = _costs(home, levels[m], measured_level)
        models.append(
            {
                "name": home.model,
                "device": scenario.devices[home.device].name,
                "port": port,
                "serve": serve,
                "sleep_level": levels[m],
                "sleep": _sleep(port, levels[m]),
                "wake": _wake(port, levels[m]),
                **costs,
                "device_mb": round(home.footprint_bytes / 1e6),
                "host_mb_asleep": round(home.weight_bytes / 1e6) if levels[m] == 1 else 0,
                "share_of_requests": round(home.share, 4),
            }
        )
    memory_gb = scenario.limits.host_memory_gb
    plan = {
        "scenario": scenario.name,
        "vllm_version_measured": version,
        "sleep_level_measured": measured_level,
        "host_memory_gb": memory_gb if memory_gb is not None else _UNSTATED,
        "awake_together": _together(scenario, homes),
        "models": models,
    }
    return SleepPlan(plan, _script(models))


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
    load, unload = _interval(home.load), _interval(home.unload)
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


def _interval(estimate: Estimate) -> list[float]:
    return [float(f"{s:.3g}") for s in (estimate.seconds, estimate.low, estimate.high)]


def _serve(scenario: Scenario, home: Home, path: Path, port: int) -> str:
    device, model = scenario.devices[home.device], scenario.model(home.model)
    batch, context = scenario.batch_of(model), scenario.context_of(model)
    index = gpu_index(device, home.device)
    if index is None:
        raise InputError(f"devices.{device.name}.device", "be a GPU: vLLM sleeps on no other", device.device)
    if home.gpu_layers != home.total_layers:
        rule = "be all: a plan with some layers on the host is not supported"
        raise InputError(f"models.{home.model}.levels", rule, f"{home.gpu_layers}/{home.total_layers} layers")
    blocks = math.ceil(context / BLOCK_TOKENS) * batch + 1
    kv_bytes = math.ceil(blocks * BLOCK_TOKENS * home.kv_bytes_per_token)
    command = ["vllm", "serve", str(path), "--served-model-name", home.model, "--port", str(port)]
    command += ["--enable-sleep-mode", "--max-model-len", str(context)]
    command += ["--max-num-seqs", str(batch), "--kv-cache-memory-bytes", str(kv_bytes)]
    if device.gpu is not None:
        share = min(0.95, 1.1 * home.footprint_bytes / get_gpu(device.gpu).memory_bytes)
        command += ["--gpu-memory-utilization", f"{math.ceil(100 * share) / 100:.2f}"]
    return f"VLLM_SERVER_DEV_MODE=1 CUDA_VISIBLE_DEVICES={index} {shlex.join(command)}"


def _sleep(port: int, level: int) -> list[str]:
    return [f"curl -fsS -X POST 'http://localhost:{port}/sleep?level={level}'"]


def _wake(port: int, level: int) -> list[str]:
    url = f"http://localhost:{port}"
    if level == 1:
        return [f"curl -fsS -X POST '{url}/wake_up'"]
    reload = '{"method": "reload_weights"}'
    return [
        f"curl -fsS -X POST '{url}/wake_up?tags=weights'",
        f"curl -fsS -X POST '{url}/collective_rpc' -H 'Content-Type: application/json' -d '{reload}'",
        f"curl -fsS -X POST '{url}/wake_up?tags=kv_cache'",
    ]


def _together(scenario: Scenario, homes: Sequence[Home]) -> dict[str, Any]:
    together: dict[str, Any] = {}
    for d, device in enumerate(scenario.devices):
        mine = [home for home in homes if home.device == d]
        found = fitting_sets([home.footprint_bytes for home in mine], device.memory_bytes) if mine else []
        text = "too many to list: add up device_mb"
        together[device.name] = (
            text if found is None else [[mine[i].model for i in chosen] for chosen in found]
        )
    return together


def _script(models: Sequence[dict[str, Any]]) -> str:
    """A bash script; models start one after the other, each put to sleep before the next needs the device."""
    start, cases = [], []
    for model in models:
        name = shlex.quote(model["name"])
        log = shlex.quote(f"vllm-{model['port']}.log")
        start += [f"  env {model['serve']} >{log} 2>&1 &", f"  ready {model['port']} $!"]
        start += [f"  {line}" for line in model["sleep"]]
        for verb in ("sleep", "wake"):
            cases += [f"{verb}:{name})", *(f"  {line}" for line in model[verb]), "  ;;"]
    return SCRIPT.format(start="\n".join(start), cases="\n".join(cases))


SCRIPT = """\
#!/usr/bin/env bash
# Carries out a plan of vLLM's sleep mode, written by `shunter export vllm`.
# usage: SCRIPT start          start all servers, one after the other; all are asleep then
#        SCRIPT wake MODEL     before its requests; first put to sleep what does not fit beside it
#        SCRIPT sleep MODEL    after its requests: those under way are lost
set -euo pipefail

ready() {{
  until curl -fsS "http://localhost:$1/health" >/dev/null 2>&1; do
    kill -0 "$2" || {{ echo "the server of port $1 ended; see vllm-$1.log" >&2; exit 1; }}
    sleep 1
  done
}}

case "${{1:-}}:${{2:-}}" in
start:)
{start}
  ;;
{cases}
*)
  echo "usage: $0 start | wake MODEL | sleep MODEL" >&2
  exit 2
  ;;
esac
"""
