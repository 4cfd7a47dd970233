"""A request as the HTTP side holds it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shunter.serve.boundary import Asked, Usage
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

    async def server(self) -> str:
        """See ``boundary.Ticket.server``."""
        url, self.sends = await asyncio.shield(self.sent)
        return url

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
