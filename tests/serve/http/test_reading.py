"""What is read of bodies and of answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.serve.boundary import Asked, Usage
from shunter.serve.http.body import read_asked
from shunter.serve.http.tally import Tally, usage_of


def _asked(headers: dict[str, str] | None = None, **body: Any) -> Asked:
    return read_asked(json.dumps({"model": "m"} | body).encode(), "/v1/x", headers or {})


@pytest.mark.parametrize(
    ("body", "chars"),
    [
        ({"messages": [{"role": "user", "content": "12345"}, {"role": "assistant", "content": None}]}, 5),
        ({"messages": [{"content": [{"type": "text", "text": "123"}, {"type": "text", "text": "4"}]}]}, 4),
        ({"messages": [{"content": [{"type": "image_url", "image_url": {"url": "data:xxxx"}}]}]}, 0),
        ({"messages": [{"content": [{"type": "image", "source": {"data": "xxxx"}}]}], "system": "12"}, 2),
        ({"messages": [{"tool_calls": [{"id": "i", "function": {"name": "f", "arguments": "123"}}]}]}, 4),
        ({"prompt": "1234"}, 4),
        ({"prompt": ["12", "345"]}, 5),
        ({"prompt": [1, 2, 3]}, 12),
        ({"prompt": [[1], [2, 3]]}, 12),
        ({"input": "ä€"}, 2),
        ({"input": [{"role": "user", "content": "12"}], "instructions": "3"}, 3),
        ({"query": "12", "documents": ["3", {"text": "45"}]}, 5),
        ({"input_prefix": "12", "input_suffix": "3"}, 3),
        ({"stop": "1234"}, 0),
        ({}, 0),
    ],
)
def test_characters_of_text(body: dict[str, Any], chars: int) -> None:
    assert _asked(**body).prompt_chars == chars


def test_most_tokens() -> None:
    assert _asked().max_tokens is None
    assert _asked(max_tokens=None).max_tokens is None
    assert _asked(max_tokens=5).max_tokens == 5
    assert _asked(max_output_tokens=6).max_tokens == 6
    assert _asked(max_tokens=5, max_completion_tokens=7).max_tokens == 7


def test_sessions() -> None:
    assert _asked().session is None
    assert _asked(user="u").session == "u"
    assert _asked(user="u", session_id="s").session == "s"
    assert _asked({"x-session-id": "h"}, session_id="s").session == "h"
    assert _asked(metadata={"user_id": "a"}).session == "a"
    assert _asked(metadata={"user_id": 3}).session is None
    assert _asked(user="u\ud800").session == "u\\ud800"  # a record of it can be read
    assert len(_asked(user="u" * 1000).session or "") == 256


CHAT = [
    'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":null}}],"usage":null}',
    'data: {"choices":[{"index":0,"delta":{"reasoning_content":"Hm"}}],"usage":null}',
    'data: {"choices":[{"index":0,"delta":{"content":"say \\"text\\":\\"x\\" "}}],"usage":null}',
    'data: {"choices": [{"index": 0, "delta": {"content": "lo"}}]}',
    'data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{"}}]}}]}',
    'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}',
    'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":4}}',
    "data: [DONE]",
]
RESPONSES = [
    'event: response.created\ndata: {"type":"response.created","response":{"usage":null}}',
    'data: {"type":"response.output_text.delta","delta":"Hel"}',
    'data: {"type":"response.output_text.delta","delta":"lo"}',
    'data: {"type":"response.output_text.done","text":"Hello"}',
    'data: {"type":"response.completed","response":{"output":[{"content":[{"text":"Hello"}]}],'
    '"usage":{"input_tokens":5,"output_tokens":2,"input_tokens_details":{"cached_tokens":1}}}}',
]
MESSAGES = [
    'event: message_start\ndata: {"type":"message_start","message":{"content":[],'
    '"usage":{"input_tokens":5,"cache_read_input_tokens":3,"output_tokens":0}}}',
    'data: {"type":"content_block_start","content_block":{"type":"text","text":""}}',
    'data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"Hel"}}',
    'data: {"type":"content_block_delta","delta":{"type":"input_json_delta","partial_json":"{"}}',
    'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":2}}',
    'data: {"type":"message_stop"}',
]
COMPLETIONS = [
    'data: {"choices":[{"text":"a"}]}',
    ": ping",
    'data: {"choices":[{"text":""}],"timings":{"prompt_n":4,"predicted_n":1,"cache_n":6}}',
]
STREAMS = [
    (CHAT, 4, Usage(5, 4, None)),
    (RESPONSES, 2, Usage(5, 2, 1)),
    (MESSAGES, 2, Usage(8, 2, 3)),
    (COMPLETIONS, 1, Usage(10, 1, 6)),
    (["data: [DONE]"], 0, Usage()),
    (['data: {"usage": 3}', 'data: {"usage":{"prompt_tokens":true,"completion_tokens":-1}}'], 0, Usage()),
]


@given(st.sampled_from(STREAMS), st.lists(st.integers(0, 700), max_size=8), st.booleans())
def test_streams_count_alike_in_whatever_pieces(
    case: tuple[list[str], int, Usage], cuts: list[int], ended: bool
) -> None:
    events, tokens, usage = case
    data = "\n\n".join(events).encode() + (b"\n\n" if ended else b"")
    tally = Tally()
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True):
        tally.feed(data[start:end])
    assert tally.usage() == usage
    assert tally.tokens == tokens


@pytest.mark.parametrize(
    ("answer", "usage"),
    [
        (b'{"usage":{"prompt_tokens":1,"completion_tokens":2}}', Usage(1, 2)),
        (b'{"usage":{"prompt_tokens":3,"total_tokens":3}}', Usage(3)),
        (b'{"usage":{"input_tokens":1,"output_tokens":2,"cache_read_input_tokens":4}}', Usage(5, 2, 4)),
        (b'{"content":"x","timings":{"prompt_n":1,"predicted_n":2}}', Usage(1, 2)),
        (b"[]", Usage()),
        (b"no JSON", Usage()),
        (b'{"usage":[1]}', Usage()),
    ],
)
def test_whole_answers(answer: bytes, usage: Usage) -> None:
    assert usage_of(answer) == usage


def test_a_line_without_end_takes_bounded_memory() -> None:
    tally = Tally()
    for _ in range(40):
        tally.feed(b"x" * 100_000)
    assert len(tally._rest) <= 1 << 20
