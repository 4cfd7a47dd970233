"""What goes into a run and comes out of it, under digests by which runs are found that belong together.

A profile's dataset, the performance model fitted to it, the policy trained on that, and the evaluation of the
policy each name what they were made of: as inputs (MLflow's datasets), and as tags that a search takes, such
as ``tags.`shunter.performance_digest` = 'fa2f9172f75b'``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from shunter.agents.learned.file import load_of
from shunter.agents.learned.policy import LearnedPolicy
from shunter.envs.scenario.scenario import Scenario
from shunter.envs.world.world import World
from shunter.eval.provenance import provenance
from shunter.models.performance import PerformanceModel
from shunter.profiling.dataset.fingerprint import digest, rows_digest

__all__ = ["dataset_input", "file_input", "performance_input", "where"]

DATASET, PERFORMANCE = "shunter.dataset_digest", "shunter.performance_digest"
SCENARIO, POLICY = "shunter.scenario_digest", "shunter.policy_digest"
"""Tags; where a run has several of one kind their digests are joined by spaces, in order."""

FILE = "shunter.file"
"""Tag: the file or folder that came of a run."""

MOST_NAMED = 3
"""Scenarios that the name of a run names."""


class Input(NamedTuple):
    """Something that a run was made of, as one of MLflow's datasets.

    Attributes:
        name: What people call it.
        digest: Names its content.
        context: What it is for: profile, fit, prediction, training, validation, evaluation or start.
        source: File that it was read from, or where else it comes from.
        profile: Figures of it.
    """

    name: str
    digest: str
    context: str
    source: str = ""
    profile: Mapping[str, Any] = {}


def scenario_digest(scenario: Scenario) -> str:
    """Names a scenario's content, whatever its file is called and at whatever load it is played."""
    return digest(scenario.model_dump(mode="json", exclude={"workload": {"load", "rate_per_s"}}))


def where(worlds: Sequence[World]) -> str:
    """Scenarios and loads in few words, for the name of a run: ``two-gpu-unequal at 0.5, 0.7``."""
    names = list(dict.fromkeys(world.scenario.name for world in worlds))
    if len(names) > MOST_NAMED:
        names = [names[0], f"{len(names) - 1} more"]
    loads = sorted({f"{load_of(world):.3g}" for world in worlds}, key=float)
    if len(loads) > MOST_NAMED:
        loads = [f"{loads[0]} to {loads[-1]}"]
    return f"{', '.join(names)} at {', '.join(loads)}"


def world_params(worlds: Sequence[World]) -> dict[str, Any]:
    """Where a run took place: scenarios, loads, rates, objectives, and of a single scenario all it says."""
    scenarios = _scenarios(worlds)
    found: dict[str, Any] = {
        "scenarios": ", ".join(scenarios),
        "loads": _listed(f"{load_of(world):.4g}" for world in worlds),
        "rates_per_s": _listed(f"{world.rate_per_s:.6g}" for world in worlds),
        "objectives": _listed(scenario.objective.metric for scenario in scenarios.values()),
        "worlds": len(worlds),
    }
    if len(scenarios) == 1:
        found["scenario"] = next(iter(scenarios.values())).model_dump(mode="json")
    return found


def world_tags(worlds: Sequence[World]) -> dict[str, str]:
    """Digests of the scenarios and of what predicted."""
    scenarios = [scenario_digest(scenario) for scenario in _scenarios(worlds).values()]
    predicted = _listed((world.performance_digest for world in worlds), " ")
    return {SCENARIO: " ".join(scenarios), **({PERFORMANCE: predicted} if predicted else {})}


def world_inputs(worlds: Sequence[World], context: str) -> list[Input]:
    """The scenarios as inputs, and the performance models that predicted."""
    found = []
    for name, scenario in _scenarios(worlds).items():
        loads = _listed(f"{load_of(world):.4g}" for world in worlds if world.scenario.name == name)
        profile = {"loads": loads, "models": len(scenario.models), "devices": len(scenario.devices)}
        found.append(Input(name, scenario_digest(scenario), context, "scenario", profile))
    models = dict.fromkeys(world.performance_digest for world in worlds if world.performance_digest)
    return [*found, *(Input("performance model", one, "prediction", "performance model") for one in models)]


def dataset_input(path: Path, frame: pd.DataFrame, context: str) -> Input:
    """A profile dataset as an input."""
    counts = {"rows": len(frame), "configurations": int(frame["cell_id"].nunique())}
    return Input(path.name, rows_digest(frame["row_id"]), context, str(path), counts)


def performance_input(model: PerformanceModel, source: Path) -> Input:
    """A performance model that others are made of as an input."""
    counts = {"models": len(model.models), "targets": len(model.cv)}
    return Input("performance model", model.digest, "start", str(source), counts)


def file_input(path: Path, context: str) -> Input:
    """A file, or all files of a folder, as an input."""
    found = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            found.update(file.read_bytes())
    return Input(path.name, found.hexdigest()[:16], context, str(path))


def policy_digest(policy: LearnedPolicy) -> str:
    """Names a policy's numbers, whatever its file is called and says."""
    found = hashlib.sha256()
    for name, weights in sorted(policy.weights.items()):
        found.update(f"{name} {weights.shape} {weights.dtype}".encode() + weights.tobytes())
    return found.hexdigest()[:16]


def policy_input(policy: LearnedPolicy, context: str, source: str = "") -> Input:
    """A policy as an input; source is its file, or its URI in the registry."""
    return Input(policy.name, policy_digest(policy), context, source or policy.name)


def software_tags() -> dict[str, str]:
    """What ran: versions, commit and machine."""
    made = provenance()
    versions = ", ".join(f"{name} {version}" for name, version in sorted(made["versions"].items()))
    found = {
        "shunter.version": made["versions"]["shunter"],
        "shunter.versions": versions,
        "shunter.machine_id": made["machine_id"],
        "shunter.machine": made["machine"]["cpu_model"],
    }
    # The second is what MLflow's pages show as the version.
    commit = {"shunter.commit": made["commit"], "mlflow.source.git.commit": made["commit"]}
    return {**found, **(commit if made["commit"] else {})}


def _scenarios(worlds: Sequence[World]) -> dict[str, Scenario]:
    return {world.scenario.name: world.scenario for world in worlds}


def _listed(texts: Iterable[str], between: str = ", ") -> str:
    """Each once, in order."""
    return between.join(dict.fromkeys(text for text in texts if text))
