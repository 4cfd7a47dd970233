"""A local store: a SQLite database, and the artefacts beside it, made once and moved together."""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from shunter.files import replaced

ARTIFACTS = "mlartifacts"
"""Folder of the artefacts, beside the database."""

_PLACES = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}
"""Columns of MLflow's tables that say where artefacts are."""


_SPECIAL = set("%?#")
"""Characters that stand for something else in a URI."""


def database_of(uri: str) -> Path | None:
    """The file of a store's database; None if it is none, or in memory."""
    if not uri.startswith("sqlite:///"):
        return None
    from sqlalchemy.engine import make_url  # as MLflow reads it, whatever its version makes of %20

    name = make_url(uri).database
    return Path(name) if name not in (None, "", ":memory:") else None


def uri_of(database: Path) -> str:
    """The URI of a database's file: what ``database_of`` takes back."""
    if not _SPECIAL.intersection(str(database)):
        return f"sqlite:///{database}"
    from sqlalchemy.engine import URL

    return URL.create("sqlite", database=str(database)).render_as_string()


def artifacts_of(database: Path) -> str:
    """The URI of the folder that artefacts are in."""
    return (database.resolve().parent / ARTIFACTS).as_uri()


def prepare(database: Path) -> str:
    """Lays out a new database, complete before anybody sees it, and takes up one that was moved or copied.

    Several processes may do so at once.

    Returns:
        What was changed in one that was moved or copied, in words; empty if nothing was.

    Raises:
        OSError: The place cannot be written to.
        sqlite3.DatabaseError: The file is no database.
    """
    with _locked(database):
        if not database.exists() or database.stat().st_size == 0:
            with replaced(database) as temporary:
                _lay_out(temporary, artifacts_of(database))
        return _take_up(database)


@contextmanager
def _locked(database: Path) -> Iterator[None]:
    database.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            file = stack.enter_context((database.parent / f".{database.name}.lock").open("a"))
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            if not database.exists():
                raise
            # What is there can be read without a lock: on a medium that is read-only, say.
        yield


def _lay_out(database: Path, artifacts: str) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(uri_of(database), artifacts).engine.dispose()


def _take_up(database: Path) -> str:
    """Has the store point at the artefacts beside it, if it came here with them from elsewhere."""
    here = artifacts_of(database)
    left: set[str] = set()
    with closing(sqlite3.connect(database, timeout=20)) as connection, connection:
        query = "SELECT name FROM sqlite_master WHERE type = 'table'"
        known = {name for (name,) in connection.execute(query)}
        if "experiments" not in known:
            return ""
        query = "SELECT experiment_id, artifact_location FROM experiments"
        for experiment, place in connection.execute(query).fetchall():
            elsewhere = str(place).endswith(f"/{ARTIFACTS}") and place not in (here, *left)
            if elsewhere and _came_along(
                connection, experiment, place, database.resolve().parent / ARTIFACTS
            ):
                _replace(connection, known, place, here)
                left.add(place)
    if not left:
        return ""
    return f"{database} came from elsewhere: its artefacts are now those in {here}, not in {', '.join(left)}"


def _came_along(connection: sqlite3.Connection, experiment: int, place: str, here: Path) -> bool:
    """Whether an experiment's artefacts are here, or no longer where the database says."""
    parts = urlsplit(place)
    if parts.scheme not in ("", "file"):
        return False
    if not Path(unquote(parts.path)).is_dir():
        return True
    runs = connection.execute("SELECT run_uuid FROM runs WHERE experiment_id = ?", (experiment,))
    return any((here / run).is_dir() for (run,) in runs.fetchall())


def _replace(connection: sqlite3.Connection, known: set[str], old: str, new: str) -> None:
    for table, columns in _PLACES.items():
        there = (
            {row[1] for row in connection.execute(f"PRAGMA table_info({table})")} if table in known else ()
        )
        for column in columns:
            if column in there:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
                )
