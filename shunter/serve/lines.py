"""Files that a line of JSON is added to for each thing that happens."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
from pathlib import Path
from typing import IO, Any

from shunter.files import unwritable

_LOG = logging.getLogger(__name__)

_ONLY_OWNER = 0o600


class Lines:
    """A file that lines are added to; each is on its way to the disk before anything else happens.

    Args:
        path: Made if need be, anew where it is moved away; half a line, which a kill left, is ended first.
        private: Whether nobody but the file's owner may read it.

    Attributes:
        broken: Why nothing is added any more, as on a full disk or where the folder is gone; None: it is.

    Raises:
        ShunterError: It cannot be written to.
    """

    def __init__(self, path: Path, *, private: bool = False) -> None:
        self.path = path
        self.broken: str | None = None
        self._private = private
        try:
            self._file = _open(path, private=private)
        except OSError as error:
            raise unwritable(path, error) from None

    def add(self, line: dict[str, Any]) -> None:
        """Adds a line; once that fails nothing more is added, and the log says so."""
        if self.broken is not None:
            return
        try:
            if not self._is_in_place():
                self._file.close()
                self._file = _open(self.path, private=self._private)
            self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
            self._file.flush()
        except OSError as error:
            self.broken = str(error)
            _LOG.warning("Nothing more is written to %s: %s", self.path, error)

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Ends it; what is added later is lost."""
        with contextlib.suppress(OSError):
            self._file.close()
        self.broken = self.broken or "it is closed"


def _open(path: Path, *, private: bool) -> IO[str]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, _ONLY_OWNER if private else 0o666)
    file = os.fdopen(handle, "a+b")
    if private:
        os.fchmod(handle, _ONLY_OWNER)  # it may have been there
    size = file.seek(0, os.SEEK_END)
    if size:
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.write(b"\n")
    return io.TextIOWrapper(file, encoding="utf-8")
