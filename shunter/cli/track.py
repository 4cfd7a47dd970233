"""``shunter track``: what MLflow could not take, sent later."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shunter.cli.options import open_console, progress, say_answer
from shunter.errors import InputError
from shunter.tracking.push import push_runs
from shunter.tracking.store import said_uri, store_uri


def track_push(
    folder: Annotated[Path, typer.Argument(help="Folder in which commands ran.")] = Path(),
) -> None:
    """Send the runs to MLflow that it could not take when they were made.

    They are kept in mlflow-unsent. They go to MLFLOW_TRACKING_URI, or to the folder's own store; what is sent
    is removed from there. It can be cut off and run again: nothing is logged twice.

    Examples:

    shunter track push

    MLFLOW_TRACKING_URI=http://tracking:5000 shunter track push runs/demo
    """
    if not folder.is_dir():
        raise InputError("FOLDER", "be a folder in which commands ran", str(folder))
    console = open_console()
    with progress(console) as bar:
        done = push_runs(folder, bar)
    sent = [one for one in done if not one.why]
    left = [one for one in done if one.why]
    lines = [
        f"{len(sent)} sent to {said_uri(store_uri(folder))}, {len(left)} left"
        if done
        else "Nothing is unsent."
    ]
    lines += [f"sent: {one.name}, run {one.run_id}" for one in sent]
    lines += [f"left: {one.folder}: {one.why}" for one in left]
    say_answer(console, lines)
    if left:
        raise typer.Exit(1)
