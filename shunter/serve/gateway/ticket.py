"""A request as the HTTP side holds it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shunter.serve.boundary import Asked, Refused, Usage
from shunter.serve.core.effects import Job

if TYPE_CHECKING:
    from shunter.serve.gateway.gateway import Gateway


@dataclass
class GatewayTicket:
    """A request as the HTTP side holds it."""

    gateway: Gateway
    asked: Asked
    job: Job
    id: int
    model: str
    sent: asyncio.Future[tuple[str, int]]
    sends: int = 0
    over: bool = False
    _limit: asyncio.Timeout | None = None
    _refused: Refused | None = None

    async def server(self) -> str:
        """See ``boundary.Ticket.server``."""
        url, self.sends = await asyncio.shield(self.sent)
        return url

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """See ``boundary.Ticket.watched``."""
        try:
            async with asyncio.timeout(None) as self._limit:
                yield
        except TimeoutError:
            if self._refused is None:
                raise
            raise self._refused from None
        finally:
            self._limit = None

    def cut(self, refused: Refused) -> None:
        """Ends what is ``watched`` by a refusal."""
        self._refused = refused
        if self._limit is not None:
            self._limit.reschedule(0.0)

    def attends(self, *, server: bool) -> None:
        """See ``boundary.Ticket.attends``."""
        self.job.quiet_ns = self.gateway.now_ns() if server else -1

    def progressed(self, tokens: int) -> None:
        """See ``boundary.Ticket.progressed``."""
        self.gateway.progressed(self, tokens)

    def done(self, usage: Usage) -> None:
        """See ``boundary.Ticket.done``."""
        self.gateway.done(self, usage)

    def gone(self, *, client: bool) -> None:
        """See ``boundary.Ticket.gone``."""
        self.gateway.gone(self, client=client)

    async def retry(self) -> bool:
        """See ``boundary.Ticket.retry``."""
        await asyncio.sleep(0.1 * (1 + self.job.attempts))  # a server that has ended is noticed meanwhile
        return self.gateway.lost(self)
