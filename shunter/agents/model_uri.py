"""Policies from MLflow's model registry, by URI."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from shunter.agents.learned.policy import LearnedPolicy
from shunter.errors import BrokenFileError, InputError, VersionError
from shunter.sinks import registry_name
from shunter.tracking.store import open_store, store_uri, talking

__all__ = ["find_version", "load_registered", "version_uri"]

_URI = re.compile(r"models:/(?P<name>[^/@:]+)(?:@(?P<alias>[\w-]+)|/(?P<version>\d+))")


def load_registered(uri: str, *, store: str | None = None) -> LearnedPolicy:
    """Loads the policy file of a registered model as ``NAME:ALIAS``; runs no code that lies in the registry.

    Args:
        uri: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.
        store: URI of MLflow's store; by default ``store_uri``'s.

    Raises:
        InputError: The URI has another form, or there is no such model, version or alias.
        BrokenFileError: The model's artifact is missing or damaged.
        VersionError: It was trained for observations of another version.
    """
    match, client, version, store = _look_up(uri, store)
    with tempfile.TemporaryDirectory() as folder, talking(store):
        policy = _load(_download(client, version, uri, folder, store), uri)
    policy.name = f"{match['name']}:{match['alias'] or match['version']}"
    return policy


def version_uri(uri: str, *, store: str | None = None) -> str:
    """The URI of the version that a registered model's URI means now, ``models:/NAME/VERSION``.

    Raises:
        InputError: The URI has another form, or there is no such model, version or alias.
    """
    match, _, version, _ = _look_up(uri, store)
    return f"models:/{match['name']}/{version.version}"


def _look_up(uri: str, store: str | None) -> tuple[re.Match[str], Any, Any, str]:
    """The parts of a URI, MLflow's client, the version that is meant, and the store."""
    match = _URI.fullmatch(uri)
    if match is None:
        raise InputError("--policy", "have the form models:/NAME@champion or models:/NAME/3", uri)
    registry_name("--policy models:/NAME", match["name"])
    store = store or store_uri()
    database = store.removeprefix("sqlite:///")
    if store.startswith("sqlite:///") and not Path(database).exists():
        raise InputError("--policy", f"be in an MLflow store, and there is none at {database}", uri)
    client = open_store(store)
    with talking(store):
        version = find_version(client, match["name"], match["alias"], match["version"])
        if version is None:
            raise InputError("--policy", f"name a registered model ({_known(client, match['name'])})", uri)
    return match, client, version, store


def find_version(client: Any, name: str, alias: str | None, version: str | None = None) -> Any:
    """A model version by alias or number; None if there is no such model, alias or version."""
    from mlflow.exceptions import MlflowException

    try:
        if alias is not None:
            return client.get_model_version_by_alias(name, alias)
        return client.get_model_version(name, version)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _known(client: Any, name: str) -> str:
    versions = client.search_model_versions(f"name = '{name}'")
    if not versions:
        return f"known: {', '.join(m.name for m in client.search_registered_models()) or 'none'}"
    numbers = ", ".join(str(n) for n in sorted(int(v.version) for v in versions))
    return f"{name} has versions {numbers} and no such alias or version"


def _download(client: Any, version: Any, uri: str, folder: str, store: str) -> Path:
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    source = client.get_model_version_download_uri(version.name, version.version)
    try:
        download_artifacts(artifact_uri=source, dst_path=folder, tracking_uri=store)
    except (MlflowException, OSError) as error:
        raise BrokenFileError(uri, f"its artifact cannot be had: {error}") from None
    files = list(Path(folder).rglob("*.safetensors"))
    if len(files) != 1:
        raise BrokenFileError(uri, f"it must hold one .safetensors file and holds {len(files)}")
    return files[0]


def _load(path: Path, uri: str) -> LearnedPolicy:
    try:
        return LearnedPolicy.load(path)
    except (VersionError, BrokenFileError) as error:
        # The user knows the URI, not the temporary file.
        error.args = (str(error).replace(str(path), uri),)
        raise
