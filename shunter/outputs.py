"""Outputs of several files: written by one command at a time, and there as a whole or as they were."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

from shunter.errors import InputError
from shunter.files import check_place, is_special, remove_leftovers, sync, unwritable

__all__ = ["giving_back", "held", "hold", "in_use", "note_given", "replaced_folder", "sole_writer"]


_ALONE = "not be written by another command at the same time"

_OURS: set[Path] = set()
"""Locks that this process holds."""


def _lock_of(path: Path) -> Path:
    """Beside the file or folder; in a folder, where nothing may be written beside it (a mount, say)."""
    whole = Path(os.path.realpath(path))
    inside = whole.is_dir() and (whole.parent == whole or not os.access(whole.parent, os.W_OK | os.X_OK))
    return (whole if inside else whole.parent) / f".{whole.name}.lock"


@contextmanager
def sole_writer(field: str, path: Path, *, folder: bool = False, make: bool = True) -> Iterator[None]:
    """Looks whether a file or folder can be written, and holds its lock; see ``check_place`` and ``held``.

    Args:
        field: What the path was given as, such as ``--out``.
        path: The file or folder.
        folder: Whether it is a folder.
        make: Whether folders above it that do not exist are made.

    Raises:
        InputError: Another process holds the lock, or the place is none.
        ShunterError: The place cannot be written to.
    """
    check_place(field, path, folder=folder, make=make)
    with held(field, path):
        yield


class _Held(NamedTuple):
    """What a command holds until it ends.

    Attributes:
        stack: What gives it back.
        fields: What each path that it holds was given as.
        given: All paths that the command was given, each with its option.
    """

    stack: ExitStack
    fields: dict[str, str]
    given: list[tuple[str, str]]


_HELD: ContextVar[_Held | None] = ContextVar("held", default=None)


@contextmanager
def giving_back() -> Iterator[None]:
    """While a command runs; what it holds (``hold``) is given back at its end."""
    with ExitStack() as stack:
        token = _HELD.set(_Held(stack, {}, []))
        try:
            yield
        finally:
            _HELD.reset(token)


def note_given(files: Iterable[tuple[str, Path]]) -> None:
    """Notes what a command was given, by option, so that no output is put in the place of what it reads.

    Args:
        files: What each was given as, and the path; outputs may be among them, once each.

    Raises:
        InputError: It already holds one of them as an output.
    """
    held_now = _HELD.get()
    if held_now is not None:
        held_now.given.extend((field, os.path.realpath(path)) for field, path in files)
        for path, field in held_now.fields.items():
            _check_no_input(held_now, field, Path(path))


def _check_no_input(held_now: _Held, field: str, path: Path) -> None:
    given = [name for name, one in held_now.given if one == os.path.realpath(path)]
    if len(given) > 1 and not is_special(path):
        other = next((name for name in given if name != field), given[0])
        raise InputError(field, f"be another file than {other}", str(path))


def hold(field: str, path: Path | None, *, folder: bool = False, make: bool = True) -> None:
    """Is ``sole_writer`` until the command ends, within ``giving_back``.

    Args:
        field: What the path was given as, such as ``--out``.
        path: The file or folder; None, where none is wanted, is in order.
        folder: Whether it is a folder.
        make: Whether folders above it that do not exist are made.

    Raises:
        InputError: Another command or another option writes it, the command was given it elsewhere too, or
            the place is none.
        ShunterError: The place cannot be written to.
    """
    held_now = _HELD.get()
    if path is None or held_now is None:
        return
    _check_no_input(held_now, field, path)
    whole = os.path.realpath(path)
    other = held_now.fields.get(whole, field)
    if other != field:
        raise InputError(field, f"be another file than {other}", str(path))
    held_now.stack.enter_context(sole_writer(field, path, folder=folder, make=make))
    held_now.fields[whole] = field


@contextmanager
def held(field: str, path: Path) -> Iterator[None]:
    """Holds a lock on a file or folder that is to be written, so that no other command writes it.

    The lock is a file beside it, ``.NAME.lock``, which goes at the end; a killed process's does not count.
    What is no file, like a pipe, has none, and what the command holds already (``hold``) needs no other.
    Who holds a folder holds the files in it too, but for those that this process holds itself.

    Args:
        field: What the path was given as, such as ``--out``.
        path: The file or folder; those that it is in are made.

    Raises:
        InputError: Another process holds the lock.
        ShunterError: The place cannot be written to.
    """
    held_now = _HELD.get()
    if is_special(path) or (held_now is not None and os.path.realpath(path) in held_now.fields):
        yield
        return
    lock = _lock_of(path)
    with _made(lock.parent):
        try:
            handle = _locked(lock)
        except OSError as error:
            raise unwritable(path, error) from error
        if handle is None:
            raise InputError(field, _ALONE, str(path))
        _OURS.add(lock)
        try:
            if any(_is_held(one) for one in _around(path) if one not in _OURS):
                raise InputError(field, _ALONE, str(path))
            yield
        finally:
            _OURS.discard(lock)
            lock.unlink(missing_ok=True)
            os.close(handle)


def _around(path: Path) -> Iterator[Path]:
    """Locks of the folder that a file or folder is in, and of what is in a folder."""
    whole = Path(os.path.realpath(path))
    yield _lock_of(whole.parent)
    if whole.is_dir():
        yield from whole.glob(".*.lock")


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Makes a folder and those above it; the ones that were made and are empty at the end go again.

    Raises:
        ShunterError: The place cannot be written to.
    """
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        yield
    finally:
        with suppress(OSError):  # not empty, so neither are those above it
            for one in made:
                one.rmdir()


def _locked(lock: Path) -> int | None:
    """A descriptor that holds the lock; None if another process does."""
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        if not _took(handle):
            os.close(handle)
            return None
        with suppress(FileNotFoundError):  # who held it before may have removed it since it was opened here
            if os.fstat(handle).st_ino == os.stat(lock).st_ino:
                return handle
        os.close(handle)


def _took(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def in_use(path: Path) -> bool:
    """Whether another command is writing a file or folder."""
    return _is_held(_lock_of(path))


def _is_held(lock: Path) -> bool:
    try:
        handle = os.open(lock, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _took(handle)
    finally:
        os.close(handle)


@contextmanager
def replaced_folder(folder: Path, last: str) -> Iterator[Path]:
    """Gives a folder to write to; what is in it then takes its place in another, in which the rest stays.

    If writing fails, nothing has changed. The file named last stands for all: it goes before the first of the
    others changes, and comes when they are all in place. So who finds it finds what belongs to it, whenever
    this was cut off.

    Args:
        folder: Where the files belong; made if need be, and removed again if it is left empty.
        last: Name of the file that must be among what is written.

    Raises:
        ShunterError: The disk is full, or the place cannot be written to.
    """
    folder = Path(os.path.realpath(folder))  # a link stays, also one to a folder that is not there yet
    staged = folder / f".{last}.{os.getpid()}.tmp"
    with _made(folder):
        remove_leftovers(folder / last)
        try:
            staged.mkdir()
            yield staged
            _put(staged, folder, last)
        except OSError as error:
            raise unwritable(folder, error) from error
        finally:
            shutil.rmtree(staged, ignore_errors=True)


def _put(staged: Path, folder: Path, last: str) -> None:
    for path in (*staged.rglob("*"), staged):
        sync(path)
    (folder / last).unlink(missing_ok=True)
    sync(folder)
    names = sorted(path.name for path in staged.iterdir())
    for name in (*(name for name in names if name != last), last):
        target = folder / name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        os.replace(staged / name, target)
    sync(folder)
