"""Refusals in the words that clients of OpenAI and of Anthropic expect."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from shunter.serve.boundary import Refused

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_OPENAI_TYPES = {404: "invalid_request_error", 413: "invalid_request_error", 503: "server_error"}


class Fault(Refused):
    """A request refused before the scheduler saw it.

    Attributes:
        param: The field of the body that is at fault, if it is one.
        headers: Further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, code, message)
        self.param = param
        self.headers = dict(headers or {})


def speaks_anthropic(path: str) -> bool:
    """Whether a path is one of Anthropic's, whose errors look otherwise."""
    return path.startswith("/v1/messages")


def error_body(refused: Refused, path: str) -> dict[str, Any]:
    """A refusal as plain data, in the form that clients of a path read."""
    kind = _TYPES.get(refused.status, "invalid_request_error" if refused.status < 500 else "api_error")
    param = refused.param if isinstance(refused, Fault) else None
    if speaks_anthropic(path):
        return {"type": "error", "error": {"type": kind, "message": str(refused), "code": refused.code}}
    kind = "server_error" if refused.status >= 500 else _OPENAI_TYPES.get(refused.status, kind)
    return {"error": {"message": str(refused), "type": kind, "param": param, "code": refused.code}}


def error_response(refused: Refused, path: str) -> web.Response:
    """A refusal as the answer to a request."""
    response = web.json_response(error_body(refused, path), status=refused.status)
    if isinstance(refused, Fault):
        response.headers.update(refused.headers)
    if refused.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(refused.retry_after_s)))
    return response


def error_event(refused: Refused, path: str) -> bytes:
    """A refusal as the last event of a stream that has begun."""
    return event_bytes(json.dumps(error_body(refused, path)).encode(), path, error=True)


def event_bytes(data: bytes, path: str, *, error: bool) -> bytes:
    """Data of one line as an event; errors are named for Anthropic's clients."""
    name = b"event: error\n" if error and speaks_anthropic(path) else b""
    return name + b"data: " + data + b"\n\n"
