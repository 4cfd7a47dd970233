"""Versions of policies in MLflow's model registry: made once for a file, whoever made them."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shunter.agents.mlflow_model import signature
from shunter.envs.observation.features import FEATURES_VERSION
from shunter.sinks import markdown, registry_name
from shunter.tracking.wheel import pinned_requirements, write_wheel

__all__ = ["describe"]

DECISION, UNDECIDED = "shunter.decision", "undecided"
DIGEST = "shunter.sha256"

ABOUT = (
    "Scheduling policies. Each version says what it was trained on, and how its mean response is against "
    "that of the best heuristic and that of the champion before it: lower is better. `champion` is the "
    "latest that was shown to be better than both."
)
"""What a registered model says of itself."""


def digest_of(path: Path) -> str:
    """What a policy file is known by."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def create_version(client: Any, run_id: str, path: Path, name: str, why: str) -> str:
    """Registers a policy file, as a version on which nothing is decided; an undecided one of it is taken up.

    Args:
        client: From ``open_store``.
        run_id: Run that the policy is of.
        path: Policy file.
        name: Of the registered model.
        why: What is known of it, in words; it becomes the description.

    Returns:
        The version.

    Raises:
        InputError: The registry takes no such name.
    """
    registry_name("name of a registered model", name)
    digest = digest_of(path)
    known = [v for v in client.search_model_versions(f"name = '{name}'") if v.tags.get(DIGEST) == digest]
    undecided = [int(v.version) for v in known if v.tags.get(DECISION) == UNDECIDED]
    decided = [int(v.version) for v in known if v.run_id == run_id and v.tags.get(DECISION) != UNDECIDED]
    if decided and not undecided:
        return str(max(decided))
    version = str(max(undecided)) if undecided else _create(client, run_id, path, name, digest)
    describe(client, name, version, why)
    return version


def describe(client: Any, name: str, version: str, why: str) -> None:
    """Sets the description of a version, which MLflow's pages take for Markdown."""
    client.update_model_version(name, version, description=markdown(why))


def _create(client: Any, run_id: str, path: Path, name: str, digest: str) -> str:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=ABOUT)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {DECISION: UNDECIDED, DIGEST: digest, "shunter.features_version": str(FEATURES_VERSION)}
    # Both are done, or looked up, by MLflow's own client.
    with _as_default(client.tracking_uri, client.get_run(run_id).info.experiment_id):
        info = _log_model(path, run_id)
        version = client.create_model_version(
            name, source=info.model_uri, run_id=run_id, tags=tags, model_id=info.model_id
        )
    return str(version.version)


def _log_model(path: Path, run_id: str) -> Any:
    import mlflow

    with tempfile.TemporaryDirectory() as folder:
        data = shutil.copyfile(path, Path(folder) / "policy.safetensors")
        wheel = write_wheel(Path(folder))
        return mlflow.models.Model.log(
            artifact_path=None,
            name="policy",
            flavor=mlflow.pyfunc,
            run_id=run_id,
            loader_module="shunter.agents.mlflow_model",
            data_path=str(data),
            signature=signature(),
            code_paths=[str(wheel)],
            pip_requirements=[f"./code/{wheel.name}", *pinned_requirements()],
        )


@contextmanager
def _as_default(uri: str, experiment: str) -> Iterator[None]:
    """While models, which MLflow logs by a client of its own, go to a store; what the process had comes back.

    MLflow writes both into the environment too, from where ``store_uri`` would send all later runs there.
    """
    import mlflow
    from mlflow.tracking import fluent
    from mlflow.tracking._tracking_service import utils

    variables = {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID")}
    uri_before, experiment_before = utils._tracking_uri, fluent._active_experiment_id
    try:
        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment(experiment_id=experiment)
        yield
    finally:
        mlflow.set_tracking_uri(uri_before)
        fluent._active_experiment_id = experiment_before
        for name, text in variables.items():
            if text is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = text
