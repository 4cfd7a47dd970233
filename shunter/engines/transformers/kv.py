"""Keys and values of all requests of one torch model: one slot each, allocated when the model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

SavedKv = list[tuple[torch.Tensor, torch.Tensor]]
"""Per layer, keys and values of one request in host memory, each of shape (kv_heads, tokens, head_dim)."""


@dataclass(frozen=True)
class KvShape:
    """Sizes of the key and value tensors of a model."""

    layers: int
    kv_heads: int
    head_dim: int

    def bytes_per_token(self, dtype: torch.dtype) -> int:
        """Bytes of keys and values that one token adds over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * int(dtype.itemsize)


class KvSlots:
    """Slots for ``max_batch`` requests of up to ``context_tokens`` tokens.

    Args:
        shape: Sizes of the model's key and value tensors.
        max_batch: Slots.
        context_tokens: Tokens per slot.
        dtype: Type of the tensors' elements.
        device: Where the attention is computed.
    """

    def __init__(
        self, shape: KvShape, max_batch: int, context_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        size = (2, max_batch, shape.kv_heads, context_tokens, shape.head_dim)
        self.shape = shape
        self.layers = [torch.zeros(size, dtype=dtype, device=device) for _ in range(shape.layers)]
        self.device = device
        self._free = list(range(max_batch))

    def take(self) -> int:
        """Claims the lowest free slot: a batch whose slots lie side by side is read without copying."""
        self._free.sort()
        return self._free.pop(0)

    def give(self, slot: int) -> None:
        """Frees a slot."""
        self._free.append(slot)

    def fill(self, slot: int, kv: SavedKv) -> None:
        """Copies a request's keys and values into its slot.

        Raises:
            ValueError: They have another shape than the slots.
        """
        if len(kv) != len(self.layers) or kv[0][0].shape[::2] != (self.shape.kv_heads, self.shape.head_dim):
            raise ValueError(f"the model's keys have shape {tuple(kv[0][0].shape)}, not that of {self.shape}")
        for layer, (keys, values) in zip(self.layers, kv, strict=True):
            layer[0, slot, :, : keys.shape[1]] = keys
            layer[1, slot, :, : keys.shape[1]] = values

    def copy_out(self, slot: int, tokens: int) -> SavedKv:
        """Copies the first tokens of a slot to host memory."""
        held = [layer[:, slot, :, :tokens].to("cpu", copy=True).contiguous() for layer in self.layers]
        return [(keys, values) for keys, values in held]


class StepCache:
    """What a model sees as its cache during one decode step: appends to each slot, returns the batch's part.

    Implements as much of ``transformers.Cache`` as attention layers call when mask and positions are given.

    Args:
        slots: All slots.
        rows: Slots of the batch, ascending.
        lengths: Tokens that each holds before the step.
    """

    def __init__(self, slots: KvSlots, rows: list[int], lengths: list[int]) -> None:
        self.slots = slots
        self.span = max(lengths) + 1
        self.rows = torch.tensor(rows, device=slots.device)
        self.lengths = torch.tensor(lengths, device=slots.device)
        side_by_side = rows[-1] - rows[0] + 1 == len(rows)
        self._read: Any = slice(rows[0], rows[-1] + 1) if side_by_side else self.rows

    def mask(self, dtype: torch.dtype) -> torch.Tensor:
        """Additive attention mask of shape (batch, 1, 1, span)."""
        seen = torch.arange(self.span, device=self.slots.device)[None] <= self.lengths[:, None]
        mask = torch.zeros(seen.shape, dtype=dtype, device=self.slots.device)
        return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None, None]

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends one token's keys and values per row, each of shape (batch, kv_heads, 1, head_dim)."""
        held_keys, held_values = self.slots.layers[layer]
        held_keys[self.rows, :, self.lengths] = keys[:, :, 0]
        held_values[self.rows, :, self.lengths] = values[:, :, 0]
        return held_keys[self._read, :, : self.span], held_values[self._read, :, : self.span]

    def get_seq_length(self, layer: int = 0) -> int:
        """Tokens before the step, of the longest."""
        return self.span - 1
