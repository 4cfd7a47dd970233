"""The page: it holds all that it needs, says so to browsers, and is drawn by Chromium."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shunter.serve.http.views.page import PAGE, POLICY
from tests.browser import BROWSER
from tests.serve.http.chromium import tab
from tests.serve.http.stub import SNAPSHOT, StubScheduler, play, running

needs_chromium = pytest.mark.skipif(BROWSER is None, reason="no Chromium")


def test_it_needs_nothing_from_elsewhere() -> None:
    assert not re.search(r"(?:src|href)=[\"'](?!data:)|@import|url\(", PAGE)
    assert "innerHTML" not in PAGE
    assert "unsafe" not in POLICY
    assert POLICY.startswith("default-src 'none'; ")

    async def scene() -> None:
        async with running(api_keys=("k",)) as run, run.client.get("/") as got:
            assert got.headers["Content-Security-Policy"] == POLICY
            assert got.headers["Content-Type"] == "text/html; charset=utf-8"
            assert await got.text() == PAGE

    play(scene)


class _Nasty(StubScheduler):
    def snapshot(self) -> dict[str, object]:
        model = SNAPSHOT["models"][0] | {"name": "<img src=x onerror=alert(1)>"}
        return SNAPSHOT | {"models": [*SNAPSHOT["models"], model]}


@needs_chromium
def test_chromium_draws_it_live_and_complains_of_nothing(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(_Nasty()) as run, tab(f"{run.url}/", tmp_path) as page:
            await page.until("document.getElementById('link').textContent == 'live'")
            text = await page.value("document.body.innerText")
            for part in ("cuda:0", "load small", "8.0 GiB", "3 waiting", "<img src=x"):
                assert part in text, part
            assert await page.value("document.images.length") == 0
            news = {"type": "ready", "time_s": 999.0, "model": "small", "device": "cuda:0", "took_s": 1.5}
            run.stub.news.put_nowait(news)
            await page.until("document.getElementById('events').innerText.includes('took_s 1.5')")
            assert page.complaints == []

    play(scene)


@needs_chromium
def test_it_asks_for_a_key_and_keeps_to_it(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(api_keys=("right",)) as run, tab(f"{run.url}/", tmp_path) as page:
            for key in ("wrong", "right"):
                await page.until("document.getElementById('login').open")
                assert "cuda:0" not in await page.value("document.body.innerText")
                await page.value(f"document.getElementById('key').value = '{key}'")
                await page.value("document.getElementById('login-form').requestSubmit()")
            await page.until("document.body.innerText.includes('cuda:0')")

    play(scene)
