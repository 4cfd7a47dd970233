"""What MLflow could not take when it was made: sent once it can."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shunter.errors import BrokenFileError, InputError
from shunter.tracking.journal import UNSENT, Journal, kept
from shunter.tracking.sending import send
from shunter.tracking.store import open_store, store_uri

__all__ = ["push_runs"]


@dataclass(frozen=True)
class Pushed:
    """What became of one run that was kept.

    Attributes:
        folder: Where it was kept, or is if it could not be sent.
        name: Kind and name of the run; of what cannot be read, the folder's.
        run_id: MLflow's id of the run; empty if it could not be sent.
        why: Why it could not be sent, in words; empty if it could.
    """

    folder: Path
    name: str
    run_id: str = ""
    why: str = ""


def push_runs(
    folder: str | os.PathLike[str] = ".", on_progress: Callable[[str, int, int], None] = lambda *_: None
) -> list[Pushed]:
    """Sends the runs that are kept in a folder's ``mlflow-unsent`` to the store that is used from there.

    What is sent is removed; one that is cut off goes on where it was, and nothing is there twice. A run whose
    process was killed ends as that. Those that another process writes are left alone.

    Args:
        folder: Folder in which commands ran.
        on_progress: Called with a run's name, how many are done, and how many there are.

    Returns:
        A line for each run, the oldest first.

    Raises:
        StoreError: The store cannot be used.
    """
    found = kept(Path(folder) / UNSENT)
    if not found:
        return []
    uri = store_uri(folder)
    client = open_store(uri)
    done, journals = [], []
    for place in found:
        try:
            journal = Journal.open(place)
        except BrokenFileError as error:
            done.append(Pushed(place, place.name, why=str(error)))
            continue
        if journal is None:
            done.append(Pushed(place, place.name, why="a process that runs still writes to it"))
        else:
            journals.append(journal)
    # A run before those that are part of it.
    journals.sort(key=lambda one: (one.header["parent"] is not None, one.header["start_ms"]))
    for number, journal in enumerate(journals):
        kind, name = journal.header["kind"], journal.header["name"]
        name = name if name.startswith(kind) else f"{kind} {name}"
        on_progress(name, number, len(journals))
        journal.end_if_killed()
        try:
            done.append(Pushed(journal.folder, name, send(journal, client, uri)))
            journal.remove()
        except InputError as error:
            journal.close()
            done.append(Pushed(journal.folder, name, why=str(error)))
    return done
