"""A folder for what is temporary, a command's own: nothing is left, also by commands that were killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shunter.errors import InputError
from shunter.files import unwritable

__all__ = ["outside", "scratch"]


@contextmanager
def scratch() -> Iterator[Path]:
    """Gives a folder in which ``tempfile`` works meanwhile, in this process and in workers that it starts.

    It goes at the end, and first of all those go whose process was killed: each is locked as long as its
    process lives. Libraries that leave folders behind leave them here.

    Raises:
        InputError: There is no folder for temporary files.
        ShunterError: No folder can be made in it.
    """
    before = tempfile.tempdir
    try:
        where = Path(tempfile.gettempdir())
    except OSError:  # where nothing can be written it says so with the names of some folders
        tried = os.environ.get("TMPDIR") or "/tmp"
        raise InputError("TMPDIR", "name a folder where files can be written", tried) from None
    _remove_abandoned(where)
    try:
        folder, lock = _locked_folder(where)
    except OSError as error:
        raise unwritable(where, error) from error
    tempfile.tempdir = str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = before
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def outside() -> Path:
    """Where temporary files stay when the command ends: not in the folder that ``scratch`` gave."""
    folder = Path(tempfile.gettempdir())
    return folder.parent if folder.name.startswith(_prefix()) else folder


def _prefix() -> str:
    return f"shunter-{os.getuid()}-"


def _locked_folder(where: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_prefix(), dir=where))
        with suppress(FileNotFoundError):  # taken for abandoned before it was locked
            lock = _lock(folder)
            if lock is not None and folder.exists():
                return folder, lock


def _lock(folder: Path) -> int | None:
    """A descriptor that holds a folder's lock; None if another process does."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _remove_abandoned(where: Path) -> None:
    for folder in where.glob(f"{_prefix()}*"):
        with suppress(OSError):  # gone meanwhile, or not a folder of ours
            if folder.lstat().st_uid == os.getuid() and (lock := _lock(folder)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)
