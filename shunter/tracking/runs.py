"""MLflow: SQLite in the working folder by default, ``MLFLOW_TRACKING_URI`` respected."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from shunter.sinks import store_key
from shunter.tracking.store import import_mlflow, store_uri

__all__ = ["Tracker", "tracking"]

EXPERIMENT = "shunter"


class Tracker:
    """One MLflow run; several can be open at once.

    Attributes:
        run_id: MLflow's id of it.
        uri: The store.
    """

    def __init__(self, client: Any, run_id: str, uri: str) -> None:
        self._client = client
        self.run_id = run_id
        self.uri = uri

    def params(self, values: Mapping[str, Any]) -> None:
        """Logs parameters; nested mappings become dotted names."""
        from mlflow.entities import Param

        found = [Param(store_key(name), str(value)[:500]) for name, value in _flat(values)]
        self._client.log_batch(self.run_id, params=found)

    def metrics(self, values: Mapping[str, Any], step: int = 0) -> None:
        """Logs the finite numbers among the values; nested mappings become paths."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        numbers = [
            Metric(store_key(name), float(value), now_ms, step)
            for name, value in _flat(values, "/")
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        ]
        self._client.log_batch(self.run_id, metrics=numbers)

    def artifact(self, path: str | os.PathLike[str]) -> None:
        """Logs a file, or a folder under its name."""
        if Path(path).is_dir():
            self._client.log_artifacts(self.run_id, str(path), Path(path).name)
        else:
            self._client.log_artifact(self.run_id, str(path))

    def table(self, frame: pd.DataFrame, name: str) -> None:
        """Logs a table, as ``NAME.json``, that MLflow's pages show beside those of other runs."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside MLflow's own dependencies
            self._client.log_table(self.run_id, frame, name)


@contextmanager
def tracking(kind: str, name: str, *, folder: str | os.PathLike[str] = ".") -> Iterator[Tracker]:
    """Opens an MLflow run in the experiment ``shunter``.

    Args:
        kind: profile, fit, train or eval; a tag.
        name: Name of the run.
        folder: Where ``mlflow.db`` and ``mlartifacts`` are made if ``MLFLOW_TRACKING_URI`` is not set.
    """
    import_mlflow()
    import mlflow
    from mlflow.tracking.context.registry import resolve_tags

    uri = store_uri(folder)
    mlflow.set_tracking_uri(uri)
    if mlflow.get_experiment_by_name(EXPERIMENT) is None:
        local = uri.startswith("sqlite:")
        artifacts = (Path(folder).resolve() / "mlartifacts").as_uri() if local else None
        mlflow.create_experiment(EXPERIMENT, artifact_location=artifacts)
    experiment = mlflow.set_experiment(EXPERIMENT)
    client = mlflow.MlflowClient(tracking_uri=uri)
    tags = resolve_tags({"shunter.kind": kind})
    run_id = client.create_run(experiment.experiment_id, tags=tags, run_name=name).info.run_id
    ended = "FAILED"
    try:
        yield Tracker(client, run_id, uri)
        ended = "FINISHED"
    finally:
        client.set_terminated(run_id, ended)


def _flat(values: Mapping[str, Any], separator: str = ".", prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, separator, f"{name}{separator}")
        else:
            yield name, value
