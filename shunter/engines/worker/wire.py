"""The wire between a caller and a worker: length-prefixed UTF-8 JSON frames, plain data only.

A frame is a 4-byte big-endian length and that many bytes of JSON. The worker opens with a ``hello`` frame;
then each request ``{"call": name, "args": {...}}`` gets one reply, ``{"result": ...}`` or
``{"error": {"type": ..., "message": ...}}``. Result dataclasses travel as dictionaries that name their class.
"""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import fields, is_dataclass
from typing import Any

from .. import base

PROTOCOL_VERSION = 1

MAX_FRAME_BYTES = 256 * 2**20

_LENGTH = struct.Struct(">I")
_CLASS_KEY = "__class__"
_CLASSES: dict[str, Any] = {
    cls.__name__: cls
    for cls in (
        base.Capabilities,
        base.DecodeResult,
        base.KvResult,
        base.LoadResult,
        base.MemoryReport,
        base.PrefillResult,
        base.Timed,
    )
}


def pack(message: dict[str, Any]) -> bytes:
    """Makes one frame.

    Raises:
        TypeError: The message holds more than plain data.
        ValueError: The frame would be longer than ``MAX_FRAME_BYTES``, or holds a NaN or an infinity.
    """
    body = json.dumps(message, allow_nan=False, separators=(",", ":")).encode()
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"a frame holds at most {MAX_FRAME_BYTES} bytes, not {len(body)}")
    return _LENGTH.pack(len(body)) + body


def receive(connection: socket.socket) -> dict[str, Any] | None:
    """Reads one frame; None when the other end closed before it.

    Raises:
        EOFError: The other end closed in the middle of a frame.
        ValueError: The bytes are no frame of this protocol.
        TimeoutError: The socket's timeout passed.
    """
    head = _read(connection, _LENGTH.size)
    if not head:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {length} bytes is announced; at most {MAX_FRAME_BYTES} are allowed")
    message = json.loads(_read(connection, length).decode())
    if not isinstance(message, dict):
        raise ValueError("a frame must hold an object")
    return message


def _read(connection: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = connection.recv(min(count - len(parts), 2**20))
        if not part and not parts and count == _LENGTH.size:
            return b""
        if not part:
            raise EOFError("the other end closed in the middle of a frame")
        parts += part
    return bytes(parts)


def encode_value(value: Any) -> Any:
    """Turns a result of ``base`` (or plain data) into plain data."""
    if is_dataclass(value) and not isinstance(value, type):
        plain = {f.name: encode_value(getattr(value, f.name)) for f in fields(value)}
        return {_CLASS_KEY: type(value).__name__, **plain}
    return value


def decode_value(value: Any) -> Any:
    """Turns what ``encode_value`` made back.

    Raises:
        ValueError: The data names a class that is not a result of ``base``.
    """
    if not (isinstance(value, dict) and _CLASS_KEY in value):
        return value
    cls = _CLASSES.get(value[_CLASS_KEY])
    if cls is None:
        raise ValueError(f"unknown result class {value[_CLASS_KEY]!r}")
    kinds = {f.name: str(f.type) for f in fields(cls)}
    plain = {name: decode_value(item) for name, item in value.items() if name != _CLASS_KEY}
    return cls(**{n: tuple(item) if kinds[n].startswith("tuple") else item for n, item in plain.items()})


def encode_error(error: BaseException) -> dict[str, str]:
    """Names an error by the nearest class of ``base.ERRORS``, with a message of one line."""
    for cls in type(error).__mro__:
        if cls.__name__ in base.ERRORS:
            return {"type": cls.__name__, "message": " ".join(str(error).split())}
    return {"type": "EngineError", "message": " ".join(f"{type(error).__name__}: {error}".split())}


def decode_error(plain: dict[str, str]) -> base.EngineError:
    """Makes the typed error again; an unknown type becomes ``EngineError``."""
    return base.ERRORS.get(plain["type"], base.EngineError)(plain["message"])
