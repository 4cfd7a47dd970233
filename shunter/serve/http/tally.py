"""Counts the tokens of an answer as they pass, and reads what it says of itself at its end."""

from __future__ import annotations

import json
import re
from typing import Any

from shunter.serve.boundary import Usage

_DELTA = re.compile(
    rb'"(?:content|reasoning_content|reasoning|text|arguments|delta|thinking|partial_json)": ?"(?!")'
)
_LONGEST_LINE = 1 << 20


class Tally:
    """Counts content deltas in a stream of events, whatever the pieces in which it comes.

    No event is parsed but, at the end, the first and the last that hold a count of the server's own.

    Attributes:
        began: Whether there was anything at all.
        tokens: Content deltas so far.
    """

    def __init__(self) -> None:
        self.began = False
        self.tokens = 0
        self._rest = b""
        self._first: bytes | None = None
        self._last: bytes | None = None

    def feed(self, data: bytes) -> bool:
        """Takes the next piece; says whether it held content."""
        self.began = True
        before = self.tokens
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()[-_LONGEST_LINE:]
        for line in lines:
            if line.startswith(b"data:"):
                self._take(line)
        return self.tokens > before

    def usage(self) -> Usage:
        """What the events said of tokens."""
        if self._rest.startswith(b"data:"):
            self._take(self._rest)
            self._rest = b""
        counts: dict[str, Any] = {}
        timings: dict[str, Any] = {}
        for line in (self._first, self._last):
            body = _object(line[len(b"data:") :]) if line else {}
            counts |= {name: count for name, count in _counts(body).items() if count is not None}
            timings |= _inner(body, "timings")
        return _usage(counts, timings)

    def _take(self, line: bytes) -> None:
        of_responses = b'"type":"response.' in line or b'"type": "response.' in line
        if _DELTA.search(line) and (not of_responses or b'.delta"' in line):
            self.tokens += 1
        if b'"usage":' in line or b'"timings":' in line:
            if self._first is None:
                self._first = line
            self._last = line


def usage_of(data: bytes) -> Usage:
    """What a whole answer, which is JSON, says of tokens."""
    body = _object(data)
    return _usage(_counts(body), _inner(body, "timings"))


def _object(data: bytes) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _inner(body: dict[str, Any], name: str) -> dict[str, Any]:
    found = body.get(name)
    return found if isinstance(found, dict) else {}


def _counts(body: dict[str, Any]) -> dict[str, Any]:
    """``usage``, where OpenAI's chats, its responses or Anthropic's messages have it."""
    return (
        _inner(body, "usage")
        or _inner(_inner(body, "response"), "usage")
        or _inner(_inner(body, "message"), "usage")
    )


def _usage(counts: dict[str, Any], timings: dict[str, Any]) -> Usage:
    if not counts:
        cached = _count(timings.get("cache_n"))
        return Usage(_sum(timings.get("prompt_n"), cached), _count(timings.get("predicted_n")), cached)
    details = _inner(counts, "prompt_tokens_details") or _inner(counts, "input_tokens_details")
    cached = _count(details.get("cached_tokens"))
    prompt = _count(counts.get("prompt_tokens", counts.get("input_tokens")))
    if "cache_read_input_tokens" in counts:  # Anthropic counts what was cached beside the rest
        cached = _count(counts["cache_read_input_tokens"])
        prompt = _sum(prompt, cached, counts.get("cache_creation_input_tokens"))
    return Usage(prompt, _count(counts.get("completion_tokens", counts.get("output_tokens"))), cached)


def _sum(first: object, *others: object) -> int | None:
    if _count(first) is None:
        return None
    return sum(_count(value) or 0 for value in (first, *others))


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
