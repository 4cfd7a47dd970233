"""What is to be logged of a run, kept in a folder from its first word on until MLflow has all of it."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from shunter.errors import BrokenFileError, InputError
from shunter.files import remove_leftovers, write_json, write_text
from shunter.reading import from_json, read_json, reading

__all__ = ["UNSENT", "kept"]

UNSENT = "mlflow-unsent"
"""Folder of what MLflow lacks, in the working folder."""

_RECORDS, _SENT, _FILES = "records.jsonl", "sent.json", "files"
_VERSION = 1


class _Header(BaseModel):
    """What a run is."""

    key: str
    kind: str
    name: str
    experiment: str
    start_ms: int
    tags: dict[str, str]
    parent: str | None


class _First(BaseModel):
    version: Literal[1]
    header: _Header


class _Params(BaseModel):
    kind: Literal["params"]
    params: dict[str, str]


class _Metrics(BaseModel):
    kind: Literal["metrics"]
    metrics: list[tuple[str, float, int, int]]


class _Tags(BaseModel):
    kind: Literal["tags"]
    tags: dict[str, str]


class _Inputs(BaseModel):
    kind: Literal["inputs"]
    inputs: list[dict[str, Any]]


class _File(BaseModel):
    kind: Literal["file", "table"]
    file: str


class _Policy(BaseModel):
    kind: Literal["policy"]
    file: str
    name: str
    why: str


class _End(BaseModel):
    kind: Literal["end"]
    status: Literal["FINISHED", "FAILED", "KILLED"]
    at_ms: int


_Record = Annotated[
    _Params | _Metrics | _Tags | _Inputs | _File | _Policy | _End, Field(discriminator="kind")
]


class Journal:
    """The records of one run in the order in which they came, and the files that they name.

    Whoever holds a journal holds its lock; the lock of a process that is killed is given back.

    Attributes:
        folder: Where it is.
        header: What the run is: key, kind, name, experiment, start_ms, tags and parent.
        records: What is to be logged.
        reopened: Whether another process began it.
    """

    def __init__(
        self,
        folder: Path,
        header: Mapping[str, Any],
        records: list[dict[str, Any]],
        file: Any,
        *,
        reopened: bool = False,
    ) -> None:
        self.folder, self.header, self.records = folder, dict(header), records
        self.reopened, self._file = reopened, file

    @classmethod
    def begin(cls, unsent: Path, header: Mapping[str, Any]) -> Journal:
        """Makes the folder of a run.

        Args:
            unsent: Folder of all journals.
            header: What the run is.

        Raises:
            OSError: It cannot be written.
        """
        start = time.strftime("%Y%m%d-%H%M%S", time.gmtime(header["start_ms"] / 1000))
        name = f"{start}-{header['kind']}-{header['key'][:8]}"
        _remove_begun(unsent)
        begun = unsent / f".{name}.{os.getpid()}.tmp"  # with its first line and its lock it gets its name
        begun.mkdir(parents=True)
        file = (begun / _RECORDS).open("ab", buffering=0)
        fcntl.flock(file, fcntl.LOCK_EX)
        journal = cls(begun, header, [], file)
        journal._write({"version": _VERSION, "header": journal.header})
        names = itertools.chain([name], (f"{name}.{number}" for number in itertools.count(2)))
        journal.folder = begun.rename(next(unsent / one for one in names if not (unsent / one).exists()))
        return journal

    @classmethod
    def open(cls, folder: Path) -> Journal | None:
        """Opens a journal that was left; None if somebody else holds it.

        Raises:
            BrokenFileError: It is no journal of this version.
        """
        path = folder / _RECORDS
        with reading(path):
            file = path.open("rb+", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        content = file.read()
        whole = content.rfind(b"\n") + 1  # what follows was cut off while it was written
        file.truncate(whole)
        file.seek(whole)
        try:
            header, records = _checked(content[:whole])
        except ValueError as error:
            file.close()
            raise BrokenFileError(path, f"it is no journal of a run: {error}") from None
        return cls(folder, header, records, file, reopened=True)

    @classmethod
    def abandoned(cls, unsent: Path) -> Iterator[Journal]:
        """Opens the journals that no process holds, one after another; whoever takes one closes it.

        Args:
            unsent: Folder of all journals.
        """
        for folder in kept(unsent):
            with suppress(BrokenFileError):  # damaged, or just begun or removed: that is told elsewhere
                journal = cls.open(folder)
                if journal is not None:
                    yield journal

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds a record, which is on the disk's way when this returns.

        Raises:
            OSError: It cannot be written.
        """
        self._write(record)
        self.records.append(dict(record))

    @property
    def ended(self) -> bool:
        """Whether the run came to an end."""
        return bool(self.records) and self.records[-1]["kind"] == "end"

    def end_if_killed(self) -> None:
        """Has the run of a process that was killed end when it last wrote."""
        if not self.ended:
            at_ms = (self.folder / _RECORDS).stat().st_mtime_ns // 1_000_000
            self.append({"kind": "end", "status": "KILLED", "at_ms": at_ms})

    def file(self, name: str) -> Path:
        """A file that a record names.

        Raises:
            BrokenFileError: It is none of the journal's.
        """
        path = self.folder / name
        if not path.resolve().is_relative_to(self.folder.resolve()) or not path.exists():
            raise BrokenFileError(self.folder / _RECORDS, f"it names {name!r}, which is no file of it")
        return path

    def take(self, path: Path, content: str | None = None) -> str:
        """Keeps a file or folder as it is now, as a link where that can be; returns its name in the journal.

        Args:
            path: File or folder.
            content: Of a file that is not there yet, whose name alone counts.

        Raises:
            OSError: It cannot be kept.
            ShunterError: The disk is full.
        """
        for number in itertools.count(len(self.records)):
            place = self.folder / _FILES / str(number)
            if not place.exists():
                break
        place.mkdir(parents=True)
        if content is not None:
            write_text(place / path.name, content)
        elif path.is_dir():
            ignored = shutil.ignore_patterns(f"{UNSENT}*")
            shutil.copytree(path, place / path.name, copy_function=_link, ignore=ignored)
        else:
            _link(str(path.resolve()), str(place / path.name))
        return str((place / path.name).relative_to(self.folder))

    def sent(self, uri: str) -> tuple[str | None, int]:
        """The run's id in a store, if that is known, and how many records are there."""
        try:
            found = read_json(self.folder / _SENT)
            return (str(found["run_id"]), int(found["records"])) if found["uri"] == uri else (None, 0)
        except (InputError, ValueError, TypeError, KeyError):
            return None, 0  # all is sent again, which changes nothing

    def mark(self, uri: str, run_id: str, records: int) -> None:
        """Keeps what is in a store by now."""
        write_json(self.folder / _SENT, {"uri": uri, "run_id": run_id, "records": records})

    def close(self) -> None:
        """Lets go of it; it stays."""
        # Forked children share the lock: closing the file here would leave it to them.
        fcntl.flock(self._file, fcntl.LOCK_UN)
        self._file.close()

    def remove(self) -> None:
        """Removes it, and the folder of all journals if it was the last."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.close()
        _remove_begun(self.folder.parent)
        with suppress(OSError):  # there are others
            self.folder.parent.rmdir()

    def _write(self, record: Mapping[str, Any]) -> None:
        left = memoryview(json.dumps(record, allow_nan=False).encode() + b"\n")
        end = self._file.tell()
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            self._file.truncate(end)
            raise


def _checked(content: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A run's header and its records.

    Raises:
        ValueError: A line is none; says which, and why.
    """
    found: list[dict[str, Any]] = []
    for number, line in enumerate(content.splitlines(), 1):
        kind: TypeAdapter[Any] = TypeAdapter(_Record if found else _First)
        try:
            found.append(from_json(line, strict=True))
            kind.validate_python(found[-1])
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"line {number}: {where}: {first['msg']}") from None
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    if not found:
        raise ValueError("it is empty")
    return found[0]["header"], found[1:]


def kept(unsent: Path) -> list[Path]:
    """The folders of all journals, the oldest first."""
    return sorted(path.parent for path in unsent.glob(f"[!.]*/{_RECORDS}"))


def _remove_begun(unsent: Path) -> None:
    """Removes journals whose process was killed before their first line."""
    for begun in unsent.glob(".*.tmp"):
        remove_leftovers(unsent / begun.name[1:].rsplit(".", 2)[0])


def _link(source: str, target: str) -> None:
    """A second name of a file: files are replaced and not changed, so that it stays what it is."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
