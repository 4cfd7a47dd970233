"""Files that are there as a whole or not at all."""

from __future__ import annotations

import errno
import glob
import gzip
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from shunter.errors import InputError, ShunterError

__all__ = [
    "cache_folder",
    "check_place",
    "finite",
    "is_free",
    "is_special",
    "lasting_name",
    "no_room",
    "open_text",
    "remove_leftovers",
    "replaced",
    "sync",
    "unwritable",
    "write_bytes",
    "write_json",
    "write_text",
    "write_texts",
]


_BESIDE_BYTES = 32
"""What names beside an output have more than its own, like ``.events.parquet`` and ``.4194304.tmp``."""

_LEAST_FREE_BYTES = 1 << 18
"""A disk with less is full."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where there is no room: on the disk, in the user's share, or for a file so large."""


def cache_folder(name: str) -> Path:
    """Folder of the user's cache for what can be had again; it need not be there yet.

    Args:
        name: What it is for.

    Raises:
        InputError: Neither the environment nor the system knows the user's folder.
    """
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(given or Path.home() / ".cache") / "shunter" / name
    except RuntimeError:  # a user whom the system does not know, as in a container
        raise InputError("HOME", "name a folder (or XDG_CACHE_HOME one that may be emptied)", None) from None


def check_place(field: str, path: Path | None, *, folder: bool = False, make: bool = False) -> None:
    """Refuses what could not be written, before the work begins whose result it is for.

    Args:
        field: What the path was given as, such as ``--json``.
        path: Path of the file or folder; None, where none is wanted, is in order.
        folder: Whether it is to be a folder.
        make: Whether folders above it that do not exist are made.

    Raises:
        InputError: It is a folder where a file is wanted, or the other way round; the folder that it is in
            does not exist, or may not be written to; its name is too long; the disk is full.
    """
    if path is None or is_special(path):
        return
    whole = Path(os.path.realpath(path))
    if os.path.islink(whole):
        raise InputError(field, "not be a link that leads to itself", str(path))
    if os.path.exists(path) and os.path.isdir(path) != folder:
        raise InputError(field, "be a folder" if folder else "be a file in an existing folder", str(path))
    if not make and not os.path.isdir(whole.parent):
        raise InputError(field, "be a file in an existing folder", str(path))
    places = (whole, *whole.parents) if folder else whole.parents
    there = next(place for place in places if os.path.exists(place))
    if not there.is_dir():
        raise InputError(field, f"be in a folder, which {there.name} is not", str(path))
    longest = os.pathconf(there, "PC_NAME_MAX") - _BESIDE_BYTES
    if any(len(os.fsencode(part)) > longest for part in whole.relative_to(there).parts):
        raise InputError(field, f"have names of at most {longest} bytes", str(path))
    if len(os.fsencode(whole)) > os.pathconf(there, "PC_PATH_MAX") - 2 * _BESIDE_BYTES:
        raise InputError(field, "be a shorter path", str(path))
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(field, f"be where files may be written, which {there} is not", str(path))
    disk = os.statvfs(there)
    if disk.f_blocks and disk.f_bavail * disk.f_frsize < _LEAST_FREE_BYTES:
        raise InputError(field, f"be on a disk with {_LEAST_FREE_BYTES >> 10} KB free", str(path))


