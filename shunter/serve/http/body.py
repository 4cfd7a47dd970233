"""What scheduling needs of a request's body; the body itself is passed on as it came."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from shunter.serve.boundary import Asked
from shunter.serve.http.errors import Fault
from shunter.sinks import visible

__all__ = ["read_asked"]

_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_TEXTS = (
    "messages",
    "prompt",
    "input",
    "system",
    "instructions",
    "tools",
    "functions",
    "query",
    "documents",
    "input_prefix",
    "input_suffix",
    "suffix",
)
_NO_TEXT = frozenset(
    ("type", "role", "id", "call_id", "tool_call_id", "tool_use_id", "cache_control")
) | frozenset(("image_url", "input_audio", "file", "file_data", "source", "encrypted_content"))
_CHARS_PER_TOKEN_ID = 4
_LONGEST_SESSION = 256
_MOST_ANSWERS = 10_000


def read_asked(raw: bytes, endpoint: str, headers: Mapping[str, str]) -> Asked:
    """Reads from a body what scheduling needs.

    Raises:
        Fault: It is no JSON object, or one of the fields that are read is missing or of a wrong type (400).
    """
    body = read_object(raw)
    model = body.get("model")
    if model is None:
        raise Fault(400, "missing_model", "model must be given: the name of a model.", param="model")
    if not isinstance(model, str) or not model:
        raise _wrong("model", "be the name of a model", model)
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise _wrong("stream", "be true or false", stream)
    return Asked(
        model=model,
        endpoint=endpoint,
        prompt_chars=sum(_chars(body[name]) for name in _TEXTS if name in body),
        max_tokens=_most_tokens(body),
        stream=bool(stream),
        answers=_answers(body),
        session=_session(body, headers),
    )


def read_object(raw: bytes) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        Fault: It is none (400).
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        why = "too deeply nested" if isinstance(error, RecursionError) else str(error)
        raise Fault(400, "invalid_json", f"The body must be JSON: {why}") from None
    if not isinstance(body, dict):
        raise Fault(400, "invalid_json", f"The body must be a JSON object. Got {_kind(body)} instead.")
    return body


def _wrong(name: str, rule: str, value: object) -> Fault:
    return Fault(400, "invalid_value", f"{name} must {rule}. Got {_kind(value)} instead.", param=name)


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, str):
        return "a string" if value else "an empty string"
    return json.dumps(value)


def _most_tokens(body: dict[str, Any]) -> int | None:
    found = None
    for name in _LIMITS:
        value = body.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise _wrong(name, "be a whole number of tokens, 0 or more", value)
        found = value if found is None else found
    return found


def _answers(body: dict[str, Any]) -> int:
    """``n`` of each prompt; what is wrong with either its server says."""
    found: list[int] = [body[name] for name in ("n", "best_of") if isinstance(body.get(name), int)]
    given = body.get("prompt")
    prompts = given if isinstance(given, list) and given and isinstance(given[0], str | list) else [given]
    return min(_MOST_ANSWERS, max([1, *found]) * len(prompts))


def _session(body: dict[str, Any], headers: Mapping[str, str]) -> str | None:
    for name in ("session_id", "user"):
        if not isinstance(body.get(name), str | None):
            raise _wrong(name, "be a string", body[name])
    metadata = body.get("metadata")
    of_metadata = metadata.get("user_id") if isinstance(metadata, dict) else None
    found = headers.get("x-session-id") or body.get("session_id") or body.get("user") or of_metadata
    return visible(found[:_LONGEST_SESSION]) if isinstance(found, str) else None


def _chars(value: object) -> int:
    """Characters of all strings within, but for pictures, sound and what only orders the rest."""
    total = 0
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            total += len(value)
        elif isinstance(value, dict):
            waiting.extend(inner for name, inner in value.items() if name not in _NO_TEXT)
        elif isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            total += _CHARS_PER_TOKEN_ID  # a prompt of token ids
    return total
