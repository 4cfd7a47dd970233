"""Texts of requests and answers, where an operator wants them written down (``--log-text``)."""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shunter.serve.boundary import Refused
from shunter.serve.http.errors import error_response
from shunter.serve.lines import Lines

MOST_BYTES = 256 * 1024
"""Of a body, and of an answer, that are written; what comes after is cut off."""


class Exchange:
    """A request and what its client was sent.

    Attributes:
        id: Number of the request, as in the record; None: it was not admitted.
        status: HTTP status that it is counted with.
    """

    def __init__(self, path: str, body: bytes) -> None:
        self.id: int | None = None
        self.status: int | None = None
        self._path, self._arrived_s = path, time.time()
        self._body, self._body_bytes = body[:MOST_BYTES], len(body)
        self._answer, self._answer_bytes = bytearray(), 0

    def add(self, sent: bytes) -> None:
        """Adds a piece of the answer, as it was sent."""
        self._answer_bytes += len(sent)
        self._answer += sent[: MOST_BYTES - len(self._answer)]

    def line(self) -> dict[str, object]:
        """All of it."""
        return {
            "id": self.id,
            "arrival_s": round(self._arrived_s, 6),
            "endpoint": self._path,
            "status": self.status,
            "request": _text(self._body, self._body_bytes),
            "answer": _text(bytes(self._answer), self._answer_bytes),
        }


class TextLog:
    """A file with a line for each request, which its owner alone can read.

    Args:
        path: Made if need be.

    Raises:
        ShunterError: It cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        self._lines = Lines(path, private=True)

    @contextmanager
    def exchange(self, path: str, body: bytes) -> Iterator[Exchange]:
        """Writes a request down once it has ended, however that is."""
        exchange = Exchange(path, body)
        try:
            yield exchange
        except Refused as refused:
            exchange.status = refused.status
            exchange.add((error_response(refused, path).text or "").encode())  # what it becomes
            raise
        finally:
            self._lines.add(exchange.line())

    def close(self) -> None:
        """Ends the file."""
        self._lines.close()


def _text(data: bytes, whole: int) -> str:
    """Bytes as text, with a mark where they were cut; what is no UTF-8 shows as escapes."""
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    cut = whole - len(data)
    return decoder.decode(data, final=not cut) + (f"[cut: {cut} bytes more]" if cut else "")
