"""What the gateway says of itself, and the one thing that it can be told: to unload."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from aiohttp import hdrs, web
from prometheus_client import CONTENT_TYPE_LATEST

from shunter.errors import UnknownNameError
from shunter.serve.boundary import Refused
from shunter.serve.http.body import read_object
from shunter.serve.http.context import CONTEXT
from shunter.serve.http.errors import Fault
from shunter.serve.http.views.page import PAGE, POLICY

_PING_S = 15.0


async def list_models(request: web.Request) -> web.Response:
    """``GET /v1/models``."""
    return web.json_response({"object": "list", "data": list(_models(request))})


async def one_model(request: web.Request) -> web.Response:
    """``GET /v1/models/{id}``, by name or alias."""
    wanted = request.match_info["id"]
    names = []
    for model in _models(request):
        known = [model["id"], *model.get("aliases", ())]
        if wanted in known:
            return web.json_response(model)
        names += known
    raise Fault(404, "model_not_found", str(UnknownNameError("model", wanted[:200], names)), param="model")


async def health(request: web.Request) -> web.Response:
    """``GET /health``: it is alive."""
    return web.json_response({"status": "ok"})


async def ready(request: web.Request) -> web.Response:
    """``GET /ready``: requests move."""
    why = request.app[CONTEXT].scheduler.ready()
    if why is not None:
        raise Refused(503, "not_ready", why, 1.0)
    return web.json_response({"status": "ready"})


async def metrics(request: web.Request) -> web.Response:
    """``GET /metrics``, for Prometheus."""
    text = request.app[CONTEXT].metrics.text()
    return web.Response(body=text, headers={hdrs.CONTENT_TYPE: CONTENT_TYPE_LATEST})


async def running(request: web.Request) -> web.Response:
    """``GET /running``: all that there is now."""
    return web.json_response(
        request.app[CONTEXT].scheduler.snapshot(), headers={hdrs.CACHE_CONTROL: "no-store"}
    )


async def unload(request: web.Request) -> web.Response:
    """``POST /unload``, with ``model`` in the query or the body, or neither for all."""
    raw = await request.read()
    model = request.query.get("model") or (read_object(raw) if raw else {}).get("model")
    if model is not None and not isinstance(model, str):
        got = json.dumps(model)[:200]
        raise Fault(400, "invalid_value", f"model must be a string. Got {got} instead.", param="model")
    return web.json_response({"unloading": request.app[CONTEXT].scheduler.unload(model)})


async def events(request: web.Request) -> web.StreamResponse:
    """``GET /events``: what happens; who is too slow loses events and is told how many."""
    with request.app[CONTEXT].hub.follower() as follower:
        answer = web.StreamResponse(
            headers={
                hdrs.CONTENT_TYPE: "text/event-stream",
                hdrs.CACHE_CONTROL: "no-cache",
                "X-Accel-Buffering": "no",
            }
        )
        await answer.prepare(request)
        await answer.write(b": events follow\n\n")
        while (lines := await follower.take(_PING_S)) is not None:
            await answer.write(lines)
        await answer.write_eof()
        return answer


async def page(request: web.Request) -> web.Response:
    """``GET /``: the page."""
    headers = {
        "Content-Security-Policy": POLICY,
        hdrs.CACHE_CONTROL: "no-cache",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    return web.Response(text=PAGE, content_type="text/html", headers=headers)


def _models(request: web.Request) -> Iterator[dict[str, Any]]:
    for model in request.app[CONTEXT].scheduler.models():
        yield {"object": "model", "created": 0, "owned_by": "shunter"} | model
