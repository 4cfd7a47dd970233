"""Which request sits in which slot of a loaded model."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ..base import EngineError
from .model import LlamaModel


class LlamaSlots:
    """Requests of one resident by name, each in one of its slots.

    Attributes:
        slot_of: Slot of each live request.
    """

    def __init__(self, model: LlamaModel, count: int) -> None:
        self.model = model
        self.slot_of: dict[str, int] = {}
        self._count = count
        self._move_s = 0.0
        self._loss_s = 0.0
        self._lost_s = 0.0

    def prefill(self, request: str, tokens: list[int]) -> int:
        """Runs a prompt in a free slot and returns the likeliest next token."""
        slot = self._free_slot()
        try:
            token = self.model.prefill(slot, tokens)
        except EngineError:
            self.model.clear(slot)
            raise
        self.slot_of[request] = slot
        return token

    def step(self, batch: dict[str, list[int]]) -> list[int]:
        """Feeds the last of each request's tokens; the next ones come in the order of the batch."""
        if self._passes(batch) > 1:
            self._close_gaps(list(batch))
        order = sorted(batch, key=self.slot_of.__getitem__)
        start_s = time.monotonic()
        new = self.model.step(
            [self.slot_of[request] for request in order],
            [batch[request][-1] for request in order],
            [len(batch[request]) - 1 for request in order],
        )
        self._count_loss(self._passes(batch), time.monotonic() - start_s)
        by_request = dict(zip(order, new, strict=True))
        return [by_request[request] for request in batch]

    def take(self, request: str) -> npt.NDArray[np.uint8]:
        """Copies a request's KV to host memory and frees its slot."""
        data = self.model.copy_out(self.slot_of[request])
        self.drop(request)
        return data

    def put(self, request: str, data: npt.NDArray[np.uint8]) -> None:
        """Brings a taken request back, into any free slot."""
        slot = self._free_slot()
        self.model.copy_in(slot, data)
        self.slot_of[request] = slot

    def drop(self, request: str) -> None:
        """Frees a request's slot; an unknown request is no error."""
        slot = self.slot_of.pop(request, None)
        if slot is not None:
            self.model.clear(slot)

    def _free_slot(self) -> int:
        return min(set(range(self._count)).difference(self.slot_of.values()))

    def _passes(self, batch: dict[str, list[int]]) -> int:
        """How often a step reads all weights: llama.cpp runs each unbroken row of slots by itself."""
        slots = sorted(self.slot_of[request] for request in batch)
        return 1 + sum(b - a > 1 for a, b in pairwise(slots))

    def _close_gaps(self, batch: list[str]) -> None:
        """Brings a batch's slots together once gaps will have cost what closing them does.

        How long a request's move takes, and how much a broken step loses, is as it was last time; the first
        time, both are unknown and taken as nothing.
        """
        moves = self._moves(batch)
        if self._lost_s + self._loss_s >= self._move_s * len(moves):
            start_s = time.monotonic()
            self._move(moves)
            self._move_s = (time.monotonic() - start_s) / len(moves)
            self._lost_s = 0.0

    def _count_loss(self, passes: int, step_s: float) -> None:
        if passes == 1:
            self._lost_s = 0.0
        else:
            self._loss_s = step_s * (passes - 1) / passes
            self._lost_s += self._loss_s

    def _moves(self, batch: list[str]) -> dict[str, int]:
        """New slots of the requests that move so that the batch sits in one row of slots."""
        slots = {self.slot_of[request] for request in batch}
        rows = [range(first, first + len(batch)) for first in range(self._count - len(batch) + 1)]
        row = max(rows, key=lambda r: len(slots.intersection(r)))
        taken = {slot: request for request, slot in self.slot_of.items()}
        moves = {}
        outside = [request for request in batch if self.slot_of[request] not in row]
        for request, slot in zip(outside, sorted(set(row) - slots), strict=True):
            moves[request] = slot
            if slot in taken:
                moves[taken[slot]] = self.slot_of[request]
        return moves

    def _move(self, moves: dict[str, int]) -> None:
        copies = {request: self.take(request) for request in moves}
        for request, data in copies.items():
            self.model.copy_in(moves[request], data)
            self.slot_of[request] = moves[request]
