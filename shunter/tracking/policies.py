"""Trained policies in MLflow's model registry; the alias ``champion`` moves to the better one only.

And it moves to nothing that is not better than the best heuristic.
"""

from __future__ import annotations

import hashlib
import math
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.agents.learned.file import load_of
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.mlflow_model import signature
from shunter.agents.model_uri import find_version, load_registered
from shunter.envs.observation.features import FEATURES_VERSION
from shunter.envs.workload.seed_ranges import SEED_RANGES
from shunter.envs.world.world import World
from shunter.errors import InputError, VersionError
from shunter.tracking.runs import Tracker
from shunter.tracking.store import import_mlflow
from shunter.tracking.wheel import pinned_requirements, write_wheel
from shunter.train.selection import best_of, heuristics, mean_responses
from shunter.uncertainty import Interval, paired_mean_change, said

__all__ = ["default_name", "register_policy"]

Array = NDArray[np.float64]

CHAMPION = "champion"

SELECTION_SEEDS = SEED_RANGES["selection"]
"""Workload seeds that champions are chosen on; no training, validation or evaluation uses them."""

DECISION, UNDECIDED = "shunter.decision", "undecided"
UNKNOWN = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Registration:
    """What became of a policy that was registered.

    Attributes:
        name: Name of the registered model.
        version: Version of the policy.
        champion: Whether it is the champion now.
        change: Relative change of the mean response against the champion before it; NaN where there was none.
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
        why: The decision in words.
    """

    name: str
    version: str
    champion: bool
    change: float
    low: float
    high: float
    why: str


@dataclass(frozen=True)
class _Decision:
    champion: bool
    change: Interval
    why: str


def default_name(title: str) -> str:
    """The name to register under: ``shunter-`` and the scenario's or the training's name."""
    return "shunter-" + re.sub(r"[^A-Za-z0-9._-]+", "-", title).strip("-")


def register_policy(
    policy_path: str | Path,
    *,
    name: str,
    worlds: Sequence[World],
    tracker: Tracker,
    seeds: Sequence[int] = SELECTION_SEEDS,
) -> Registration:
    """Logs a policy file as an MLflow model, registers it and lets it contend for the alias ``champion``.

    A version begins as undecided, and the alias moves in one step after it is complete: whenever this is
    cut off, the champion is the old one or the new one. Registering the same file again takes up the
    undecided version that was left; the champion's own file is not registered twice. Seeds are of
    workloads; those given if none are asked for serve no training, validation or evaluation.

    Raises:
        InputError: There is no such file, MLflow takes no such name, or there is no world or seed.
        BrokenFileError: The file, or the champion's, is damaged.
        VersionError: The file was trained for observations of another version.
    """
    _check(name, worlds, seeds)
    policy_path = Path(policy_path)
    policy = LearnedPolicy.load(policy_path)
    digest = hashlib.sha256(policy_path.read_bytes()).hexdigest()
    with _client(tracker) as client:
        before = find_version(client, name, CHAMPION)
        if before is not None and before.tags.get("shunter.sha256") == digest:
            return _confirm(client, before)
        decision = _contend(tracker.uri, before, policy, worlds, seeds)
        version = _undecided(client, name, digest) or _create(client, name, policy_path, digest, tracker)
        for key, text in _tags(decision.change, worlds, seeds).items():
            client.set_model_version_tag(name, version, key, text)
        client.update_model_version(name, version, description=decision.why)
        if decision.champion:
            client.set_registered_model_alias(name, CHAMPION, version)
        verdict = CHAMPION if decision.champion else "no champion"
        client.set_model_version_tag(name, version, DECISION, verdict)
    return Registration(name, version, decision.champion, *decision.change, why=decision.why)


def _confirm(client: Any, version: Any) -> Registration:
    """The very file is champion; a registration that was cut off after the alias moved is completed."""
    client.set_model_version_tag(version.name, version.version, DECISION, CHAMPION)
    figures = {key: float(version.tags.get(f"shunter.{key}", "nan")) for key in ("change", "low", "high")}
    why = f"This very file is the champion. {version.description}"
    return Registration(version.name, str(version.version), True, **figures, why=why)


def _tags(change: Interval, worlds: Sequence[World], seeds: Sequence[int]) -> dict[str, str]:
    where = ", ".join(f"{world.scenario.name} at {load_of(world):.3g}" for world in worlds)
    ends = zip(("change", "low", "high"), change, strict=True)
    figures = {f"shunter.{key}": f"{value:.6f}" for key, value in ends}
    return {**figures, "shunter.seeds": f"{min(seeds)}-{max(seeds)}", "shunter.worlds": where[:5000]}


