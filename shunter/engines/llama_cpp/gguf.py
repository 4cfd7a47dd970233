"""What a GGUF file's header says about the memory that llama.cpp will need, read by ggml's own parser."""

from __future__ import annotations

import ctypes
import os
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..base import CheckpointError
from .native import last_errors, native_functions

__all__ = ["CELL_PADDING", "GgufFacts", "cells_per_request", "read_facts"]

CELL_PADDING = 256
"""llama.cpp rounds a sequence's KV cells up to a multiple of this. Source: llama-context.cpp, GGML_PAD."""

_UINT16, _UINT32, _BOOL, _STRING = 2, 4, 7, 8
_READERS = {
    _UINT16: "gguf_get_val_u16",
    _UINT32: "gguf_get_val_u32",
    _BOOL: "gguf_get_val_bool",
    _STRING: "gguf_get_val_str",
}
_KV_ELEMENT_BYTES = 2
_LAYER = re.compile(r"^blk\.(\d+)\.")


class _InitParams(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


@cache
def _gguf() -> dict[str, Any]:
    pointer, text, key, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int64, ctypes.c_size_t
    return native_functions(
        "libggml-base",
        {
            "gguf_init_from_file": (pointer, text, _InitParams),
            "gguf_free": (None, pointer),
            "gguf_find_key": (key, pointer, text),
            "gguf_get_kv_type": (ctypes.c_int, pointer, key),
            "gguf_get_val_u16": (ctypes.c_uint16, pointer, key),
            "gguf_get_val_u32": (ctypes.c_uint32, pointer, key),
            "gguf_get_val_bool": (ctypes.c_bool, pointer, key),
            "gguf_get_val_str": (text, pointer, key),
            "gguf_get_n_tensors": (key, pointer),
            "gguf_get_tensor_name": (text, pointer, key),
            "gguf_get_tensor_size": (size, pointer, key),
            "gguf_get_tensor_offset": (size, pointer, key),
            "gguf_get_data_offset": (size, pointer),
        },
    )


def cells_per_request(context_tokens: int) -> int:
    """KV cells that llama.cpp sets aside for one request."""
    return -(-context_tokens // CELL_PADDING) * CELL_PADDING


@dataclass(frozen=True)
class GgufFacts:
    """Sizes from the header of one GGUF file.

    Attributes:
        layers: Transformer layers.
        hidden_size: Width of the residual stream.
        intermediate_size: Width of the MLP.
        vocab_size: Rows of the embedding.
        kv_width: Elements of keys and values that one token adds in one layer.
        layer_bytes: Weights of each transformer layer.
        output_bytes: Weights of the output layer, which are the embedding's where they are tied.
        host_weight_bytes: Weights that are on no device at any level; none where the embedding is the output
            layer too, of which a device gets a copy.
    """

    layers: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    kv_width: int
    layer_bytes: tuple[int, ...]
    output_bytes: int
    host_weight_bytes: int

    @property
    def total_layers(self) -> int:
        """Transformer layers plus the output layer."""
        return self.layers + 1

    def device_weight_bytes(self, gpu_layers: int) -> int:
        """Weights on the device: the output layer first, then layers from the last one down."""
        if gpu_layers == 0:
            return 0
        return self.output_bytes + sum(self.layer_bytes[self.layers - (gpu_layers - 1) :])

    def device_bytes(self, gpu_layers: int, context_tokens: int, max_batch: int, batch_tokens: int) -> int:
        """Predicted device memory of a resident: weights, KV and an estimate of the compute buffer.

        Args:
            gpu_layers: Layers on the device.
            context_tokens: Most tokens of one request.
            max_batch: Most requests at once.
            batch_tokens: Most tokens of one forward pass.
        """
        if gpu_layers == 0:
            return 0
        cells = cells_per_request(context_tokens)
        kv_bytes = (gpu_layers - 1) * self.kv_width * _KV_ELEMENT_BYTES * cells * max_batch
        widths = 4 * self.hidden_size + 3 * self.intermediate_size
        compute_bytes = 4 * (batch_tokens * widths + max_batch * self.vocab_size) + 2 * batch_tokens * cells
        return self.device_weight_bytes(gpu_layers) + kv_bytes + compute_bytes


def read_facts(checkpoint: str) -> GgufFacts:
    """Reads a GGUF header.

    Raises:
        CheckpointError: There is no such file, or it is no GGUF file of a decoder that llama.cpp runs whole.
    """
    if not Path(checkpoint).is_file():
        raise CheckpointError(f"{checkpoint}: there is no such file")
    if not os.access(checkpoint, os.R_OK):
        raise CheckpointError(f"{checkpoint}: it may not be read")
    last_errors()
    header = _gguf()["gguf_init_from_file"](checkpoint.encode(), _InitParams(no_alloc=True, ctx=None))
    if not header:
        raise CheckpointError(f"{checkpoint}: no readable GGUF file: {last_errors() or 'bad header'}")
    try:
        return _facts(_Header(checkpoint, header))
    finally:
        _gguf()["gguf_free"](header)


class _Header:
    """A parsed header: values by key, and sizes of tensors that are all in the file."""

    def __init__(self, checkpoint: str, pointer: int) -> None:
        self.checkpoint = checkpoint
        self._pointer = pointer
        gguf, ends = _gguf(), [0]
        self.tensor_bytes: dict[str, int] = {}
        for index in range(gguf["gguf_get_n_tensors"](pointer)):
            name = gguf["gguf_get_tensor_name"](pointer, index).decode(errors="replace")
            self.tensor_bytes[name] = size = gguf["gguf_get_tensor_size"](pointer, index)
            ends.append(gguf["gguf_get_tensor_offset"](pointer, index) + size)
        needed, there = gguf["gguf_get_data_offset"](pointer) + max(ends), os.path.getsize(checkpoint)
        if there < needed:
            raise self.error(f"it is truncated: its header promises {needed} bytes, and it has {there}")
        self.architecture = str(self.value("general.architecture", ""))

    def error(self, reason: str) -> CheckpointError:
        return CheckpointError(f"{self.checkpoint}: {reason}")

    def value(self, key: str, default: Any = None) -> Any:
        gguf = _gguf()
        place = gguf["gguf_find_key"](self._pointer, key.encode())
        if place < 0:
            if default is None:
                raise self.error(f"its header does not say {key}")
            return default
        kind = gguf["gguf_get_kv_type"](self._pointer, place)
        if kind not in _READERS:
            raise self.error(f"its {key} is of a type that is not supported ({kind})")
        found = gguf[_READERS[kind]](self._pointer, place)
        return found.decode(errors="replace") if isinstance(found, bytes) else found

    def number(self, name: str, default: int | None = None) -> int:
        return int(self.value(f"{self.architecture}.{name}", default))


def _check_kind(header: _Header) -> None:
    if header.value("split.count", 0) > 1:
        raise header.error("it is one part of several; join them with llama-gguf-split --merge")
    if header.number("expert_count", 0):
        raise header.error("it is a mixture of experts, which is not supported")
    if not header.value(f"{header.architecture}.attention.causal", True):
        raise header.error("it is an encoder, which generates no text")
    if header.number("pooling_type", 0):
        raise header.error("it is an embedding model, which generates no text")


def _facts(header: _Header) -> GgufFacts:
    _check_kind(header)
    number, sizes = header.number, header.tensor_bytes
    layers, hidden, heads = number("block_count"), number("embedding_length"), number("attention.head_count")
    head_dim = hidden // max(1, heads)
    widths = number("attention.key_length", head_dim) + number("attention.value_length", head_dim)
    per_layer = _layer_bytes(sizes)
    if len(per_layer) != layers or max(per_layer, default=0) != layers - 1:
        raise header.error(f"it says {layers} layers and holds the tensors of {len(per_layer)}")
    embedding = sizes.get("token_embd.weight", 0)
    output = sizes.get("output.weight", embedding) + sizes.get("output_norm.weight", 0)
    return GgufFacts(
        layers=layers,
        hidden_size=hidden,
        intermediate_size=number("feed_forward_length"),
        vocab_size=number("vocab_size", 0),
        kv_width=number("attention.head_count_kv", heads) * widths,
        layer_bytes=tuple(per_layer[index] for index in range(layers)),
        output_bytes=output,
        host_weight_bytes=embedding if "output.weight" in sizes else 0,
    )


def _layer_bytes(sizes: dict[str, int]) -> Counter[int]:
    per_layer: Counter[int] = Counter()
    for name, size in sizes.items():
        if match := _LAYER.match(name):
            per_layer[int(match[1])] += size
    return per_layer
