"""Scenarios drawn at random, to train generalists on more than a library holds.

They are put together from the GPUs, models and lengths of the library's training scenarios, so what is held
out there is held out here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from shunter.agents.learned import PRIOR
from shunter.catalog.gpus import get_gpu
from shunter.envs.scenario import Scenario, load_scenario
from shunter.envs.scenario_library import scenario_names
from shunter.envs.seed_ranges import SEED_RANGES
from shunter.envs.world import World, make_world
from shunter.eval.capacity import capacity
from shunter.models.published import catalog_facts

__all__ = ["Parts", "random_scenario", "random_worlds", "training_parts"]

DEVICES, DEVICE_WEIGHTS = (1, 2, 3, 4), (0.4, 0.35, 0.15, 0.1)
MODELS, SPREAD = (2.0, 16.0), 1.0
"""About how many are aimed at, and the standard deviation of the logarithm of their sizes."""

OVERCOMMIT = (1.2, 3.5)
"""Bytes of all models over bytes of all devices."""

QUANTIZATIONS = ("F16", "Q8_0", "Q6_K", "Q4_K_M")
LEVELS = (["all"], ["all", "50%"], ["all", "75%", "50%"])
HOST_BANDWIDTHS_GB_S = (51.2, 89.6, 204.8)
QUANTA_S, QUANTUM_STEPS = (0.5, 30.0), (16, 32, 64, 128, 256)
"""Bounds of a log-uniform draw, and what is drawn from: a server may prefer few decisions to short waits."""

REQUESTS = 400


@dataclass(frozen=True)
class Parts:
    """What scenarios are put together from.

    Attributes:
        gpus: Of the catalogue.
        models: Likewise.
        lengths: Named length distributions, with factors on prompts and decodes that they are used with.
    """

    gpus: tuple[str, ...]
    models: tuple[str, ...]
    lengths: tuple[tuple[str, float, float], ...]


@cache
def training_parts() -> Parts:
    """The parts of all training scenarios of the library that run models and GPUs of the catalogue."""
    scenarios = [load_scenario(name) for name in scenario_names()]
    used = [s for s in scenarios if s.split == "train"]
    lengths = {(str(s.workload.lengths), s.workload.prompt_scale, s.workload.decode_scale) for s in used}
    return Parts(
        gpus=tuple(sorted({d.gpu for s in used for d in s.devices if d.gpu})),
        models=tuple(sorted({m.catalog for s in used for m in s.models if m.catalog})),
        lengths=tuple(sorted(lengths)),
    )


def random_scenario(seed: int, parts: Parts | None = None) -> Scenario:
    """Draws a scenario: unequal devices, more models than fit, some arrival process.

    Args:
        seed: Another for another scenario.
        parts: To put it together from; those of the library's training scenarios by default.

    Returns:
        One whose every model fits some device whole and whose models need more than all devices hold.
    """
    parts = parts or training_parts()
    rng = np.random.default_rng(seed)
    gpus = [str(gpu) for gpu in rng.choice(parts.gpus, rng.choice(DEVICES, p=DEVICE_WEIGHTS))]
    room = [get_gpu(gpu).memory_bytes - 1e9 for gpu in gpus]
    return Scenario.parse(
        {
            "name": f"random-{seed}",
            "split": "train",
            "engine": "llama-cpp",
            "models": _models(rng, parts, room),
            "devices": [{"name": f"gpu{d}", "gpu": gpu} for d, gpu in enumerate(gpus)],
            "workload": _workload(rng, parts),
            "limits": _limits(rng),
        },
        source=f"random scenario {seed}",
    )


def random_worlds(seed: int, loads: Sequence[float]) -> list[World]:
    """A random scenario compiled with published performance.

    Args:
        seed: Another for another scenario.
        loads: Shares of the rate that tuned cost-greedy sustains: a world at each.
    """
    world = make_world(random_scenario(seed))
    sustained = capacity(world, [PRIOR], SEED_RANGES["reference"][:2], requests=REQUESTS)
    return [replace(world, rate_per_s=load * sustained.rate_per_s) for load in loads]


def _models(rng: np.random.Generator, parts: Parts, room: list[float]) -> list[dict[str, Any]]:
    """Models of unequal sizes until they need so much more than there is; the first fits every device."""
    wanted = rng.uniform(*OVERCOMMIT) * sum(room)
    count = rng.uniform(*MODELS)
    levels = LEVELS[rng.integers(len(LEVELS))]
    sizes = {
        (name, quantization): float(catalog_facts(name, quantization)["weight_bytes"])
        for name, quantization in product(parts.models, QUANTIZATIONS)
    }
    models: list[dict[str, Any]] = []
    total = 0.0
    while total < wanted:
        most = 0.8 * max(room) if models else 0.6 * min(room)
        fitting = {each: size for each, size in sizes.items() if size <= most}
        about = (wanted - total) / max(1.0, count - len(models)) * np.exp(rng.normal(0.0, SPREAD))
        name, quantization = min(fitting, key=lambda each: abs(np.log(fitting[each] / about)))
        total += fitting[name, quantization]
        models.append(
            {
                "name": f"{name.lower()}-{len(models)}",
                "catalog": name,
                "quantization": quantization,
                "levels": levels,
            }
        )
    return models


def _workload(rng: np.random.Generator, parts: Parts) -> dict[str, Any]:
    lengths, prompt_scale, decode_scale = parts.lengths[rng.integers(len(parts.lengths))]
    workload: dict[str, Any] = {
        "requests": REQUESTS,
        "load": 0.7,
        "popularity_zipf": float(rng.uniform(0.2, 1.4)),
        "lengths": lengths,
        "prompt_scale": prompt_scale,
        "decode_scale": decode_scale * float(rng.uniform(0.7, 1.4)),
    }
    kind = rng.choice(("poisson", "gamma", "bursts", "sessions"), p=(0.5, 0.2, 0.1, 0.2))
    if kind == "gamma":
        workload["arrivals"] = {"gaps": "gamma", "cv": float(rng.uniform(1.5, 3.0))}
    if kind == "bursts":
        workload["arrivals"] = {"bursts": {"factor": 3.0, "share": 0.2, "mean_s": 60.0}}
    if kind == "sessions":
        workload["sessions"] = {"turns": 5, "models": 2, "gap_s": float(rng.uniform(3.0, 20.0))}
    if rng.random() < 0.3:
        workload["popularity_drift_s"] = float(rng.uniform(200.0, 1000.0))
    return workload


def _limits(rng: np.random.Generator) -> dict[str, Any]:
    """Half of them with the default quantum."""
    limits: dict[str, Any] = {
        "max_batch": int(rng.choice((2, 4, 8))),
        "context_tokens": int(rng.choice((1024, 2048, 4096))),
        "host_bandwidth_gb_s": float(rng.choice(HOST_BANDWIDTHS_GB_S)),
        "host_memory_gb": float(rng.choice((32, 64, 128))) if rng.random() < 0.3 else None,
    }
    if rng.random() < 0.5:
        limits["quantum_steps"] = int(rng.choice(QUANTUM_STEPS))
        limits["quantum_s"] = float(np.exp(rng.uniform(*np.log(QUANTA_S))))
        limits["max_wait_s"] = 4 * limits["quantum_s"]
    return limits
