"""One listener to the scheduler's events, and many followers who cannot hold it up."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from aiohttp import web

from shunter.serve.boundary import Scheduler
from shunter.serve.http.errors import Fault
from shunter.serve.http.views.metrics import Metrics

_LOG = logging.getLogger(__name__)


class Follower:
    """Who follows the events: what has not been sent yet, at most so many."""

    def __init__(self, most: int) -> None:
        self._waiting: deque[bytes] = deque()
        self._most = most
        self._lost = 0
        self._ended = False
        self._news = asyncio.Event()

    def put(self, line: bytes) -> None:
        """Hands over an event; it is lost if too many wait."""
        if len(self._waiting) < self._most:
            self._waiting.append(line)
        else:
            self._lost += 1
        self._news.set()

    def end(self) -> None:
        """No more will come."""
        self._ended = True
        self._news.set()

    async def take(self, timeout_s: float) -> bytes | None:
        """All that waits, as server-sent events; a comment if nothing comes in time; None: the end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        if self._ended:
            return None
        self._news.clear()
        taken = b"".join(self._waiting)
        self._waiting.clear()
        if self._lost:
            taken += encode_event({"type": "lost", "count": self._lost})
            self._lost = 0
        return taken or b": still here\n\n"


class Hub:
    """Follows the scheduler once, counts what happens and hands it on to all followers."""

    def __init__(
        self, scheduler: Scheduler, metrics: Metrics, *, most_followers: int, most_events: int
    ) -> None:
        self._scheduler = scheduler
        self._metrics = metrics
        self._most_followers = most_followers
        self._most_events = most_events
        self._followers: set[Follower] = set()

    async def running(self, app: web.Application) -> AsyncIterator[None]:
        """Follows the scheduler as long as the application runs."""
        task = asyncio.create_task(self._follow())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def end(self, app: web.Application) -> None:
        """Lets all followers go: the application shuts down."""
        for follower in self._followers:
            follower.end()

    @contextmanager
    def follower(self) -> Iterator[Follower]:
        """A follower of what happens from now on.

        Raises:
            Fault: There are too many (503).
        """
        if len(self._followers) >= self._most_followers:
            raise Fault(503, "too_many_listeners", "Too many follow the events already.")
        follower = Follower(self._most_events)
        self._followers.add(follower)
        try:
            yield follower
        finally:
            self._followers.discard(follower)

    async def _follow(self) -> None:
        try:
            async for event in self._scheduler.events():
                self._metrics.count_event(event)
                if self._followers:
                    line = encode_event(event)
                    for follower in self._followers:
                        follower.put(line)
        except Exception:  # requests are served without it, so they go on
            _LOG.exception("Events and the metrics of loads stand still: following the scheduler failed")


def encode_event(event: dict[str, Any]) -> bytes:
    """Plain data as a server-sent event."""
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"
