"""Scenarios drawn at random, to train generalists on more than a library holds.

They are put together from the GPUs, models and lengths of the library's training scenarios, so what is held
out there is held out here too. Every other one is of the ordinary kind; the others take turns among families
without which a policy starves whom it should serve, copies nothing, or is lost where requests are few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from shunter.agents.learned.base_policy import TUNED_COST_GREEDY
from shunter.catalog.gpus import get_gpu
from shunter.envs.scenario.library import scenario_names
from shunter.envs.scenario.scenario import Scenario, load_scenario
from shunter.envs.workload.seed_ranges import SEED_RANGES
from shunter.envs.workload.shares import popularity
from shunter.envs.world.world import World, make_world
from shunter.eval.metrics.capacity import capacity
from shunter.models.published.rows import catalog_facts

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

REQUESTS, MOST_REQUESTS = 400, 800
RARE_REQUESTS = 6
"""Requests of an episode's least popular model, if they need no more than ``MOST_REQUESTS`` of all."""

ZIPF = (0.2, 1.4)
"""Popularity exponents of the ordinary kind."""

FULL = 0.95
"""Share of a device's memory that weights and KV may take; buffers take some too."""

EQUAL = 0.6
"""Share of a family's scenarios whose devices are all alike."""


@dataclass(frozen=True)
class Family:
    """Bounds of the draws of a kind of scenario; all steady.

    Attributes:
        devices: Least and most devices, drawn uniformly.
        models: Least and most models, drawn log-uniformly.
        zipf: Least and greatest popularity exponent, drawn uniformly.
        overcommit: Least and greatest ratio of the bytes of all models to those of all devices, roughly kept;
            drawn uniformly.
        spread: Standard deviation of the logarithm of the models' sizes.
        requests: Least and most requests of an episode, drawn uniformly; by default as many as the least
            popular model needs.
    """

    devices: tuple[int, int]
    models: tuple[int, int]
    zipf: tuple[float, float]
    overcommit: tuple[float, float]
    spread: float = SPREAD
    requests: tuple[int, int] | None = None


FAMILIES = {
    "starvation": Family((1, 1), (2, 2), (3.0, 6.0), (1.1, 1.5), spread=0.3),
    "replicas": Family((2, 4), (1, 4), (0.0, 4.0), (0.2, 1.2)),
    "skew": Family((2, 4), (5, 40), (1.5, 4.0), (1.2, 3.5)),
    "steady plus rare": Family((1, 2), (3, 12), (2.5, 4.0), (1.2, 3.5)),
    "few requests": Family((1, 2), (3, 4), (0.0, 1.0), (1.2, 2.2), spread=0.3, requests=(12, 30)),
}


