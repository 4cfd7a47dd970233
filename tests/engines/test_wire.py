from __future__ import annotations

import json
import socket

import pytest

from shunter.engines.base import (
    ERRORS,
    Capabilities,
    DecodeResult,
    EngineError,
    KvResult,
    LoadResult,
    MemoryReport,
    PrefillResult,
    Timed,
    UnsupportedLevelError,
)
from shunter.engines.worker import wire

RESULTS = [
    Timed(0.1, 0.30000000000000004),
    MemoryReport(1, 2**40),
    LoadResult(1.0, 2.0, 9, MemoryReport(3, 4), includes_process_start=True),
    PrefillResult(1.0, 2.0, 7, 30),
    DecodeResult(1.0, 2.0, [1.5, 2.0], {"é": [1, 2], "b": []}),
    KvResult(1.0, 2.0, 100, 5),
    Capabilities("e", "1", "cpu", True, False, ("gguf", "safetensors"), {"torch": "2"}),
    None,
]


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_results_survive_the_wire(result: object) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(wire.pack({"result": wire.encode_value(result)}))
        message = wire.receive(theirs)
    assert message is not None
    back = wire.decode_value(message["result"])
    assert back == result
    assert type(back) is type(result)


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_errors_survive_by_name(name: str) -> None:
    back = wire.decode_error(wire.encode_error(ERRORS[name]("why\nindeed")))
    assert type(back) is ERRORS[name]
    assert str(back) == "why indeed"


def test_errors_of_other_classes_take_the_nearest_known_one() -> None:
    class Special(UnsupportedLevelError):
        pass

    assert type(wire.decode_error(wire.encode_error(Special("x")))) is UnsupportedLevelError
    plain = wire.decode_error(wire.encode_error(ZeroDivisionError("by zero")))
    assert type(plain) is EngineError
    assert str(plain) == "ZeroDivisionError: by zero"


def test_a_closed_end_reads_as_none_and_half_a_frame_as_an_error() -> None:
    for sent, broken in ((b"", False), (b"\0\0", True), (wire.pack({"a": 1})[:-1], True)):
        ours, theirs = socket.socketpair()
        with theirs:
            with ours:
                ours.sendall(sent)
            if broken:
                with pytest.raises(EOFError):
                    wire.receive(theirs)
            else:
                assert wire.receive(theirs) is None


@pytest.mark.parametrize("body", [b"[1]", b"{", b"\xff\xff"])
def test_refuses_what_is_no_object(body: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(len(body).to_bytes(4, "big") + body)
        with pytest.raises(ValueError, match=r".+"):
            wire.receive(theirs)


def test_refuses_frames_beyond_the_limit() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall((wire.MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
        with pytest.raises(ValueError, match="at most"):
            wire.receive(theirs)


def test_packs_plain_and_finite_data_only() -> None:
    with pytest.raises(ValueError, match="JSON"):
        wire.pack({"max_s": float("inf")})
    with pytest.raises(TypeError):
        wire.pack({"result": Timed(0.0, 1.0)})


def test_makes_no_class_but_results() -> None:
    with pytest.raises(ValueError, match="Popen"):
        wire.decode_value(json.loads('{"__class__": "Popen", "args": "ls"}'))
