"""A stand-in for ``python -m vllm.entrypoints.cli.main serve``: it sleeps and wakes as vLLM does.

Its development endpoints are there with VLLM_SERVER_DEV_MODE=1 and --enable-sleep-mode only; ``/health`` says
200 while it sleeps; what is asked meanwhile waits; at level 2, what it says before its weights are reloaded
is nonsense. ``/calls`` lists what was asked of it. ``--fail KIND@PATH`` makes a path ``hang``, ``die``,
``refuse`` or ``garble``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from typing import Any

from aiohttp import web

WEIGHTS_BYTES = 60_000_000


class FakeVllm:
    def __init__(self, model: str, fail: str = "") -> None:
        self.fail = fail.partition("@")
        self.model, self.calls = model, []  # type: ignore[var-annotated]
        self.awake = {"weights", "kv_cache"}
        self.level, self.loaded = 0, True
        self.weights: bytes | None = b"\1" * WEIGHTS_BYTES

    def application(self, *, dev_mode: bool, sleep_mode: bool) -> web.Application:
        @web.middleware
        async def failing(request: web.Request, handler: Any) -> web.StreamResponse:
            return await self.failed(request) or await handler(request)

        app = web.Application(middlewares=[failing])
        app.router.add_get("/health", self.health)
        app.router.add_get("/calls", self.listed)
        app.router.add_post("/v1/completions", self.complete)
        if dev_mode and sleep_mode:
            app.router.add_get("/is_sleeping", self.is_sleeping)
            app.router.add_post("/sleep", self.sleep)
            app.router.add_post("/wake_up", self.wake_up)
            app.router.add_post("/collective_rpc", self.collective_rpc)
            app.router.add_post("/reset_prefix_cache", self.reset_prefix_cache)
        return app

    async def failed(self, request: web.Request) -> web.Response | None:
        kind, _, path = self.fail
        if request.path != path:
            return None
        if kind == "hang":
            await asyncio.Event().wait()
        if kind == "die":
            os._exit(1)
        return web.Response(text="{no", status=500 if kind == "refuse" else 200)

    def _note(self, request: web.Request) -> None:
        self.calls.append(request.path_qs)

    async def health(self, _request: web.Request) -> web.Response:
        return web.Response()

    async def listed(self, _request: web.Request) -> web.Response:
        return web.json_response(self.calls)

    async def is_sleeping(self, _request: web.Request) -> web.Response:
        return web.json_response({"is_sleeping": len(self.awake) < 2})

    async def sleep(self, request: web.Request) -> web.Response:
        self._note(request)
        self.level = int(request.query.get("level", "1"))
        asyncio.get_running_loop().call_later(0.1, self._fall_asleep)
        return web.Response()

    def _fall_asleep(self) -> None:
        self.awake, self.weights = set(), None
        self.loaded = self.level < 2

    async def wake_up(self, request: web.Request) -> web.Response:
        self._note(request)
        self.awake |= set(request.query.getall("tags", ["weights", "kv_cache"]))
        self.weights = b"\1" * WEIGHTS_BYTES
        return web.Response()

    async def collective_rpc(self, request: web.Request) -> web.Response:
        self._note(request)
        body = await request.json()
        if body["method"] != "reload_weights" or "weights" not in self.awake:
            return web.json_response({"error": "no such method now"}, status=500)
        self.loaded = True
        return web.json_response({"results": [None]})

    async def reset_prefix_cache(self, request: web.Request) -> web.Response:
        self._note(request)
        return web.Response()

    async def complete(self, request: web.Request) -> web.Response:
        self._note(request)
        body: dict[str, Any] = await request.json()
        while len(self.awake) < 2:
            await asyncio.sleep(0.01)
        if body["model"] != self.model:
            return web.json_response({"error": "The model does not exist."}, status=404)
        return web.json_response({"choices": [{"text": "t0" if self.loaded else "!!!"}]})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("serve")
    parser.add_argument("checkpoint")
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--enable-sleep-mode", action="store_true")
    parser.add_argument("--fail", default="")
    options, _ = parser.parse_known_args()
    fake = FakeVllm(options.served_model_name, options.fail)
    dev_mode = os.environ.get("VLLM_SERVER_DEV_MODE") == "1"
    app = fake.application(dev_mode=dev_mode, sleep_mode=options.enable_sleep_mode)
    web.run_app(app, host=options.host, port=options.port, print=None)


if __name__ == "__main__":
    main()