@dataclass(frozen=True)
class Parts:
    """What scenarios are put together from.

    Attributes:
        gpus: Names of GPUs in the catalogue.
        models: Names of models in the catalogue.
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


def family_of(seed: int) -> Family | None:
    """The family that a seed draws from; None for the ordinary kind, as every other seed does."""
    return list(FAMILIES.values())[seed // 2 % len(FAMILIES)] if seed % 2 else None


def random_scenario(seed: int) -> Scenario:
    """Draws a scenario, put together from the parts of the library's training scenarios.

    Args:
        seed: Another for another scenario; ``family_of`` says of what kind.

    Returns:
        One whose every model fits some device whole. Of the ordinary kind: unequal devices, more models than
        they hold, some arrival process.
    """
    rng, parts, family = np.random.default_rng(seed), training_parts(), family_of(seed)
    gpus = _gpus(rng, parts, family)
    room = [get_gpu(gpu).memory_bytes - 1e9 for gpu in gpus]
    models = _models(rng, parts, room) if family is None else _family_models(rng, parts, room, family)
    return Scenario.parse(
        {
            "name": f"random-{seed}",
            "split": "train",
            "engine": "llama-cpp",
            "models": models,
            "devices": [{"name": f"gpu{d}", "gpu": gpu} for d, gpu in enumerate(gpus)],
            "workload": _workload(rng, parts, len(models), family),
            "limits": _limits(rng, models, room),
        },
        source=f"random scenario {seed}",
    )


def random_worlds(seed: int, loads: Sequence[float]) -> list[World]:
    """A random scenario compiled with published performance.

    Args:
        seed: Another for another scenario.
        loads: Shares of the rate that tuned cost-greedy sustains, which becomes the scenario's capacity: a
            world at each.
    """
    world = make_world(random_scenario(seed))
    sustained = capacity(world, [TUNED_COST_GREEDY], SEED_RANGES["reference"][:2], requests=REQUESTS)
    workload = world.scenario.workload.model_copy(update={"capacity_rate_per_s": sustained.rate_per_s})
    measured = replace(world, scenario=world.scenario.model_copy(update={"workload": workload}))
    return [measured.at_load(load) for load in loads]


def _gpus(rng: np.random.Generator, parts: Parts, family: Family | None) -> list[str]:
    if family is None:
        return [str(gpu) for gpu in rng.choice(parts.gpus, rng.choice(DEVICES, p=DEVICE_WEIGHTS))]
    count = rng.integers(*family.devices, endpoint=True)
    if rng.random() < EQUAL:
        return [str(rng.choice(parts.gpus))] * count
    return [str(gpu) for gpu in rng.choice(parts.gpus, count)]


def _models(rng: np.random.Generator, parts: Parts, room: list[float]) -> list[dict[str, Any]]:
    """Models of unequal sizes until they need so much more than there is; the first fits every device."""
    wanted = rng.uniform(*OVERCOMMIT) * sum(room)
    count = rng.uniform(*MODELS)
    levels = LEVELS[rng.integers(len(LEVELS))]
    models: list[dict[str, Any]] = []
    total = 0.0
    while total < wanted:
        about = (wanted - total) / max(1.0, count - len(models)) * np.exp(rng.normal(0.0, SPREAD))
        model, size = _model(parts, room, len(models), about, levels)
        total += size
        models.append(model)
    return models


def _family_models(
    rng: np.random.Generator, parts: Parts, room: list[float], family: Family
) -> list[dict[str, Any]]:
    """So many models, of unequal sizes that add up to about what the family wants."""
    low, high = family.models
    count = int(np.exp(rng.uniform(np.log(low), np.log(high + 1))))
    sizes = np.exp(rng.normal(0.0, family.spread, count))
    sizes *= rng.uniform(*family.overcommit) * sum(room) / sizes.sum()
    levels = LEVELS[rng.integers(len(LEVELS))]
    return [_model(parts, room, index, size, levels)[0] for index, size in enumerate(sizes)]


def _model(
    parts: Parts, room: list[float], index: int, about: float, levels: list[str]
) -> tuple[dict[str, Any], float]:
    """A model of about so many bytes, and how many they are; the first fits every device, the others one."""
    most = 0.8 * max(room) if index else 0.6 * min(room)
    fitting = {each: size for each, size in _sizes(parts).items() if size <= most}
    name, quantization = min(fitting, key=lambda each: abs(np.log(fitting[each] / about)))
    model = {
        "name": f"{name.lower()}-{index}",
        "catalog": name,
        "quantization": quantization,
        "levels": levels,
    }
    return model, fitting[name, quantization]


@cache
def _sizes(parts: Parts) -> dict[tuple[str, str], float]:
    """Bytes of all models at all quantizations."""
    return {
        (name, quantization): float(catalog_facts(name, quantization)["weight_bytes"])
        for name, quantization in product(parts.models, QUANTIZATIONS)
    }


def _workload(rng: np.random.Generator, parts: Parts, models: int, family: Family | None) -> dict[str, Any]:
    lengths, prompt_scale, decode_scale = parts.lengths[rng.integers(len(parts.lengths))]
    workload: dict[str, Any] = {
        "requests": REQUESTS,
        "load": 0.7,
        "popularity_zipf": float(rng.uniform(*(ZIPF if family is None else family.zipf))),
        "lengths": lengths,
        "prompt_scale": prompt_scale,
        "decode_scale": decode_scale * float(rng.uniform(0.7, 1.4)),
    }
    kind = rng.choice(("poisson", "gamma", "bursts", "sessions"), p=(0.5, 0.2, 0.1, 0.2))
    if kind == "gamma":
        workload["arrivals"] = {"gaps": "gamma", "cv": float(rng.uniform(1.5, 3.0))}
    if kind == "bursts":
        workload["arrivals"] = {"bursts": {"factor": 3.0, "share": 0.2, "mean_s": 60.0}}
    if family is not None and family.requests is not None:
        workload["requests"] = int(rng.integers(*family.requests, endpoint=True))
        return workload
    if family is not None:
        needed = RARE_REQUESTS / popularity(models, workload["popularity_zipf"])[-1]
        workload["requests"] = int(np.clip(needed, REQUESTS, MOST_REQUESTS))
        return workload
    if kind == "sessions":
        workload["sessions"] = {"turns": 5, "models": 2, "gap_s": float(rng.uniform(3.0, 20.0))}
    if rng.random() < 0.3:
        workload["popularity_drift_s"] = float(rng.uniform(200.0, 1000.0))
    return workload


def _limits(rng: np.random.Generator, models: list[dict[str, Any]], room: list[float]) -> dict[str, Any]:
    """Half of them with the default quantum; a context whose KV leaves every model and device another."""
    limits: dict[str, Any] = {
        "max_batch": int(rng.choice((2, 4, 8))),
        "context_tokens": int(rng.choice((1024, 2048, 4096))),
        "host_bandwidth_gb_s": float(rng.choice(HOST_BANDWIDTHS_GB_S)),
        "host_memory_gb": float(rng.choice((32, 64, 128))) if rng.random() < 0.3 else None,
    }
    facts = [catalog_facts(model["catalog"], model["quantization"]) for model in models]

    def needed() -> list[float]:
        tokens = limits["max_batch"] * limits["context_tokens"]
        return [float(f["weight_bytes"] + tokens * f["kv_bytes_per_token"]) for f in facts]

    while max(needed()) > FULL * max(room) or min(needed()) > FULL * min(room):
        limits["context_tokens"] //= 2
    if rng.random() < 0.5:
        limits["quantum_steps"] = int(rng.choice(QUANTUM_STEPS))
        limits["quantum_s"] = float(np.exp(rng.uniform(*np.log(QUANTA_S))))
        limits["max_wait_s"] = 4 * limits["quantum_s"]
    return limits
