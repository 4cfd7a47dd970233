"""How many bytes the parts of a model's weights have: the one rule of the catalogue and of all engines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .headers import HeaderError, TensorInfo

__all__ = ["weigh"]

_LAYER = re.compile(r"^(?:blk|(?:.+\.)?(?:layers|h))\.(\d+)\.")
_EMBEDDING = ("token_embd.weight", "model.embed_tokens.weight")
_HEAD = ("output.weight", "lm_head.weight")


@dataclass(frozen=True)
class Weights:
    """Sizes of a model's parts.

    Attributes:
        layer_bytes: Size of each transformer layer.
        embedding_bytes: Size of the token embedding.
        head_bytes: Size of the output matrix; 0 where the embedding is that too.
        rest_bytes: Size of all other parts, such as the last norm.
    """

    layer_bytes: tuple[int, ...]
    embedding_bytes: int
    head_bytes: int
    rest_bytes: int

    @property
    def total_layers(self) -> int:
        """Transformer layers plus the output layer, as llama.cpp counts gpu_layers."""
        return len(self.layer_bytes) + 1

    @property
    def total_bytes(self) -> int:
        """All of them, each once."""
        return sum(self.layer_bytes) + self.embedding_bytes + self.head_bytes + self.rest_bytes


def weigh(
    path: Path,
    tensors: Mapping[str, TensorInfo],
    *,
    layers: int | None = None,
    is_tied: bool = False,
    element_bytes: int | None = None,
) -> Weights:
    """Adds the tensors of a checkpoint up by the parts of the model that hold them.

    Args:
        path: The checkpoint; named in errors.
        tensors: As ``read_tensors`` gives them.
        layers: Transformer layers that the checkpoint says it has; None if it was not asked.
        is_tied: Whether an output matrix beside the embedding is left where it is, unused.
        element_bytes: Size of each weight once it is loaded; None: as it is stored.

    Raises:
        HeaderError: It holds the tensors of other layers than it says.
    """
    parts: Counter[str] = Counter()
    per_layer: Counter[int] = Counter()
    for name, info in tensors.items():
        nbytes = info.nbytes if element_bytes is None else info.elements * element_bytes
        if match := _LAYER.match(name):
            per_layer[int(match[1])] += nbytes
        elif not (is_tied and name in _HEAD):
            parts["embedding" if name in _EMBEDDING else "head" if name in _HEAD else "rest"] += nbytes
    # A count first: a damaged header may say two thousand million layers.
    if layers is not None and (len(per_layer) != layers or max(per_layer, default=-1) != layers - 1):
        raise HeaderError(path, f"it says {layers} layers and holds the tensors of {len(per_layer)}")
    each = tuple(per_layer[index] for index in sorted(per_layer))
    return Weights(each, parts["embedding"], parts["head"], parts["rest"])
