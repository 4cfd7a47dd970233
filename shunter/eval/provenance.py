"""How figures came about: software, machine, engine and performance model, as plain data."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shunter.engines.base import Capabilities
from shunter.envs.world.world import World
from shunter.eval.execution.device_executor import DeviceExecutor
from shunter.models.performance import PerformanceModel
from shunter.profiling.dataset.fingerprint import hardware, hardware_id, software

__all__ = ["capabilities_of", "provenance"]


def provenance(
    performance: PerformanceModel | None = None, capabilities: Sequence[Capabilities] = ()
) -> dict[str, Any]:
    """What an evaluation was made with.

    Args:
        performance: The model that predicted; None if it is not known.
        capabilities: Capabilities of the engines that ran for real; empty if none did.

    Returns:
        Plain data: ``created_utc``, ``commit`` (None outside a checkout), ``machine``, ``machine_id``,
        ``versions``, ``engine_version`` (names and versions; None if nothing ran for real), ``performance``
        (its digest, its data's, the engine versions profiled, and how often it was recalibrated).
    """
    engines = {one.engine: one.engine_version for one in capabilities}
    more = {name: version for one in capabilities for name, version in one.versions.items()}
    return {
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": hardware(),
        "machine_id": hardware_id(),
        "versions": {**software(), **engines, **more},
        "engine_version": ", ".join(f"{n} {v}" for n, v in sorted(engines.items())) or None,
        "performance": None if performance is None else _performance(performance),
    }


def capabilities_of(world: World, device_executors: Sequence[DeviceExecutor]) -> list[Capabilities]:
    """What the engines of a node say of themselves, a row for each device and model."""
    return [s.engine(model.name).capabilities() for s in device_executors for model in world.scenario.models]


def commit() -> str | None:
    """The commit of the checkout that this code runs from, ``-dirty`` if it was changed since."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None  # installed: a repository around the environment is somebody else's
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _performance(performance: PerformanceModel) -> dict[str, Any]:
    state = performance.state_
    return {
        "digest": performance.digest,
        "data": state.data_fingerprint,
        "engine_versions": dict(state.engine_versions),
        "recalibrated_on_runs": len(state.recalibrated_on),
    }
