"""Where MLflow's store is: SQLite in the working folder by default, ``MLFLOW_TRACKING_URI`` respected."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path

__all__ = ["import_mlflow", "store_uri"]


def store_uri(folder: str | os.PathLike[str] = ".") -> str:
    """The URI of the store that is used from a folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(folder).resolve() / 'mlflow.db'}"


def import_mlflow() -> None:
    """Imports MLflow, which takes seconds, without its chatter, its bars and its telemetry."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside MLflow's own dependencies
        logging.getLogger("alembic").setLevel(logging.WARNING)
        import mlflow.pyfunc
        import mlflow.tracking  # noqa: F401
    logging.getLogger("mlflow").setLevel(logging.WARNING)
