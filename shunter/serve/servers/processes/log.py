"""What a server writes, kept within bounds: its last lines here, and some megabytes in a file."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from pathlib import Path

_LINE_CHARS = 2000
"""Longest part of a line that is kept here; the file has it whole."""


class ServerLog:
    """The output of one server.

    Args:
        path: File that gets all of it; the one of before is kept as ``NAME.1``.
        most_bytes: Size from which on the file is put aside, over the ``NAME.1`` of before.
        kept_lines: Last lines that stay in memory.

    Attributes:
        lines: The last lines.
        written_bytes: All that ever came: it grows while a server makes progress.
    """

    def __init__(self, path: Path, *, most_bytes: int = 4_000_000, kept_lines: int = 200) -> None:
        self.path = path
        self.lines: deque[str] = deque(maxlen=kept_lines)
        self.written_bytes = 0
        self._most_bytes = most_bytes
        self._rest = b""
        self._size_bytes: int | None = None

    def write(self, data: bytes) -> None:
        """Takes what has come; lines need not be whole. A disk that is full costs the file only."""
        self.written_bytes += len(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        self.lines.extend(line[:_LINE_CHARS].decode(errors="replace") for line in whole)
        self._rest = self._rest[-_LINE_CHARS:]
        with suppress(OSError):
            if self._size_bytes is None or self._size_bytes + len(data) > self._most_bytes:
                self._put_aside()
            with self.path.open("ab") as file:
                file.write(data)
            self._size_bytes = (self._size_bytes or 0) + len(data)

    def _put_aside(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self.path.replace(self.path.with_name(self.path.name + ".1"))
        self._size_bytes = 0

    def tail(self, lines: int = 20) -> str:
        """The last lines, and what has come of one that is not whole."""
        rest = [self._rest.decode(errors="replace")] if self._rest else []
        return "\n".join([*self.lines, *rest][-lines:])
