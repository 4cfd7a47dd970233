"""Headers of GGUF and safetensors files: names, types and sizes of tensors, without their data.

Both sides read checkpoints by this module, so it needs nothing but the standard library. The ``gguf``
package's own reader is not used: it builds an object per vocabulary entry (seconds for a real model) and, on
a damaged length, loops for ever instead of failing.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .base import CheckpointError

__all__ = ["GGML_TYPES", "HeaderError", "TensorInfo", "read_gguf_header", "read_tensors", "weight_files"]


class HeaderError(CheckpointError):
    """A checkpoint's file is not there, truncated, damaged or of another kind.

    Args:
        path: The file.
        why: Follows the path in the message.
    """

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path, self.why = path, why


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as its header describes it.

    Attributes:
        dtype: Element type: ``F16``, ``BF16``, ``Q8_0``, …
        shape: Rows first, as numpy counts.
        nbytes: Bytes of its data.
    """

    dtype: str
    shape: tuple[int, ...]
    nbytes: int

    @property
    def elements(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


GGML_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
"""Tensor types by number: name, weights per block, bytes per block. Source: ggml.h and ggml-common.h."""

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

_MOST_VALUES = 2**22
"""In the arrays of a GGUF header together: the largest vocabularies known need a third. More is damage that
would be read for hours and fill the memory."""
_MOST_NAMES = 2**16
"""Of values, and of tensors, in a GGUF header: the largest models known have a thirtieth."""
_MOST_TEXT_BYTES = 2**24
"""Of one text, such as a chat template."""
_MOST_NAME_BYTES, _MOST_DIMS = 64, 4
"""Of a tensor. Source: ggml.h (GGML_MAX_NAME, GGML_MAX_DIMS)."""
_MOST_SAFETENSORS_BYTES = 100_000_000
"""Of a header. Source: safetensors, MAX_HEADER_SIZE."""
_MOST_INDEX_BYTES = 2**24
"""Of an index: a line for each tensor. What is longer is cut short, and so no JSON."""
_SAFETENSORS_BITS = {
    **dict.fromkeys(("F64", "I64", "U64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
}


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # of a pipe, opening it may wait for ever
            raise HeaderError(path, "it is no file")
        file = path.open("rb")
    except (OSError, ValueError) as error:  # a value: the name is none that a file can have
        raise HeaderError(path, getattr(error, "strerror", None) or str(error)) from error
    try:
        with file:
            yield file
    except OSError as error:
        raise HeaderError(path, error.strerror or str(error)) from error


class _GgufStream:
    """Reads GGUF values one after another, never beyond the end of the file."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file, self.path, self.size = file, path, os.fstat(file.fileno()).st_size
        self.left = _MOST_VALUES

    def names(self) -> int:
        """A number of things with names that follow."""
        count = self.integer("<Q")
        if count > _MOST_NAMES:
            raise HeaderError(self.path, f"its header promises {count} values or tensors: it is damaged")
        return count

    def items(self) -> int:
        """A number of items of an array that follow, taken from what a header may hold."""
        count = self.integer("<Q")
        self.left -= count
        if self.left < 0:
            raise HeaderError(self.path, f"its header promises an array of {count}: it is damaged")
        return count

    def take(self, nbytes: int) -> bytes:
        if nbytes > self.size - self.file.tell():
            raise HeaderError(self.path, "it ends within its header: it is truncated or damaged")
        return self.file.read(nbytes)

    def integer(self, form: str) -> int:
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def text(self, most_bytes: int = _MOST_TEXT_BYTES) -> str:
        length = self.integer("<Q")
        if length > most_bytes:
            raise HeaderError(self.path, f"its header holds a text of {length} bytes: it is damaged")
        return self.take(length).decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            kind, count = self.integer("<I"), self.items()
            return [self.text() for _ in range(count)] if kind == _STRING else self.numbers(kind, count)
        return self.numbers(kind, 1)[0]

    def numbers(self, kind: int, count: int) -> tuple[Any, ...]:
        if kind not in _SCALARS:
            raise HeaderError(self.path, f"its header holds an unknown value type ({kind}): it is damaged")
        data = self.take(count * struct.calcsize("<" + _SCALARS[kind]))
        return struct.unpack(f"<{count}{_SCALARS[kind]}", data)

    def tensor(self) -> tuple[str, TensorInfo, int]:
        name, rank = self.text(_MOST_NAME_BYTES), self.integer("<I")
        if rank > _MOST_DIMS:
            raise HeaderError(self.path, f"tensor {name} has {rank} dimensions: it is damaged")
        dims = [self.integer("<Q") for _ in range(rank)]
        kind, offset = self.integer("<I"), self.integer("<Q")
        if kind not in GGML_TYPES:
            raise HeaderError(self.path, f"tensor {name} has an unknown type ({kind})")
        dtype, block, block_bytes = GGML_TYPES[kind]
        if dims and dims[0] % block:
            raise HeaderError(self.path, f"tensor {name} has rows of {dims[0]} in blocks of {block}")
        nbytes = math.prod(dims) // block * block_bytes
        return name, TensorInfo(dtype, tuple(reversed(dims)), nbytes), offset


def read_gguf_header(path: Path) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
    """Reads a GGUF file's metadata and tensor table, and checks that its data is all there.

    Returns:
        Metadata by key (arrays as tuples of numbers or lists of texts), tensors by name.

    Raises:
        HeaderError: It is not GGUF version 2 or 3, or is truncated or damaged.

    Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
    """
    with _opened(path) as file:
        stream = _GgufStream(file, path)
        if file.read(4) != b"GGUF":
            raise HeaderError(path, "it is not a GGUF file (its first four bytes are not GGUF)")
        version = stream.integer("<I")
        if version not in (2, 3):
            raise HeaderError(path, f"it is GGUF version {version}, and only little-endian 2 and 3 are known")
        tensor_count, value_count = stream.names(), stream.names()
        metadata: dict[str, Any] = {}
        for _ in range(value_count):
            key = stream.text()
            if key in metadata:
                raise HeaderError(path, f"its header says {key[:64]} twice: it is damaged")
            metadata[key] = stream.value(stream.integer("<I"))
        rows = [stream.tensor() for _ in range(tensor_count)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise HeaderError(path, f"its alignment is {alignment!r}: it is damaged")
        data_start = -(-file.tell() // alignment) * alignment
    tensors = {name: info for name, info, _ in rows}
    if len(tensors) < len(rows):
        raise HeaderError(path, "its header names a tensor twice: it is damaged")
    ends = _checked_ends(path, [(offset, offset + info.nbytes, name) for name, info, offset in rows])
    _check_size(path, stream.size, data_start + ends if rows else 0)
    return metadata, tensors


def _checked_ends(path: Path, spans: list[tuple[int, int, str]]) -> int:
    """Where the last of some tensors ends, of which none may lie in another.

    Raises:
        HeaderError: One does.
    """
    held = sorted(span for span in spans if span[0] < span[1])
    for (_, end, first), (start, _, second) in itertools.pairwise(held):
        if start < end:
            raise HeaderError(path, f"its tensors {first[:64]} and {second[:64]} overlap: it is damaged")
    return max((end for _, end, _ in spans), default=0)


def read_safetensors_header(path: Path) -> dict[str, TensorInfo]:
    """Reads a safetensors file's tensor table, and checks that its data is all there.

    Raises:
        HeaderError: It is no safetensors file, or is truncated or damaged.

    Source: https://huggingface.co/docs/safetensors/index#format
    """
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise HeaderError(path, "it ends within its header: it is truncated or no safetensors file")
        if length > _MOST_SAFETENSORS_BYTES:
            raise HeaderError(path, f"its header promises {length} bytes: it is damaged")
        text = file.read(length)
    try:
        whole = json.loads(text, object_pairs_hook=_named_once)
        rows = {name: row for name, row in whole.items() if name != "__metadata__"}
        spans = {name: _whole_numbers(row["data_offsets"], 2) for name, row in rows.items()}
        tensors = {
            name: TensorInfo(str(row["dtype"]), _whole_numbers(row["shape"]), end - start)
            for (name, row), (start, end) in zip(rows.items(), spans.values(), strict=True)
        }
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise HeaderError(path, "its header is no safetensors tensor table") from error
    if any(start > end for start, end in spans.values()):
        raise HeaderError(path, "its header holds a tensor that ends before it starts")
    for name, info in tensors.items():
        bits = _SAFETENSORS_BITS.get(info.dtype)
        if bits and info.elements * bits != 8 * info.nbytes:
            why = f"its tensor {name[:64]} has {info.nbytes} bytes, which its shape and type have not"
            raise HeaderError(path, why)
    ends = _checked_ends(path, [(start, end, name) for name, (start, end) in spans.items()])
    _check_size(path, size, 8 + length + ends)
    return tensors


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _whole_numbers(values: Any, count: int | None = None) -> tuple[int, ...]:
    """A list of whole numbers from 0 on, ``count`` of them.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(values, list) or any(type(one) is not int or one < 0 for one in values):
        raise ValueError("no list of whole numbers")
    if count not in (None, len(values)):
        raise ValueError(f"not {count} of them")
    return tuple(values)


def _check_size(path: Path, size: int, needed: int) -> None:
    if size < needed:
        raise HeaderError(path, f"it is truncated: its header promises {needed} bytes, and it has {size}")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold a folder's weights: those of its index, or else ``model.safetensors``.

    Raises:
        HeaderError: The index is damaged.
    """
    index = folder / "model.safetensors.index.json"
    if not os.path.lexists(index):
        return [folder / "model.safetensors"]
    with _opened(index) as file:
        text = file.read(_MOST_INDEX_BYTES)
    try:
        names = json.loads(text)["weight_map"].values()
        return [folder / name for name in sorted(set(names))]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HeaderError(index, "it has no weight_map: it is no index of weight files") from error


def read_tensors(path: Path) -> dict[str, TensorInfo]:
    """Reads the tensor table of a checkpoint, a GGUF file or a folder with safetensors files.

    Raises:
        HeaderError: As the readers of the files.
    """
    if not path.is_dir():
        return read_gguf_header(path)[1]
    return {name: info for file in weight_files(path) for name, info in read_safetensors_header(file).items()}
