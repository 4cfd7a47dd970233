"""Those who are told what happens."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

_MOST = 10_000


class _Follower:
    """Somebody who is told what happens; who is slow loses the oldest."""

    def __init__(self) -> None:
        self._waiting: deque[dict[str, Any] | None] = deque(maxlen=_MOST)
        self._there = asyncio.Event()

    def put(self, event: dict[str, Any] | None) -> None:
        self._waiting.append(event)
        self._there.set()

    async def next(self) -> dict[str, Any] | None:
        while not self._waiting:
            self._there.clear()
            await self._there.wait()
        return self._waiting.popleft()


class Followers:
    """All who follow."""

    def __init__(self) -> None:
        self._all: set[_Follower] = set()

    def tell(self, event: dict[str, Any]) -> None:
        """Tells all of an event."""
        for follower in self._all:
            follower.put(event)

    def end(self) -> None:
        """No more will come."""
        for follower in self._all:
            follower.put(None)

    async def follow(self) -> AsyncIterator[dict[str, Any]]:
        """What happens from now on."""
        follower = _Follower()
        self._all.add(follower)
        try:
            while (event := await follower.next()) is not None:
                yield event
        finally:
            self._all.discard(follower)
