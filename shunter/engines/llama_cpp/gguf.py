"""What a GGUF file's header says about the memory that llama.cpp will need."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..headers import HeaderError, read_gguf_header
from ..weights import Weights, weigh

__all__ = ["read_facts"]

CELL_PADDING = 256
"""llama.cpp rounds a sequence's KV cells up to a multiple of this. Source: llama-context.cpp, GGML_PAD."""

_KV_ELEMENT_BYTES = 2


def cells_per_request(context_tokens: int) -> int:
    """KV cells that llama.cpp sets aside for one request."""
    return -(-context_tokens // CELL_PADDING) * CELL_PADDING


@dataclass(frozen=True)
class GgufFacts:
    """Sizes from the header of one GGUF file.

    Attributes:
        hidden_size: Width of the residual stream.
        intermediate_size: Width of the MLP.
        vocab_size: Rows of the embedding.
        kv_width: Elements of keys and values that one token adds in one layer.
        weights: Sizes of the model's parts.
    """

    hidden_size: int
    intermediate_size: int
    vocab_size: int
    kv_width: int
    weights: Weights

    @property
    def layers(self) -> int:
        """Transformer layers."""
        return len(self.weights.layer_bytes)

    @property
    def total_layers(self) -> int:
        """Transformer layers plus the output layer."""
        return self.weights.total_layers

    @property
    def output_bytes(self) -> int:
        """Weights of the output layer, whose matrix is a copy of the embedding where they are tied."""
        return (self.weights.head_bytes or self.weights.embedding_bytes) + self.weights.rest_bytes

    @property
    def host_weight_bytes(self) -> int:
        """Weights that are on no device at any level.

        None where the embedding is the output layer too, of which a device gets a copy.
        """
        return self.weights.embedding_bytes if self.weights.head_bytes else 0

    def device_weight_bytes(self, gpu_layers: int) -> int:
        """Weights on the device: the output layer first, then layers from the last one down."""
        if gpu_layers == 0:
            return 0
        return self.output_bytes + sum(self.weights.layer_bytes[self.total_layers - gpu_layers :])

    def device_bytes(self, gpu_layers: int, context_tokens: int, max_batch: int, batch_tokens: int) -> int:
        """Predicted device memory of a resident: weights, KV and an estimate of the compute buffer."""
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
    path = Path(checkpoint)
    try:
        found = path.stat()
    except OSError as error:
        raise HeaderError(path, error.strerror or str(error)) from error
    return _read_facts(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=64)  # each load asks twice, and a vocabulary takes a while to read
def _read_facts(path: Path, _size_bytes: int, _changed_ns: int) -> GgufFacts:
    values, tensors = read_gguf_header(path)
    architecture = values.get("general.architecture", "")

    def number(name: str, default: int | None = None) -> int:
        value: Any = values.get(f"{architecture}.{name}", default)
        if value is None:
            raise HeaderError(path, f"its header does not say {architecture}.{name}")
        if not isinstance(value, int):
            why = f"its {architecture}.{name} is of a type that is not supported: {value!r}"
            raise HeaderError(path, why)
        return value

    if values.get("split.count", 0) not in (0, 1):
        raise HeaderError(path, "it is one part of several; join them with llama-gguf-split --merge")
    if number("expert_count", 0):
        raise HeaderError(path, "it is a mixture of experts, which is not supported")
    if not number("attention.causal", True):
        raise HeaderError(path, "it is an encoder, which generates no text")
    if number("pooling_type", 0):
        raise HeaderError(path, "it is an embedding model, which generates no text")
    layers, hidden, heads = number("block_count"), number("embedding_length"), number("attention.head_count")
    head_dim = hidden // max(1, heads)
    widths = number("attention.key_length", head_dim) + number("attention.value_length", head_dim)
    embedding = tensors.get("token_embd.weight")
    if embedding is None or not embedding.shape:
        raise HeaderError(path, "it has no token embedding (token_embd.weight): it is not a whole model")
    return GgufFacts(
        hidden_size=hidden,
        intermediate_size=number("feed_forward_length"),
        vocab_size=embedding.shape[0],
        kv_width=number("attention.head_count_kv", heads) * widths,
        weights=weigh(path, tensors, layers=layers),
    )
