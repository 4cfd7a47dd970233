"""What a GGUF file's header says about the memory that llama.cpp will need."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..gguf_shape import GgufShape, read_gguf_shape
from ..headers import HeaderError, read_gguf_header
from ..weights import Weights, weigh

__all__ = ["read_facts"]

MAX_BATCH_TOKENS = 512
"""Most tokens of one forward pass of a prompt."""

CELL_PADDING = 256
"""llama.cpp rounds a sequence's KV cells up to a multiple of this. Source: llama-context.cpp, GGML_PAD."""

_KV_ELEMENT_BYTES = 2


def cells_per_request(context_tokens: int) -> int:
    """KV cells that llama.cpp sets aside for one request."""
    return -(-context_tokens // CELL_PADDING) * CELL_PADDING


def windowed_cells(context_tokens: int, window_tokens: int) -> int:
    """KV cells that llama.cpp sets aside for one request in a layer with a window: that, and one pass.

    Source: llama.cpp, llama-kv-cache-iswa.cpp.
    """
    return cells_per_request(min(cells_per_request(context_tokens), window_tokens + MAX_BATCH_TOKENS))


@dataclass(frozen=True)
class GgufFacts:
    """Sizes from the header of one GGUF file.

    Attributes:
        shape: Widths and counts.
        weights: Sizes of the model's parts.
    """

    shape: GgufShape
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
        """Weights that stay on the host at any level: the embedding.

        Where it is the output layer too, a device gets a copy, or shares it if it is the host.
        """
        return self.weights.embedding_bytes

    @property
    def unshared_host_bytes(self) -> int:
        """What a device that is the host holds beside ``device_weight_bytes`` of all layers."""
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
        shape, cells = self.shape, cells_per_request(context_tokens)
        few_cells = windowed_cells(context_tokens, shape.window_tokens)
        windowed = (gpu_layers - 1) * shape.windowed_layers / shape.layers
        layer_cells = (gpu_layers - 1 - windowed) * cells + windowed * few_cells
        kv_bytes = math.ceil(layer_cells * shape.kv_width * _KV_ELEMENT_BYTES * max_batch)
        widths = 4 * shape.hidden_size + 3 * (shape.intermediate_size or shape.expert_size)
        compute_bytes = 4 * (batch_tokens * widths + max_batch * shape.vocab_size) + 2 * batch_tokens * cells
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
    shape, loaded = read_gguf_shape(path, values, tensors)
    return GgufFacts(shape, weigh(path, loaded, layers=shape.layers))
