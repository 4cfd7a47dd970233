"""What a GGUF file's header says about the memory that llama.cpp will need, read by ggml's own parser."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .base import CheckpointError
from .llama_native import last_errors, native_functions

__all__ = ["CELL_PADDING", "GgufFacts", "cells_per_request", "read_facts"]

CELL_PADDING = 256
"""llama.cpp rounds a sequence's KV cells up to a multiple of this. Source: llama-context.cpp, GGML_PAD."""

_UINT32 = 4
_KV_ELEMENT_BYTES = 2


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
            "gguf_get_val_u32": (ctypes.c_uint32, pointer, key),
            "gguf_get_val_str": (text, pointer, key),
            "gguf_get_n_tensors": (key, pointer),
            "gguf_get_tensor_name": (text, pointer, key),
            "gguf_get_tensor_size": (size, pointer, key),
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
    last_errors()
    header = _gguf()["gguf_init_from_file"](checkpoint.encode(), _InitParams(no_alloc=True, ctx=None))
    if not header:
        raise CheckpointError(f"{checkpoint}: no readable GGUF file: {last_errors() or 'bad header'}")
    try:
        return _facts(checkpoint, header)
    finally:
        _gguf()["gguf_free"](header)


def _facts(checkpoint: str, header: int) -> GgufFacts:
    gguf = _gguf()
    sizes = {}
    for index in range(gguf["gguf_get_n_tensors"](header)):
        name = gguf["gguf_get_tensor_name"](header, index).decode()
        sizes[name] = gguf["gguf_get_tensor_size"](header, index)
    key = gguf["gguf_find_key"](header, b"general.architecture")
    architecture = gguf["gguf_get_val_str"](header, key).decode() if key >= 0 else ""

    def number(name: str, default: int | None = None) -> int:
        key = gguf["gguf_find_key"](header, f"{architecture}.{name}".encode())
        if key >= 0 and gguf["gguf_get_kv_type"](header, key) == _UINT32:
            return int(gguf["gguf_get_val_u32"](header, key))
        if default is None:
            raise CheckpointError(f"{checkpoint}: its header does not say {architecture}.{name}")
        return default

    layers, hidden, heads = number("block_count"), number("embedding_length"), number("attention.head_count")
    head_dim = hidden // max(1, heads)
    widths = number("attention.key_length", head_dim) + number("attention.value_length", head_dim)
    per_layer = [0] * layers
    for name, size in sizes.items():
        prefix, _, rest = name.partition(".")
        index = int(rest.partition(".")[0]) if prefix == "blk" else -1
        if 0 <= index < layers:
            per_layer[index] += size
    embedding = sizes.get("token_embd.weight", 0)
    output = sizes.get("output.weight", embedding) + sizes.get("output_norm.weight", 0)
    return GgufFacts(
        layers=layers,
        hidden_size=hidden,
        intermediate_size=number("feed_forward_length"),
        vocab_size=number("vocab_size", 0),
        kv_width=number("attention.head_count_kv", heads) * widths,
        layer_bytes=tuple(per_layer),
        output_bytes=output,
        host_weight_bytes=embedding if "output.weight" in sizes else 0,
    )
