"""Where MLflow's store is, and how it is opened: in seconds, in silence, or with one line that says why not.

SQLite in the working folder by default, ``MLFLOW_TRACKING_URI`` respected.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shunter.errors import InputError, ShunterWarning, one_line
from shunter.tracking.database import database_of, prepare, uri_of
from shunter.tracking.reach import no_answer, without_user

__all__ = ["open_store", "said_uri", "store_uri", "talking"]

_LOGGERS = ("mlflow", "alembic", "sqlalchemy", "urllib3")
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
"""MLflow's own would try for more than four minutes; what the environment says goes before these."""

_LONGEST = 300
"""Characters of MLflow's reasons that are shown."""


class StoreError(InputError):
    """MLflow's store cannot be used, or cannot do what was asked."""


def store_uri(folder: str | os.PathLike[str] = ".") -> str:
    """The URI of the store that is used from a folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or uri_of(Path(folder).resolve() / "mlflow.db")


def said_uri(uri: str) -> str:
    """A store's URI as it is shown: without a user's name and password."""
    return without_user(uri, "***@")


def import_mlflow() -> None:
    """Imports MLflow, which takes seconds, without its chatter, its bars and its telemetry."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside MLflow's own dependencies
        logging.getLogger("alembic").setLevel(logging.WARNING)
        import mlflow.pyfunc
        import mlflow.tracking  # noqa: F401
    logging.getLogger("mlflow").setLevel(logging.WARNING)


def open_store(uri: str) -> Any:
    """MLflow's client of a store that answers; the tables of a new local one are laid out, under a lock.

    Args:
        uri: From ``store_uri``.

    Raises:
        StoreError: Nobody answers, MLflow refuses such a URI, or the database is damaged.
    """
    moved = ""
    with talking(uri):
        why = no_answer(uri)
        if why:
            raise _error(uri, why)
        import_mlflow()
        import mlflow

        database = database_of(uri)
        if database is not None:
            moved = prepare(database)
        client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    if moved:
        warnings.warn(moved, ShunterWarning, stacklevel=2)
    return client


@contextmanager
def talking(uri: str) -> Iterator[None]:
    """While MLflow is talked to: it prints nothing, gives up early, and what it raises is one error of ours.

    Args:
        uri: The store that is talked to.

    Raises:
        StoreError: MLflow, or what is beneath it, raised an error.
    """
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    added = {key: text for key, text in _PATIENCE.items() if key not in os.environ}
    os.environ.update(added)
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside MLflow's own dependencies
            yield
    except InputError:
        raise
    except Exception as error:  # a foreign library on a foreign machine: it may raise anything
        raise _error(uri, no_answer(uri) or _reason(error)) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for key in added:
            os.environ.pop(key, None)


def _error(uri: str, why: str) -> StoreError:
    why = why.replace(uri, said_uri(uri))
    return StoreError("MLFLOW_TRACKING_URI", f"name a store that can be used ({why})", said_uri(uri))


def _reason(error: BaseException) -> str:
    """The first sentence of what went wrong; MLflow's reasons hold whole pages."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = one_line(text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
