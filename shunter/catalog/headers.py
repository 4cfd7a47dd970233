"""Headers of GGUF and safetensors files: names, types and sizes of tensors, without their data.

The ``gguf`` package's own reader is not used here: it builds an object per vocabulary entry (seconds for a
real model) and, on a damaged length, loops for ever instead of failing.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from shunter.errors import BrokenFileError

__all__ = ["TensorInfo", "read_gguf_header", "read_safetensors_header"]


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


_SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
_STRING, _ARRAY = 8, 9


class _GgufStream:
    """Reads GGUF values one after another, never beyond the end of the file."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file, self.path, self.size = file, path, path.stat().st_size

    def take(self, nbytes: int) -> bytes:
        if nbytes > self.size - self.file.tell():
            raise BrokenFileError(self.path, "it ends within its header: it is truncated or damaged")
        return self.file.read(nbytes)

    def integer(self, form: str) -> int:
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def text(self) -> str:
        return self.take(self.integer("<Q")).decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            kind, count = self.integer("<I"), self.integer("<Q")
            return [self.text() for _ in range(count)] if kind == _STRING else self.numbers(kind, count)
        return self.numbers(kind, 1)[0].item()

    def numbers(self, kind: int, count: int) -> np.ndarray[Any, Any]:
        if kind not in _SCALARS:
            raise BrokenFileError(
                self.path, f"its header holds an unknown value type ({kind}): it is damaged"
            )
        dtype = np.dtype(_SCALARS[kind])
        return np.frombuffer(self.take(count * dtype.itemsize), dtype)

    def tensor(self) -> tuple[str, TensorInfo, int]:
        name = self.text()
        dims = [self.integer("<Q") for _ in range(self.integer("<I"))]
        kind, offset = self.integer("<I"), self.integer("<Q")
        try:
            dtype = GGMLQuantizationType(kind)
        except ValueError as err:
            raise BrokenFileError(self.path, f"tensor {name} has an unknown type ({kind})") from err
        block, block_bytes = GGML_QUANT_SIZES[dtype]
        if dims and dims[0] % block:
            raise BrokenFileError(self.path, f"tensor {name} has rows of {dims[0]} in blocks of {block}")
        return (
            name,
            TensorInfo(dtype.name, tuple(reversed(dims)), math.prod(dims) // block * block_bytes),
            offset,
        )


def read_gguf_header(path: Path) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
    """Reads a GGUF file's metadata and tensor table, and checks that its data is all there.

    Returns:
        Metadata by key (arrays of numbers as numpy arrays), tensors by name.

    Raises:
        BrokenFileError: It is not GGUF version 2 or 3, or is truncated or damaged.

    Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
    """
    with path.open("rb") as file:
        stream = _GgufStream(file, path)
        if file.read(4) != b"GGUF":
            raise BrokenFileError(path, "it is not a GGUF file (its first four bytes are not GGUF)")
        version = stream.integer("<I")
        if version not in (2, 3):
            raise BrokenFileError(
                path, f"it is GGUF version {version}, and only little-endian 2 and 3 are known"
            )
        tensor_count, value_count = stream.integer("<Q"), stream.integer("<Q")
        metadata = {}
        for _ in range(value_count):
            key = stream.text()
            metadata[key] = stream.value(stream.integer("<I"))
        rows = [stream.tensor() for _ in range(tensor_count)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise BrokenFileError(path, f"its alignment is {alignment!r}: it is damaged")
        data_start = -(-file.tell() // alignment) * alignment
    spans = sorted((offset, offset + info.nbytes, name) for name, info, offset in rows)
    for (_, end, first), (start, _, second) in itertools.pairwise(spans):
        if start < end:
            raise BrokenFileError(path, f"its tensors {first} and {second} overlap: it is damaged")
    _check_size(path, max((data_start + end for _, end, _ in spans), default=0))
    return metadata, {name: info for name, info, _ in rows}


def read_safetensors_header(path: Path) -> dict[str, TensorInfo]:
    """Reads a safetensors file's tensor table, and checks that its data is all there.

    Raises:
        BrokenFileError: It is no safetensors file, or is truncated or damaged.

    Source: https://huggingface.co/docs/safetensors/index#format
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise BrokenFileError(path, "it ends within its header: it is truncated or no safetensors file")
        text = file.read(length)
    try:
        table = json.loads(text)
        rows = {name: row for name, row in table.items() if name != "__metadata__"}
        spans = {
            name: (int(row["data_offsets"][0]), int(row["data_offsets"][1])) for name, row in rows.items()
        }
        tensors = {
            name: TensorInfo(
                str(row["dtype"]), tuple(map(int, row["shape"])), spans[name][1] - spans[name][0]
            )
            for name, row in rows.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as err:
        raise BrokenFileError(path, "its header is no safetensors tensor table") from err
    if any(not 0 <= start <= end for start, end in spans.values()):
        raise BrokenFileError(path, "its header holds a tensor that ends before it starts")
    _check_size(path, 8 + length + max((end for _, end in spans.values()), default=0))
    return tensors


def _check_size(path: Path, needed: int) -> None:
    size = path.stat().st_size
    if size < needed:
        raise BrokenFileError(path, f"it is truncated: its header promises {needed} bytes, and it has {size}")
