"""Takes bodies in: each within its limit and its time, all together within the memory set aside for them."""

from __future__ import annotations

import asyncio

from aiohttp import web

from shunter.serve.http.errors import Fault
from shunter.serve.http.settings import HttpSettings


class Body:
    """A body that takes up memory until it is dropped.

    Attributes:
        raw: Its bytes; none once it is dropped.
    """

    def __init__(self, intake: Intake) -> None:
        self.raw = b""
        self._intake = intake
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, piece: bytes) -> None:
        """Adds what has come.

        Raises:
            Fault: It is too long (413), or all bodies together are (503).
        """
        settings = self._intake.settings
        if self._size + len(piece) > settings.max_body_bytes:
            text = f"The body must be at most {settings.max_body_bytes} bytes."
            raise Fault(413, "body_too_large", text)
        if self._intake.held_bytes + len(piece) > settings.max_waiting_bytes:
            raise Fault(503, "too_much_waiting", "Waiting requests take up all memory set aside.")
        self._size += len(piece)
        self._intake.held_bytes += len(piece)
        self._pieces.append(piece)

    def close(self) -> None:
        """Nothing more will come."""
        self.raw = b"".join(self._pieces)
        self._pieces = []

    def drop(self) -> None:
        """Gives its memory back; may be called twice."""
        self._intake.held_bytes -= self._size
        self._size = 0
        self._pieces = []
        self.raw = b""


class Intake:
    """The bodies of all requests that are read or wait.

    Attributes:
        settings: Limits.
        held_bytes: What they take up now.
    """

    def __init__(self, settings: HttpSettings) -> None:
        self.settings = settings
        self.held_bytes = 0

    async def read(self, request: web.Request) -> Body:
        """Reads a body as a whole; aiohttp keeps no copy of it.

        Raises:
            Fault: It does not come in time (408), is not as its headers say (400), or does not fit.
        """
        body = Body(self)
        try:
            async with asyncio.timeout(self.settings.body_timeout_s):
                async for piece in request.content.iter_any():
                    body.add(piece)
            body.close()
            return body
        except TimeoutError:
            body.drop()
            text = f"The body must be there within {self.settings.body_timeout_s:g} s."
            raise Fault(408, "body_timeout", text) from None
        except web.RequestPayloadError:
            body.drop()
            raise Fault(400, "invalid_body", "The body must be as its headers say.") from None
        except BaseException:
            body.drop()
            raise
