"""How llama-server words its answers, endpoint by endpoint; what they say is a function of the body alone."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

_INPUTS = ("input_prefix", "prompt", "input_suffix", "input", "query", "documents")


def text_of(value: Any) -> str:
    """All text that a part of a body holds for a model to read."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return " ".join(filter(None, map(text_of, value)))
    if isinstance(value, dict):
        return " ".join(filter(None, (text_of(value.get(key)) for key in ("content", "text", "input"))))
    return ""


def prompt_of(body: dict[str, Any]) -> str:
    """All text of a body that a model would read."""
    parts = ("system", "instructions", "messages", *_INPUTS)
    return " ".join(filter(None, (text_of(body.get(part)) for part in parts)))


def words(count: int) -> str:
    """An answer of so many tokens, each a word that says which it is."""
    return " ".join(f"t{index}" for index in range(count))


def event(data: Any, name: str = "") -> bytes:
    """A server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
    return (f"event: {name}\n" * bool(name) + f"data: {text}\n\n").encode()


@dataclass(frozen=True)
class Answer(ABC):
    """One answer in an endpoint's words.

    Attributes:
        model: Name that the server answers to.
        body: The request.
        prompt_tokens: Tokens that were read.
        tokens: Tokens that the answer gets.
        cut: Whether it ends for the request's limit, and not by itself.
    """

    model: str
    body: dict[str, Any]
    prompt_tokens: int
    tokens: int
    cut: bool

    @property
    def id(self) -> str:
        """The same for the same request, so that answers can be compared byte by byte."""
        return hashlib.sha256(json.dumps(self.body, sort_keys=True).encode()).hexdigest()[:24]

    @abstractmethod
    def whole(self) -> dict[str, Any]:
        """The answer that is no stream."""

    @abstractmethod
    def begin(self) -> list[bytes]:
        """Events before the first token."""

    @abstractmethod
    def token(self, index: int) -> bytes:
        """The event of a token."""

    @abstractmethod
    def end(self) -> list[bytes]:
        """Events after the last token."""


def _word(index: int) -> str:
    return f" t{index}" if index else "t0"


class Completion(Answer):
    """``/v1/completions``."""

    kind, prefix = "text_completion", "cmpl-"

    @property
    def usage(self) -> dict[str, Any]:
        """What the answer cost."""
        return {
            "completion_tokens": self.tokens,
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + self.tokens,
            "prompt_tokens_details": {"cached_tokens": 0},
        }

    def _object(self, choices: list[dict[str, Any]], *, chunk: bool = True) -> dict[str, Any]:
        kind = self.kind + ".chunk" if chunk and self.kind.startswith("chat") else self.kind
        return {
            "id": self.prefix + self.id,
            "object": kind,
            "created": 0,
            "model": self.model,
            "choices": choices,
        }

    def _choice(self, said: dict[str, Any], reason: str | None) -> dict[str, Any]:
        return {"index": 0, **said, "finish_reason": reason}

    @property
    def reason(self) -> str:
        """Why it ended."""
        return "length" if self.cut else "stop"

    def whole(self) -> dict[str, Any]:  # noqa: D102
        choice = self._choice({"text": words(self.tokens)}, self.reason)
        return {**self._object([choice], chunk=False), "usage": self.usage}

    def begin(self) -> list[bytes]:  # noqa: D102
        return []

    def token(self, index: int) -> bytes:  # noqa: D102
        return event(self._object([self._choice({"text": _word(index)}, None)]))

    def _last(self) -> dict[str, Any]:
        return {"text": ""}

    def end(self) -> list[bytes]:  # noqa: D102
        events = [self._object([self._choice(self._last(), self.reason)])]
        if (self.body.get("stream_options") or {}).get("include_usage"):
            events.append({**self._object([]), "usage": self.usage})
        return [*map(event, events), event("[DONE]")]


class Chat(Completion):
    """``/v1/chat/completions``; a request that must call a tool calls its first one."""

    kind, prefix = "chat.completion", "chatcmpl-"

    @property
    def _calls(self) -> list[dict[str, Any]]:
        wanted = self.body.get("tool_choice") == "required" or isinstance(self.body.get("tool_choice"), dict)
        if not wanted or not self.body.get("tools"):
            return []
        name = self.body["tools"][0]["function"]["name"]
        called = {"name": name, "arguments": "{}"}
        return [{"index": 0, "id": "call_" + self.id[:8], "type": "function", "function": called}]

    @property
    def reason(self) -> str:  # noqa: D102
        return "tool_calls" if self._calls else super().reason

    def whole(self) -> dict[str, Any]:  # noqa: D102
        message: dict[str, Any] = {"role": "assistant", "content": words(self.tokens)}
        if self._calls:
            calls = [{key: call[key] for key in call if key != "index"} for call in self._calls]
            message = {"role": "assistant", "content": None, "tool_calls": calls}
        choice = self._choice({"message": message}, self.reason)
        return {**self._object([choice], chunk=False), "usage": self.usage}

    def begin(self) -> list[bytes]:  # noqa: D102
        return [self._delta({"role": "assistant", "content": None})]

    def token(self, index: int) -> bytes:  # noqa: D102
        if self._calls:
            return self._delta({"tool_calls": self._calls if index == 0 else []})
        return self._delta({"content": _word(index)})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return event(self._object([self._choice({"delta": delta}, None)]))

    def _last(self) -> dict[str, Any]:
        return {"delta": {}}


class Messages(Answer):
    """``/v1/messages``, in Anthropic's words."""

    def whole(self) -> dict[str, Any]:  # noqa: D102
        content = [{"type": "text", "text": words(self.tokens)}]
        return {**self._head(content), "stop_reason": self._reason, "usage": self._usage(self.tokens)}

    def begin(self) -> list[bytes]:  # noqa: D102
        message = {**self._head([]), "stop_reason": None, "usage": self._usage(0)}
        block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        return [
            event({"type": "message_start", "message": message}, "message_start"),
            event(block, "content_block_start"),
        ]

    def token(self, index: int) -> bytes:  # noqa: D102
        delta = {"type": "text_delta", "text": _word(index)}
        return event({"type": "content_block_delta", "index": 0, "delta": delta}, "content_block_delta")

    def end(self) -> list[bytes]:  # noqa: D102
        delta = {"stop_reason": self._reason, "stop_sequence": None}
        usage = {"output_tokens": self.tokens}
        return [
            event({"type": "content_block_stop", "index": 0}, "content_block_stop"),
            event({"type": "message_delta", "delta": delta, "usage": usage}, "message_delta"),
            event({"type": "message_stop"}, "message_stop"),
        ]

    @property
    def _reason(self) -> str:
        return "max_tokens" if self.cut else "end_turn"

    def _usage(self, tokens: int) -> dict[str, int]:
        return {"cache_read_input_tokens": 0, "input_tokens": self.prompt_tokens, "output_tokens": tokens}

    def _head(self, content: list[Any]) -> dict[str, Any]:
        named = {"id": "msg_" + self.id, "type": "message", "role": "assistant", "model": self.model}
        return {**named, "content": content, "stop_sequence": None}


