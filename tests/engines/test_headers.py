"""Headers of damaged files: what stands there, or one error of ours, in bounded time and memory."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shunter.catalog.checkpoints import read_checkpoint
from shunter.engines.headers import HeaderError, TensorInfo, read_gguf_header, read_safetensors_header
from shunter.errors import InputError
from tests.headers import write_gguf, write_safetensors

METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 1,
    "llama.embedding_length": 32,
    "llama.attention.head_count": 2,
    "llama.feed_forward_length": 64,
    "tokenizer.ggml.tokens": ["a", "b", "c"],
    "tokenizer.ggml.scores": [0.5, 1.5],
}
GGUF_TENSORS = {"token_embd.weight": ([32, 32], "Q8_0"), "blk.0.attn_q.weight": ([32, 32], "F16")}
TENSORS = {"model.embed_tokens.weight": ([8, 4], "F16"), "model.norm.weight": ([4], "F32")}
HUGE_BYTES = 2**42
FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def damages(draw: st.DrawFn) -> list[tuple[str, int, bytes]]:
    """Pieces of bytes that are put in, put over others, or cut out; numbers that are large among them."""
    number = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**31, 2**32, 2**60, 2**63, 2**64 - 1])
    piece = st.binary(min_size=1, max_size=9) | number.map(lambda n: struct.pack("<Q", n))
    return draw(
        st.lists(st.tuples(st.sampled_from(["over", "in", "cut"]), st.integers(0, 700), piece), max_size=4)
    )


def damaged(data: bytes, pieces: list[tuple[str, int, bytes]]) -> bytes:
    for kind, at, piece in pieces:
        end = at if kind == "in" else at + len(piece)
        data = data[:at] + (b"" if kind == "cut" else piece) + data[end:]
    return data


def check(tensors: dict[str, TensorInfo], path: Path) -> None:
    """All tensors have their place in the file, which none shares with another."""
    assert sum(info.nbytes for info in tensors.values()) <= path.stat().st_size
    assert all(info.nbytes >= 0 and info.elements >= 0 for info in tensors.values())


def told(read: Callable[[Path], Any], path: Path, kind: type[Exception]) -> str:
    """Checks what is read of a file; returns the error of a kind, empty without one."""
    try:
        found = read(path)
    except kind as error:
        return str(error)
    check(found, path)
    return ""


def weighed(path: Path) -> dict[str, TensorInfo]:
    found = read_checkpoint(path)
    return {"all": TensorInfo("F32", (found.params,), found.weight_bytes)}


@FUZZ
@given(pieces=damages())
def test_a_damaged_gguf_is_what_it_says_or_one_error(pieces: Any, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", METADATA, GGUF_TENSORS)
    path.write_bytes(damaged(path.read_bytes(), pieces))
    said = told(lambda file: read_gguf_header(file)[1], path, HeaderError)
    assert not said or (str(path) in said and len(said) < 500)
    said = told(weighed, path, InputError)
    assert "\n" not in said


@FUZZ
@given(pieces=damages())
def test_damaged_safetensors_are_what_they_say_or_one_error(pieces: Any, tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "m.safetensors", TENSORS)
    path.write_bytes(damaged(path.read_bytes(), pieces))
    said = told(read_safetensors_header, path, HeaderError)
    assert not said or (str(path) in said and len(said) < 500)


def gguf(*parts: bytes, tensors: int = 0, values: int = 0) -> bytes:
    return b"".join([b"GGUF", struct.pack("<IQQ", 3, tensors, values), *parts])


def text(name: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name


NUMBERS = text(b"a") + struct.pack("<IIQ", 9, 0, 2**40)
TEXTS = text(b"a") + struct.pack("<IIQ", 9, 8, 2**40)
LONG = struct.pack("<Q", 2**41)
ONE = text(b"t") + struct.pack("<IQIQ", 1, 32, 0, 0)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (gguf(NUMBERS, values=1), "promises an array of 1099511627776"),
        (gguf(TEXTS, values=1), "promises an array of 1099511627776"),
        (gguf(LONG, values=1), "a text of 2199023255552 bytes"),
        (gguf(values=2**60), "promises 1152921504606846976 values or tensors"),
        (gguf(tensors=2**60), "promises 1152921504606846976 values or tensors"),
        (gguf(tensors=2**16 + 1), "promises 65537 values or tensors"),
        (gguf(tensors=2**16), "names a tensor twice"),
        (gguf(values=2**16), "twice"),
        (gguf(text(b"t" * 65), tensors=1), "a text of 65 bytes"),
        (gguf(text(b"t") + struct.pack("<I", 2**31), tensors=1), "has 2147483648 dimensions"),
        (gguf(ONE, ONE, tensors=2), "names a tensor twice"),
        (gguf(*2 * [text(b"k") + struct.pack("<IB", 0, 1)], values=2), "says k twice"),
    ],
)
def test_a_header_that_promises_more_than_any_has_is_not_read_for_hours(
    data: bytes, why: str, tmp_path: Path
) -> None:
    """The file has room for it all: 4 TB that are a hole, and read as zeros."""
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    os.truncate(path, HUGE_BYTES)
    with pytest.raises(HeaderError, match=why):
        read_gguf_header(path)


def row(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F16", "shape": [2, 4], "data_offsets": [0, 16], **changes}


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (json.dumps({"a": row(shape=[2, 5])}), "tensor a has 16 bytes, which its shape and type have not"),
        (json.dumps({"a": row(), "b": row(data_offsets=[8, 24])}), "tensors a and b overlap"),
        (json.dumps({"a": row(data_offsets=[0, 16, 32])}), "no safetensors tensor table"),
        (json.dumps({"a": row(data_offsets="01")}), "no safetensors tensor table"),
        (json.dumps({"a": row(shape=[2.0, 4])}), "no safetensors tensor table"),
        (json.dumps({"a": row(shape=[True, 8])}), "no safetensors tensor table"),
        (json.dumps({"a": row(shape=[-2, -4])}), "no safetensors tensor table"),
        ('{"a": %s, "a": %s}' % (2 * (json.dumps(row()),)), "no safetensors tensor table"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(header: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(64))
    with pytest.raises(HeaderError, match=why):
        read_safetensors_header(path)


def test_a_length_of_the_whole_file_is_no_header(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes((2**41).to_bytes(8, "little"))
    os.truncate(path, HUGE_BYTES)
    with pytest.raises(HeaderError, match="promises 2199023255552 bytes"):
        read_safetensors_header(path)