def is_special(path: Path) -> bool:
    """Whether a path is a pipe or a device, which is written to as it is."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


@contextmanager
def replaced(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a file beside a path to write to, which then takes its place.

    Readers see the old file or the new one, which is on the disk when this ends; if writing fails, nothing
    has changed. Folders are created, links followed, and what killed processes left half-written is removed.
    What is no file, like a pipe, is written to as it is.

    Raises:
        ShunterError: The disk is full, or the place cannot be written to.
    """
    path = Path(path)
    try:
        if is_special(path):
            yield path
            return
        whole = Path(os.path.realpath(path))
        if os.path.islink(whole):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        temporary = whole.with_name(f".{whole.name}.{os.getpid()}.tmp")
        whole.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(whole)
        try:
            yield temporary
            sync(temporary)
            os.replace(temporary, whole)
            sync(whole.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error


def remove_leftovers(path: Path) -> None:
    """Removes what killed processes left of a file or folder that they were writing.

    Args:
        path: Where it was to be.
    """
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        pid = leftover.name.split(".")[-2]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            with suppress(FileNotFoundError):  # somebody else removed it
                leftover.unlink()


def is_free(path: Path) -> bool:
    """Whether nothing is there: no file, and no folder but one in which killed processes left things."""
    return all(map(is_leftover, path.iterdir())) if path.is_dir() else not path.exists()


def is_leftover(path: Path) -> bool:
    """Whether a killed process left this, half-written or to hold its place, by its name."""
    return re.fullmatch(r"\..*\.(\d+\.tmp|lock)", path.name) is not None


def write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
    """Writes bytes; returns the path.

    Raises:
        ShunterError: As ``replaced``.
    """
    with replaced(path) as temporary:
        temporary.write_bytes(data)
    return Path(path)


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Writes text as UTF-8; returns the path.

    Raises:
        ShunterError: As ``replaced``.
    """
    return write_bytes(path, text.encode())


def write_texts(texts: Mapping[Path, str]) -> None:
    """Writes files that belong together as UTF-8: all of them, or none if one cannot be written.

    Args:
        texts: What is to be in each.

    Raises:
        ShunterError: As ``replaced``.
    """
    with ExitStack() as stack:
        places = [stack.enter_context(replaced(path)) for path in texts]
        for place, text in zip(places, texts.values(), strict=True):
            place.write_bytes(text.encode())


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
    """Writes JSON; returns the path.

    Raises:
        ShunterError: As ``replaced``.
        ValueError: A number is not finite: a reader of JSON could not read it.
    """
    return write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def open_text(path: Path, mode: str) -> Any:
    """Opens a file of text, gzipped if its name ends in ``.gz``.

    Args:
        path: The file; what ``replaced`` gave counts by the name that it will have.
        mode: ``rt`` or ``wt``.
    """
    opener = gzip.open if lasting_name(path).endswith(".gz") else open
    return opener(path, mode, encoding="utf-8")


def lasting_name(path: Path) -> str:
    """The name of a file; of one that ``replaced`` gave, the name that it will have."""
    return re.sub(r"\.\d+\.tmp$", "", path.name)


def finite(value: Any) -> Any:
    """Plain data with None in place of numbers that JSON does not know; also of arrays and named tuples."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {key: finite(of) for key, of in value.items()}
    if isinstance(value, list | tuple):
        return [finite(of) for of in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sync(path: Path) -> None:
    """Has the disk hold what was written to a file, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unwritable(path: str | os.PathLike[str], error: OSError, then: str = "") -> ShunterError:
    """The one-line error for a full disk, a missing permission and the like.

    Args:
        path: What could not be written.
        error: What the system said.
        then: What the user can do about it.
    """
    why = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
    path = re.sub(r"\.[^/]*\.\d+\.tmp/", "", os.fspath(path))  # of a folder that is not in place yet
    return ShunterError(f"{path}: cannot be written: {why}" + (f"; {then}" if then else ""))


def no_room(error: BaseException) -> ShunterError | None:
    """The one-line error, if what failed comes of a full disk, whatever library said so and how.

    Args:
        error: What was raised; what it was raised from counts too.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _FULL:
            return unwritable(seen.filename or "a file or the output", seen)
        if type(seen).__module__ == "sqlite3" and str(seen).endswith(("disk is full", "disk I/O error")):
            return unwritable("MLflow's database", OSError(errno.ENOSPC, str(seen)))
        seen = seen.__cause__ or seen.__context__
    return None
