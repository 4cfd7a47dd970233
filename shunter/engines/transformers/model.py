"""One resident torch model: prefill of one request, and decode steps of many at once."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import DynamicCache

from ..base import CheckpointError, RequestError
from .kv import KvSlots, SavedKv, StepCache


class TorchModel:
    """A loaded model with its slots.

    Args:
        net: The transformers model.
        slots: KV slots for its requests.
        device_bytes: What it was predicted to take of the device.
    """

    def __init__(self, net: Any, slots: KvSlots, device_bytes: int) -> None:
        self.net = net
        self.slots = slots
        self.device_bytes = device_bytes
        self.slot_of: dict[str, int] = {}
        # transformers 5.24 renamed it, model by model.
        parameters = inspect.signature(net.forward).parameters
        self._cache_argument = "cache" if "cache" in parameters else "past_key_values"

    def prefill(self, request: str, tokens: list[int]) -> int:
        """Processes a prompt into a free slot and returns the first token.

        Raises:
            RequestError: A token is not in the vocabulary.
            CheckpointError: The model's keys and values do not have the shape that its configuration says.
        """
        vocab_size = self.net.get_input_embeddings().num_embeddings
        if not 0 <= min(tokens) <= max(tokens) < vocab_size:
            # On a GPU such a token would break the process for good.
            raise RequestError(f"tokens of request {request!r} must be from 0 to {vocab_size - 1}")
        device = self.slots.device
        cache = DynamicCache(config=self.net.config)
        with torch.inference_mode():
            ids = torch.tensor([tokens], device=device)
            logits = self._forward(cache, input_ids=ids)
            self.enter(request, [(layer.keys[0], layer.values[0]) for layer in cache.layers])
            return int(logits[0, -1].argmax())

    def step(self, last_tokens: dict[str, int], lengths: dict[str, int]) -> list[int]:
        """Next token of each request, given its last one and the tokens that its slot holds."""
        order = sorted(last_tokens, key=self.slot_of.__getitem__)
        with torch.inference_mode():
            cache = StepCache(self.slots, [self.slot_of[r] for r in order], [lengths[r] for r in order])
            logits = self._forward(
                cache,
                input_ids=torch.tensor([[last_tokens[r]] for r in order], device=self.slots.device),
                attention_mask=cache.mask(self.net.dtype),
                position_ids=cache.lengths[:, None],
            )
            found = dict(zip(order, logits[:, -1].argmax(-1).tolist(), strict=True))
        return [found[request] for request in last_tokens]

    def _forward(self, cache: Any, **inputs: torch.Tensor) -> torch.Tensor:
        """Logits of each row's last token, ``[rows, 1, vocab]``; the cache is filled."""
        inputs[self._cache_argument] = cache
        logits: torch.Tensor = self.net(**inputs, use_cache=True, logits_to_keep=1).logits
        return logits

    def enter(self, request: str, kv: SavedKv) -> None:
        """Puts keys and values into a free slot; raises CheckpointError as ``prefill`` does."""
        slot = self.slots.take()
        try:
            self.slots.fill(slot, kv)
        except ValueError as error:
            self.slots.give(slot)
            raise CheckpointError(str(error)) from error
        self.slot_of[request] = slot

    def weight_bytes(self, device: torch.device) -> int:
        """Bytes of the weights that stay on a device; layers that are copied there at each use do not."""
        return sum(int(part.nbytes) for part in self.net.parameters() if part.device.type == device.type)

    def copy_out(self, request: str, tokens: int) -> SavedKv:
        """Copies a request's first tokens to host memory."""
        return self.slots.copy_out(self.slot_of[request], tokens)

    def leave(self, request: str) -> None:
        """Frees a request's slot; an unknown one is no error."""
        slot = self.slot_of.pop(request, None)
        if slot is not None:
            self.slots.give(slot)