def _check(name: str, worlds: Sequence[World], seeds: Sequence[int]) -> None:
    if not re.fullmatch(r"[\w .-]+", name):
        raise InputError("name", "hold letters, digits, spaces and ._- only", name)
    if not worlds:
        raise InputError("worlds", "hold a world to compare on", worlds)
    if len(seeds) < 2:
        raise InputError("seeds", "hold at least two seeds, for an interval", list(seeds))


@contextmanager
def _client(tracker: Tracker) -> Iterator[Any]:
    import_mlflow()
    import mlflow

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside MLflow's own dependencies
        yield mlflow.MlflowClient(tracking_uri=tracker.uri, registry_uri=tracker.uri)


def _contend(
    store: str, before: Any, policy: LearnedPolicy, worlds: Sequence[World], seeds: Sequence[int]
) -> _Decision:
    """Compares with the best heuristic, and with the champion before if there is one that can be run."""
    mine = mean_responses(worlds, policy, seeds)
    played = f"{len(seeds)} paired seeds in {len(worlds)} world{'s' if len(worlds) > 1 else ''}"
    known = {name: mean_responses(worlds, heuristic, seeds) for name, heuristic in heuristics(worlds).items()}
    best = best_of(known)
    above, _, over_heuristic = _compare(mine, known[best], f"{best}, the best heuristic")
    if before is None:
        return _Decision(above, UNKNOWN, f"{over_heuristic}; {played}. There was no champion.")
    rival = f"the champion before it, version {before.version}"
    try:
        champion = load_registered(f"models:/{before.name}/{before.version}", store=store)
    except VersionError as error:
        why = f"{over_heuristic}; {played}. Not compared with {rival}, which this shunter cannot run: {error}"
        return _Decision(above, UNKNOWN, why)
    better, change, over_champion = _compare(mine, mean_responses(worlds, champion, seeds), rival)
    reasons = [over_heuristic, over_champion] if better else [over_champion, over_heuristic]
    return _Decision(above and better, change, f"{'; '.join(reasons)}; {played}.")


def _compare(mine: Array, theirs: Array, rival: str) -> tuple[bool, Interval, str]:
    """Whether mean responses are lower for certain, by how much, and both in words."""
    change = paired_mean_change(mine, theirs)
    words = f"{change.value:+.2%} [{change.low:+.2%}, {change.high:+.2%}] in mean response"
    unfinished, theirs_unfinished = (int(np.isnan(times).sum()) for times in (mine, theirs))
    if unfinished > theirs_unfinished:
        left = f"leaves {unfinished} episodes unfinished, and {theirs_unfinished} were left by"
        return False, change, f"Not better: {left} {rival} ({words})"
    claims = {"below": "Better than", "above": "Not better than", "undecided": "Undecided against"}
    return change.sign < 0, change, f"{said(change.low, change.high, **claims)} {rival}: {words}"


def _undecided(client: Any, name: str, digest: str) -> str | None:
    """The version of the same file that an interrupted registration left."""
    query = f"name = '{name}' and tags.`{DECISION}` = '{UNDECIDED}'"
    left = [v for v in client.search_model_versions(query) if v.tags.get("shunter.sha256") == digest]
    return str(max(int(v.version) for v in left)) if left else None


def _create(client: Any, name: str, policy_path: Path, digest: str, tracker: Tracker) -> str:
    from mlflow.exceptions import MlflowException

    info = _log_model(policy_path, tracker)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {
        DECISION: UNDECIDED,
        "shunter.sha256": digest,
        "shunter.features_version": str(FEATURES_VERSION),
    }
    version = client.create_model_version(
        name, source=info.model_uri, run_id=tracker.run_id, tags=tags, model_id=info.model_id
    )
    return str(version.version)


def _log_model(policy_path: Path, tracker: Tracker) -> Any:
    import mlflow

    with tempfile.TemporaryDirectory() as folder:
        data = shutil.copyfile(policy_path, Path(folder) / "policy.safetensors")
        wheel = write_wheel(Path(folder))
        return mlflow.models.Model.log(
            artifact_path=None,
            name="policy",
            flavor=mlflow.pyfunc,
            run_id=tracker.run_id,
            loader_module="shunter.agents.mlflow_model",
            data_path=str(data),
            signature=signature(),
            code_paths=[str(wheel)],
            pip_requirements=[f"./code/{wheel.name}", *pinned_requirements()],
        )
