"""Chromium without a window, driven as its own developer tools drive it: a live page never ends loading."""

from __future__ import annotations

import asyncio
import base64
import itertools
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.browser import BROWSER

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--hide-scrollbars",
)


class Tab:
    """A page that is open.

    Attributes:
        complaints: What it wrote to the console, errors included.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self.complaints: list[str] = []

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Gives an order; returns what came of it."""
        number = next(self._ids)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while True:
            said = await self._socket.receive_json()
            if said.get("id") == number:
                return dict(said.get("result", {}))
            if said.get("method") in (
                "Runtime.consoleAPICalled",
                "Runtime.exceptionThrown",
                "Log.entryAdded",
            ):
                self.complaints.append(str(said["params"]))

    async def value(self, script: str) -> Any:
        """What a script in the page gives."""
        got = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        return got["result"].get("value")

    async def until(self, script: str, timeout_s: float = 60.0) -> None:
        """Waits until a script in the page gives something true."""
        async with asyncio.timeout(timeout_s):
            while not await self.value(script):
                await asyncio.sleep(0.05)

    async def picture(self, path: Path, *, width: int, height: int, dark: bool) -> None:
        """Writes a PNG of the whole page."""
        colours = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.call("Emulation.setEmulatedMedia", features=colours)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        await self.call("Emulation.setDeviceMetricsOverride", **size)
        await asyncio.sleep(0.3)
        got = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(got["data"]))


@asynccontextmanager
async def tab(url: str, profile: Path) -> AsyncIterator[Tab]:
    """A page in a Chromium of its own."""
    assert BROWSER is not None
    process = await asyncio.create_subprocess_exec(
        *(BROWSER, *_FLAGS, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        while not (found := re.search(rb"ws://([^/]+)/", await process.stderr.readline())):
            pass
        async with aiohttp.ClientSession() as client:
            async with client.get(f"http://{found[1].decode()}/json/list") as got:
                socket_url = next(page["webSocketDebuggerUrl"] for page in await got.json())
            async with client.ws_connect(socket_url, max_msg_size=0) as socket:
                opened = Tab(socket)
                for domain in ("Runtime", "Log", "Page"):
                    await opened.call(f"{domain}.enable")
                await opened.call("Page.navigate", url=url)
                yield opened
    finally:
        process.kill()
        await process.communicate()
