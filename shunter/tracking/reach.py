"""Whether anybody answers at a store's address: asked within seconds, before anything waits for it."""

from __future__ import annotations

import socket
import ssl
import threading
import urllib.error
import urllib.request
from urllib.parse import urlsplit

DEADLINE_S = 3.0
"""Within which a server must answer that it is there."""

_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def no_answer(uri: str) -> str:
    """Why nobody answers at a store's address; empty if somebody does, or if it is no address.

    Args:
        uri: Of the store.
    """
    deadline_s = DEADLINE_S
    try:
        parts = urlsplit(uri)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        return f"it is no URI: {error}"
    found: list[str] = []
    if parts.scheme in ("http", "https"):
        if not host:
            return "it names no host"

        def ask() -> None:
            found.append(_http(f"{without_user(uri).rstrip('/')}/health", deadline_s))
    elif host and parts.scheme.partition("+")[0] in _PORTS:

        def ask() -> None:
            found.append(_tcp(host, port or _PORTS[parts.scheme.partition("+")[0]], deadline_s))
    else:
        return ""
    asking = threading.Thread(target=ask, daemon=True)  # looking a name up has no deadline of its own
    asking.start()
    asking.join(deadline_s + 1.0)
    return found[0] if found else f"no answer within {deadline_s:g} s"


def without_user(uri: str, shown: str = "") -> str:
    """A URI without the user's name and password that may be in it: Python takes them for the host's name.

    Args:
        uri: Of anything.
        shown: What stands in their place.
    """
    scheme, slashes, rest = uri.partition("://")
    place, slash, path = rest.partition("/")
    user, at, host = place.rpartition("@")
    return f"{scheme}{slashes}{shown if user else ''}{host}{slash}{path}" if at and slashes else uri


def _http(url: str, deadline_s: float) -> str:
    try:
        with urllib.request.urlopen(url, timeout=deadline_s):
            return ""
    except urllib.error.HTTPError:
        return ""  # somebody is there: MLflow says what is wrong
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLError):
            return ""  # MLflow has settings of its own for certificates
        if isinstance(reason, TimeoutError):
            return f"no answer within {deadline_s:g} s"
        return f"no answer: {getattr(reason, 'strerror', None) or reason}"


def _tcp(host: str, port: int, deadline_s: float) -> str:
    try:
        with socket.create_connection((host, port), timeout=deadline_s):
            return ""
    except OSError as error:
        return f"no answer: {error.strerror or error}"
