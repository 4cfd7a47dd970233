"""Clients that go away, in each of the windows in which gateways forget them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.form import Row, at_most, reported
from benchmarks.serve_site import Site, fake_scenario, open_site, tiny_checkpoint

__all__ = ["cancel_rows"]

BAR_S = 0.5
MOST_REAL = 8
LONGEST_S = 30.0
"""Longer is not waited for."""

LLAMA_PAUSE_S = 1.3
"""How often the slots of llama-server are looked at: it looks for clients who left only after a second
without any result, and what it says of its slots is one."""

Condition = Callable[[], Awaitable[bool]]


async def until(condition: Condition, longest_s: float = LONGEST_S, pause_s: float = 0.002) -> float:
    """Seconds until something holds, looked at every ``pause_s``; at most ``longest_s``."""
    begun_s = time.monotonic()
    while not await condition():
        if time.monotonic() - begun_s > longest_s:
            return longest_s
        await asyncio.sleep(pause_s)
    return time.monotonic() - begun_s


async def processing(site: Site, url: str) -> int:
    """Slots of a server that work."""
    async with site.client.get(f"{url}/slots") as answer:
        return sum(slot["is_processing"] for slot in await answer.json())


def connections(site: Site, url: str) -> int:
    """Connections that the gateway has to a server."""
    port = int(url.rsplit(":", 1)[1])
    found = psutil.Process(site.pid).net_connections(kind="tcp")
    return sum(bool(one.raddr) and one.raddr.port == port and one.status == "ESTABLISHED" for one in found)


async def leave(asked: asyncio.Task[None]) -> None:
    """The client closes its connection."""
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)


class _Cancels:
    """A site, and its clients who go away.

    Args:
        site: A gateway with the models that the windows need.
        pause_s: How often the slots of a server are looked at.
    """

    def __init__(self, site: Site, pause_s: float = 0.002) -> None:
        self.site, self.pause_s = site, pause_s

    def ask(self, model: str, pieces: asyncio.Event | None = None, **fields: Any) -> asyncio.Task[None]:
        """Asks for a long answer."""

        async def read() -> None:
            async with self.site.post(model, ignore_eos=True, **fields) as answer:
                async for _ in answer.content.iter_any():
                    if pieces is not None and answer.status == 200:
                        pieces.set()

        return asyncio.create_task(read())

    async def left(self, model: str) -> bool:
        """Whether the gateway knows of nobody at a model."""
        now = await self.site.model(model)
        return bool(now["queued"] + now["running"] == 0)

    async def queued(self) -> float:
        """Seconds until the gateway has forgotten who waited while others ran."""
        ahead = [self.ask("long", stream=True) for _ in range(2)]
        await until(lambda: self._counts("long", "running", 2))
        asked = self.ask("long")
        await until(lambda: self._counts("long", "queued", 1))
        await leave(asked)
        seconds = await until(lambda: self._counts("long", "queued", 0))
        for one in ahead:
            await leave(one)
        await until(lambda: self.left("long"))
        return seconds

    async def loading(self) -> tuple[float, int]:
        """Seconds until who waited for a load is forgotten, and requests that the server got in the end."""
        site = self.site
        async with site.client.post(f"{site.url}/unload", params={"model": "loads"}) as answer:
            await answer.read()
        await until(lambda: self._is("loads", "unloaded"))
        asked = self.ask("loads")
        await until(lambda: self._is("loads", "loading"))
        await leave(asked)
        seconds = await until(lambda: self.left("loads"))
        await until(lambda: self._is("loads", "ready"))
        async with site.client.get(f"{await site.upstream('loads')}/fake/requests") as answer:
            return seconds, len((await answer.json())["requests"])

    async def dispatched(self, url: str, model: str, *, first: bool, **fields: Any) -> tuple[float, float]:
        """Seconds until the server's connection is closed, and until its slots are free.

        Args:
            url: The model's server.
            model: The model.
            first: Whether to wait for a first piece of the answer.
            fields: Of the request.
        """
        pieces = asyncio.Event()
        asked = self.ask(model, pieces, **fields)
        await until(lambda: self._works(url))
        if first:
            await asyncio.wait_for(pieces.wait(), LONGEST_S)
        await leave(asked)
        begun_s = time.monotonic()

        async def is_closed() -> bool:
            return connections(self.site, url) == 0

        closed_s = await until(is_closed)
        await until(lambda: self._is_free(url, model), pause_s=self.pause_s)
        return closed_s, time.monotonic() - begun_s

    async def _works(self, url: str) -> bool:
        return await processing(self.site, url) > 0

    async def _is_free(self, url: str, model: str) -> bool:
        return await processing(self.site, url) == 0 and await self.left(model)

    async def _counts(self, model: str, what: str, count: int) -> bool:
        return bool((await self.site.model(model))[what] == count)

    async def _is(self, model: str, state: str) -> bool:
        return bool((await self.site.model(model))["state"] == state)


async def cancel_rows(folder: Path, llama_server: str | None, *, times: int) -> list[Row]:
    """The worst of so many in each window, over fake servers and real ones."""
    rows = await _fake_rows(folder / "fake", times)
    if llama_server is None:
        return [*rows, reported("cancelled, llama-server", None, note="no llama-server was given")]
    return [*rows, *await _real_rows(folder / "real", llama_server, min(times, MOST_REAL))]


async def _fake_rows(folder: Path, times: int) -> list[Row]:
    models: dict[str, dict[str, Any]] = {
        "long": {"args": ["--tokens", "5000", "--step-s", "0.02"], "max_batch": 2},
        "reads": {"args": ["--prefill-tokens-per-s", "50"]},
        "loads": {"args": ["--load-s", "2"]},
    }
    async with open_site(folder, fake_scenario(folder, models)) as site:
        cancels = _Cancels(site)
        await site.warm("long")
        await site.warm("loads")
        asked = asyncio.create_task(site.warm("reads"))
        reads = await asked
        long = await site.upstream("long")
        queued = [await cancels.queued() for _ in range(times)]
        loading = [await cancels.loading() for _ in range(times)]
        rows = [
            _worst("queued: forgotten", queued, "fake server"),
            _worst("loading: forgotten", [one[0] for one in loading], "fake server"),
            at_most(
                reported("cancelled while loading: requests sent all the same", sum(n for _, n in loading)), 0
            ),
        ]
        rows += await _dispatched_rows(cancels, "fake server", times, reads, "reads", long, "long")
    return rows


async def _real_rows(folder: Path, llama_server: str, times: int) -> list[Row]:
    scenario = fake_scenario(folder, {"long": {}}, context_tokens=600)
    scenario |= {"engine": "llama-cpp"}
    scenario["models"][0]["checkpoint"] = str(tiny_checkpoint(folder, 110.0))
    async with open_site(folder, scenario, "--llama-server", llama_server) as site:
        url = await site.warm("long")
        return await _dispatched_rows(
            _Cancels(site, LLAMA_PAUSE_S), "llama-server", times, url, "long", url, "long"
        )


async def _dispatched_rows(
    cancels: _Cancels, engine: str, times: int, reads: str, reader: str, long: str, talker: str
) -> list[Row]:
    """Rows of the three windows after a request was sent.

    Args:
        cancels: The site.
        engine: For the rows' names.
        times: How often each.
        reads: Server that reads prompts slowly.
        reader: Its model.
        long: Server that gives long answers.
        talker: Its model.
    """
    prompt = "one two three four " * 25
    windows: dict[str, tuple[str, str, bool, dict[str, Any]]] = {
        "before the first token": (reads, reader, False, {"stream": True, "prompt": prompt}),
        "in mid-stream": (long, talker, True, {"stream": True, "max_tokens": 400}),
        "not streamed": (long, talker, False, {"max_tokens": 400}),
    }
    rows = []
    for name, (url, model, first, fields) in windows.items():
        found = [await cancels.dispatched(url, model, first=first, **fields) for _ in range(times)]
        rows.append(_worst(f"{name}: connection to the server closed", [one[0] for one in found], engine))
        free = _worst(
            f"{name}: slots free", [one[1] for one in found], engine, is_ours=engine != "llama-server"
        )
        rows.append(free)
    return rows


def _worst(what: str, seconds: list[float], engine: str, *, is_ours: bool = True) -> Row:
    note = f"worst of {len(seconds)}; median {sorted(seconds)[len(seconds) // 2]:.3g} s"
    if not is_ours:
        note += f"; looked at every {LLAMA_PAUSE_S:g} s; the server's own affair"
    row = reported(f"cancelled {what}, {engine}", max(seconds), "s", note=note)
    return at_most(row, BAR_S) if is_ours else row
