"""The application that clients talk to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
from aiohttp import web

from shunter.serve.boundary import Scheduler
from shunter.serve.http import relay
from shunter.serve.http.access import Access, refusing
from shunter.serve.http.context import CONTEXT, Context
from shunter.serve.http.intake import Intake
from shunter.serve.http.settings import HttpSettings
from shunter.serve.http.texts import TextLog
from shunter.serve.http.views import status
from shunter.serve.http.views.hub import Hub
from shunter.serve.http.views.metrics import Metrics

__all__ = ["make_app"]


def make_app(
    scheduler: Scheduler, settings: HttpSettings, *, text_log: Path | None = None
) -> web.Application:
    """Makes the application of a scheduler; ``listen`` binds it as its handlers need it.

    Args:
        scheduler: Decides.
        settings: What the operator decided.
        text_log: File that bodies and answers are written to; None: they are written nowhere.

    Raises:
        ShunterError: That file cannot be written to.
    """
    access = Access(settings)
    app = web.Application(middlewares=[refusing(access)])
    counted = Metrics(scheduler)
    hub = Hub(scheduler, counted, most_followers=settings.max_listeners, most_events=settings.max_events)
    texts = None if text_log is None else TextLog(text_log)
    app[CONTEXT] = Context(scheduler, settings, counted, hub, Intake(settings), texts)
    app.on_response_prepare.append(access.add_headers)
    app.cleanup_ctx.append(_client)
    app.cleanup_ctx.append(hub.running)
    app.on_shutdown.append(hub.end)
    app.on_cleanup.append(_close_texts)
    for path in relay.ENDPOINTS:
        app.router.add_post(path, relay.pass_on)
    app.router.add_get("/v1/models", status.list_models)
    app.router.add_get("/v1/models/{id:.+}", status.one_model)
    app.router.add_get("/health", status.health)
    app.router.add_get("/ready", status.ready)
    app.router.add_get("/metrics", status.metrics)
    app.router.add_get("/running", status.running)
    app.router.add_post("/unload", status.unload)
    app.router.add_get("/events", status.events)
    app.router.add_get("/", status.page)
    return app


async def _close_texts(app: web.Application) -> None:
    texts = app[CONTEXT].texts
    if texts is not None:
        texts.close()


async def _client(app: web.Application) -> AsyncIterator[None]:
    """Has a client of the servers as long as the application runs.

    Every request has its own connection: one that is kept may have been closed by its server just then, and
    what was sent on it cannot be sent again safely.
    """
    settings = app[CONTEXT].settings
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_timeout_s)
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Content-Type"),
    ) as client:
        app[CONTEXT].client = client
        yield
