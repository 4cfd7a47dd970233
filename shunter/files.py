"""Files that are there as a whole or not at all."""

from __future__ import annotations

import glob
import gzip
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from shunter.errors import InputError, ShunterError

__all__ = [
    "cache_folder",
    "check_place",
    "finite",
    "lasting_name",
    "open_text",
    "replaced",
    "unwritable",
    "write_bytes",
    "write_json",
    "write_text",
]


def cache_folder(name: str) -> Path:
    """Folder of the user's cache for what can be had again; it need not be there yet.

    Args:
        name: What it is for.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shunter" / name


def check_place(field: str, path: Path | None) -> None:
    """Refuses a file that could not be written, before the work begins whose result it is for.

    Args:
        field: What the path was given as, such as ``--json``.
        path: Path of the file; None, where none is wanted, is in order.

    Raises:
        InputError: It is a folder, or in a folder that does not exist.
    """
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise InputError(field, "be a file in an existing folder", str(path))


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
        if path.exists() and not path.is_file() and not path.is_dir():
            yield path
            return
        whole = path.resolve()
        temporary = whole.with_name(f".{whole.name}.{os.getpid()}.tmp")
        whole.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(whole)
        try:
            yield temporary
            _sync(temporary)
            os.replace(temporary, whole)
            _sync(whole.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error


def _remove_leftovers(path: Path) -> None:
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        pid = leftover.name.split(".")[-2]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            with suppress(FileNotFoundError):  # somebody else removed it
                leftover.unlink()


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


def _sync(path: Path) -> None:
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
    return ShunterError(f"{path}: cannot be written: {why}" + (f"; {then}" if then else ""))