class Responses(Answer):
    """``/v1/responses``."""

    def whole(self) -> dict[str, Any]:  # noqa: D102
        total = self.prompt_tokens + self.tokens
        usage = {"input_tokens": self.prompt_tokens, "output_tokens": self.tokens, "total_tokens": total}
        usage["input_tokens_details"] = {"cached_tokens": 0}  # type: ignore[assignment]
        usage["output_tokens_details"] = {"reasoning_tokens": 0}  # type: ignore[assignment]
        return {**self._head("completed", [self._message(words(self.tokens))]), "usage": usage}

    def begin(self) -> list[bytes]:  # noqa: D102
        head = self._head("in_progress", [])
        item = {**self._message(""), "status": "in_progress", "content": []}
        added = {"type": "response.output_item.added", "output_index": 0, "item": item}
        part = {"type": "output_text", "text": "", "annotations": []}
        begun = {"type": "response.content_part.added", "item_id": item["id"], "part": part}
        return [
            event({"type": "response.created", "response": head}, "response.created"),
            event(added, "response.output_item.added"),
            event({**begun, "output_index": 0, "content_index": 0}, "response.content_part.added"),
        ]

    def token(self, index: int) -> bytes:  # noqa: D102
        place = {"item_id": "msg_" + self.id, "output_index": 0, "content_index": 0}
        data = {"type": "response.output_text.delta", **place, "delta": _word(index)}
        return event(data, "response.output_text.delta")

    def end(self) -> list[bytes]:  # noqa: D102
        item = self._message(words(self.tokens))
        done = {"type": "response.output_item.done", "output_index": 0, "item": item}
        return [
            event(done, "response.output_item.done"),
            event({"type": "response.completed", "response": self.whole()}, "response.completed"),
        ]

    def _message(self, text: str) -> dict[str, Any]:
        content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
        named = {"id": "msg_" + self.id, "type": "message", "role": "assistant"}
        return {**named, "status": "completed", "content": content}

    def _head(self, status: str, output: list[Any]) -> dict[str, Any]:
        named = {"id": "resp_" + self.id, "object": "response", "created_at": 0, "model": self.model}
        settings = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
        return {**named, "status": status, "output": output, **settings}


class Infill(Completion):
    """``/infill``, in words of llama.cpp's own."""

    def whole(self) -> dict[str, Any]:  # noqa: D102
        return self._part(words(self.tokens), stop=True)

    def token(self, index: int) -> bytes:  # noqa: D102
        return event(self._part(_word(index), stop=False))

    def end(self) -> list[bytes]:  # noqa: D102
        return [event(self._part("", stop=True))]

    def _part(self, content: str, *, stop: bool) -> dict[str, Any]:
        said: dict[str, Any] = {"index": 0, "content": content, "stop": stop}
        if stop:
            said["timings"] = {"cache_n": 0, "prompt_n": self.prompt_tokens, "predicted_n": self.tokens}
        return said


GENERATING: dict[str, type[Answer]] = {
    "/v1/chat/completions": Chat,
    "/v1/completions": Completion,
    "/v1/messages": Messages,
    "/v1/responses": Responses,
    "/infill": Infill,
}
"""How endpoints that generate word it."""
