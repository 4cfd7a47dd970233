"""Who may ask: hosts, origins and keys; and every refusal as JSON."""

from __future__ import annotations

import hmac
import logging
import re
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from shunter.serve.boundary import Refused
from shunter.serve.http.errors import Fault, error_response
from shunter.serve.http.settings import HttpSettings

_LOG = logging.getLogger(__name__)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::\d*)?")
_OPEN = ("/", "/health")
"""Paths that need no key: the page holds no data, it asks for the key itself."""
_STATUS = ("/ready", "/metrics", "/running", "/events")

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Access:
    """The rules of an application on who may ask.

    Hosts: a page of the web whose name was made to lead here (DNS rebinding) is refused while the gateway
    listens at loopback. Origins: other pages are refused unless they are listed. Keys: compared with all
    that there are, in the same time for any.
    """

    def __init__(self, settings: HttpSettings) -> None:
        self._keys = tuple(key.encode() for key in settings.api_keys)
        self._open = _OPEN + (_STATUS if settings.open_status else ())
        self._origins = frozenset(settings.origins)
        names = (*_LOOPBACK, *settings.hosts)
        self._hosts = frozenset(name.lower() for name in names) if settings.host in _LOOPBACK else None

    def check(self, request: web.Request) -> None:
        """Lets a request pass.

        Raises:
            Fault: Its host or origin is not answered (403), or its key is none of ours (401).
        """
        self._check_host(request)
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and not self._may(origin) and not _is_own(origin, request.host):
            raise Fault(403, "origin_not_allowed", f"Pages of {origin[:200]!r} may not ask here.")
        preflight = request.method == hdrs.METH_OPTIONS and origin is not None
        if not preflight and self._keys and request.path not in self._open and not self._has_key(request):
            raise Fault(
                401,
                "invalid_api_key",
                "A valid API key must be given: Authorization: Bearer KEY, or x-api-key: KEY.",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Says which pages may read the answer, just before it is sent."""
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and self._may(origin):
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = "Retry-After"
            response.headers.add(hdrs.VARY, hdrs.ORIGIN)

    def preflight(self, request: web.Request) -> web.Response:
        """The answer to a browser that asks whether it may ask."""
        asked = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "authorization, content-type")
        allowed: dict[str, str] = {
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, POST",
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: asked,
            hdrs.ACCESS_CONTROL_MAX_AGE: "600",
        }
        if "Access-Control-Request-Private-Network" in request.headers:  # from a public page to this machine
            allowed["Access-Control-Allow-Private-Network"] = "true"
        return web.Response(status=204, headers=allowed)

    def _check_host(self, request: web.Request) -> None:
        if self._hosts is None:
            return
        host = request.headers.get(hdrs.HOST, "").lower()
        parts = _HOST.fullmatch(host)
        if parts is None or parts[1].strip("[]") not in self._hosts:
            raise Fault(403, "host_not_allowed", f"Nothing is served here under the name {host[:200]!r}.")

    def _may(self, origin: str) -> bool:
        return "*" in self._origins or origin in self._origins

    def _has_key(self, request: web.Request) -> bool:
        scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        bearer = token.strip() if scheme.lower() == "bearer" else ""
        found = False
        for given in (bearer, request.headers.get("x-api-key", "")):
            for key in self._keys:
                found |= hmac.compare_digest(given.encode(errors="surrogateescape"), key)
        return found


def refusing(access: Access) -> Middleware:
    """What stands before every handler: checks access, and makes every refusal JSON."""

    @web.middleware
    async def refuse(request: web.Request, handler: _Handler) -> web.StreamResponse:
        try:
            access.check(request)
            if request.method == hdrs.METH_OPTIONS:
                return access.preflight(request)
            return await handler(request)
        except Refused as refused:
            return error_response(refused, request.path)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return error_response(_as_fault(request, error), request.path)
        except ConnectionError:
            raise
        except Exception:
            _LOG.exception("%s %s failed", request.method, request.path)
            fault = Fault(500, "internal_error", "The gateway failed; its log says how.")
            return error_response(fault, request.path)

    return refuse


def _as_fault(request: web.Request, error: web.HTTPException) -> Fault:
    if isinstance(error, web.HTTPNotFound):
        return Fault(404, "unknown_path", f"There is nothing at {request.path[:200]}.")
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods - {hdrs.METH_HEAD}))
        text = f"{request.path[:200]} takes {allowed} only. Got {request.method} instead."
        return Fault(405, "method_not_allowed", text, headers={hdrs.ALLOW: allowed})
    return Fault(error.status, "http_error", error.reason)


def _is_own(origin: str, host: str) -> bool:
    return origin.partition("://")[2].lower() == host.lower()
