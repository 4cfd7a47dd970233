"""The fake's HTTP side: the endpoints of llama-server that a gateway uses, and what the fake remembers."""

from __future__ import annotations

import json
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from aiohttp import web

from shunter.serve.endpoints import ENDPOINTS
from shunter.serve.servers.fake.answers import GENERATING, Answer, prompt_of, text_of
from shunter.serve.servers.fake.engine import FakeEngine

_EMBEDDING_WIDTH = 8
_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict")


def make_app(engine: FakeEngine, alias: str) -> web.Application:
    """The application of one fake server; it does not run its engine.

    ``GET /fake/requests`` lists all requests that it ever had and how each ended. Run it with
    ``handler_cancellation``, or clients that go away are not noticed before the end of their answers.
    """
    app = web.Application(client_max_size=64 << 20)
    handlers = _Handlers(engine, alias)
    others = {"embeddings": handlers.embed, "rerank": handlers.rerank, "count_tokens": handlers.count}
    for path in set(ENDPOINTS.values()):
        answer = handlers.generate if path in GENERATING else others[path.rpartition("/")[2]]
        app.router.add_post(path, answer)
    app.router.add_get("/health", handlers.health)
    app.router.add_get("/v1/models", handlers.models)
    app.router.add_get("/slots", handlers.slots)
    app.router.add_get("/metrics", handlers.metrics)
    app.router.add_get("/fake/requests", handlers.requests)
    return app


class _Handlers:
    def __init__(self, engine: FakeEngine, alias: str) -> None:
        self._engine, self._alias = engine, alias

    async def generate(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        limits = [body[name] for name in _LIMITS if isinstance(body.get(name), int)]
        wanted = self._engine.options.tokens
        limit = max(1, min([wanted, *(limit for limit in limits if limit >= 0)]))
        prompt_tokens = self._checked(body)
        shape = GENERATING[request.path]
        answer = shape(self._alias, body, prompt_tokens, limit, cut=limit < wanted)
        if body.get("stream"):
            return await self._stream(request, answer)
        async with aclosing(self._engine.tokens(prompt_tokens, limit)) as tokens:
            async for _ in tokens:
                pass
        return web.json_response(answer.whole())

    async def _stream(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        async with aclosing(self._engine.tokens(answer.prompt_tokens, answer.tokens)) as tokens:
            async for index in tokens:
                for event in answer.begin() if index == 0 else []:
                    await response.write(event)
                await response.write(answer.token(index))
        for event in answer.end():
            await response.write(event)
        await response.write_eof()
        return response

    async def embed(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        prompt_tokens = await self._read(body)
        given = body.get("input", "")
        texts = given if isinstance(given, list) else [given]
        data = [
            {"object": "embedding", "index": index, "embedding": _embedding(text_of(text))}
            for index, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
        return web.json_response({"object": "list", "model": self._alias, "data": data, "usage": usage})

    async def rerank(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        prompt_tokens = await self._read(body)
        wanted = set(text_of(body.get("query")).split())
        shared = [len(wanted & set(text_of(text).split())) for text in body.get("documents", [])]
        results = [{"index": index, "relevance_score": float(count)} for index, count in enumerate(shared)]
        results.sort(key=lambda result: -result["relevance_score"])
        usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
        return web.json_response({"object": "list", "model": self._alias, "results": results, "usage": usage})

    async def count(self, request: web.Request) -> web.Response:
        return web.json_response({"input_tokens": self._checked(await self._body(request))})

    async def health(self, _request: web.Request) -> web.Response:
        self._check_loaded()
        return web.json_response({"status": "ok"})

    async def models(self, _request: web.Request) -> web.Response:
        model = {"id": self._alias, "object": "model", "created": 0, "owned_by": "fake"}
        return web.json_response({"object": "list", "data": [model]})

    async def slots(self, _request: web.Request) -> web.Response:
        self._check_loaded()
        slots: list[dict[str, Any]] = []
        for index, task in enumerate(self._engine.running):
            decoded = {"n_decoded": task.produced if task else 0}
            slots.append({"id": index, "is_processing": task is not None, "next_token": [decoded]})
        return web.json_response(slots)

    async def metrics(self, _request: web.Request) -> web.Response:
        self._check_loaded()
        values = {
            "requests_processing": sum(task is not None for task in self._engine.running),
            "requests_deferred": self._engine.deferred,
            "tokens_predicted_total": self._engine.given_tokens,
        }
        return web.Response(text="".join(f"llamacpp:{name} {value}\n" for name, value in values.items()))

    async def requests(self, _request: web.Request) -> web.Response:
        seen = [{k: v for k, v in vars(task).items() if k != "arrived"} for task in self._engine.tasks]
        return web.json_response({"requests": seen, "options": asdict(self._engine.options)})

    async def _body(self, request: web.Request) -> dict[str, Any]:
        self._check_loaded()
        try:
            body = json.loads(await request.read())
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise _refusal(web.HTTPBadRequest, 400, "invalid_request_error", "the body is no JSON object")
        return body

    def _check_loaded(self) -> None:
        if not self._engine.loaded.is_set():
            raise _refusal(web.HTTPServiceUnavailable, 503, "unavailable_error", "Loading model")

    def _checked(self, body: dict[str, Any]) -> int:
        tokens, most = len(prompt_of(body).split()), self._engine.options.context_tokens
        if most and tokens > most:
            why = f"request ({tokens} tokens) exceeds the available context size ({most} tokens)"
            raise _refusal(web.HTTPBadRequest, 400, "exceed_context_size_error", why)
        return tokens

    async def _read(self, body: dict[str, Any]) -> int:
        prompt_tokens = self._checked(body)
        async with aclosing(self._engine.tokens(prompt_tokens, 1)) as tokens:
            async for _ in tokens:
                pass
        return prompt_tokens


def _refusal(error: type[web.HTTPException], code: int, kind: str, message: str) -> web.HTTPException:
    body = {"error": {"code": code, "message": message, "type": kind}}
    return error(text=json.dumps(body), content_type="application/json")


def _embedding(text: str) -> list[float]:
    return [float(text.count(letter)) for letter in "etaoinsh"[:_EMBEDDING_WIDTH]]
