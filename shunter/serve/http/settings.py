"""What an operator decides about the gateway's HTTP side, and where its API keys come from."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from shunter.errors import BrokenFileError, InputError

__all__ = ["HttpSettings", "read_api_keys"]

_FROM_ENVIRONMENT = "env:"


@dataclass(frozen=True)
class HttpSettings:
    """What an operator decides about the gateway's HTTP side.

    Attributes:
        host: Address to listen at.
        port: Port to listen at; 0: any that is free.
        api_keys: Any of these opens the gateway; none: it is open.
        open_status: Whether metrics and what the page shows are open without a key.
        origins: Web origins whose pages may ask (CORS), like ``https://chat.example.org``; ``*``: all.
        hosts: Further names in ``Host`` that are answered when listening at loopback only.
        max_body_bytes: Longest body of a request.
        max_waiting_bytes: Bodies of all requests that are read or wait, together.
        max_header_bytes: Longest line of a request's head; it may have 128 of them.
        max_connections: Connections at once; further ones are turned away.
        max_listeners: Followers of ``/events`` at once.
        max_events: Events that a slow follower may be behind before it loses some.
        head_timeout_s: A connection's first head must be there by then.
        body_timeout_s: A body must be there by then.
        stalled_s: A client that takes nothing of its answer for so long is taken for gone.
        first_comment_s: A waiting stream gets a comment after so long.
        next_comment_s: Further comments come at this distance.
        connect_timeout_s: A server must have accepted the connection by then.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    api_keys: tuple[str, ...] = ()
    open_status: bool = False
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    max_body_bytes: int = 32 * 1024 * 1024
    max_waiting_bytes: int = 1024 * 1024 * 1024
    max_header_bytes: int = 8190
    max_connections: int = 4096
    max_listeners: int = 64
    max_events: int = 1000
    head_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    stalled_s: float = 120.0
    first_comment_s: float = 1.0
    next_comment_s: float = 10.0
    connect_timeout_s: float = 5.0


def read_api_keys(path_or_env: str) -> tuple[str, ...]:
    """Reads API keys, one a line; empty lines and those that begin with ``#`` are none.

    Args:
        path_or_env: A file that only its owner can read, or ``env:NAME`` for a variable.

    Raises:
        InputError: Others can read the file, or it holds no key, or the variable is not set.
        BrokenFileError: The file cannot be read.
    """
    if path_or_env.startswith(_FROM_ENVIRONMENT):
        text = os.environ.get(path_or_env.removeprefix(_FROM_ENVIRONMENT), "")
    else:
        text = _private_text(Path(path_or_env))
    lines = (line.strip() for line in text.splitlines())
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise InputError(f"API keys of {path_or_env}", "be at least one, one a line", "none")
    if not all(key.isascii() and key.isprintable() for key in keys):
        raise InputError(f"API keys of {path_or_env}", "be of printable ASCII characters", "others")
    return keys


def _private_text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & (stat.S_IRGRP | stat.S_IROTH):
                raise InputError(f"{path}: its mode", "let only its owner read it (chmod 600)", f"{mode:04o}")
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise BrokenFileError(path, str(error)) from None
