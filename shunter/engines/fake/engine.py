"""The public fake: an engine without a model, whose durations are formulas and whose tokens are a hash."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from ..base import (
    Capabilities,
    DecodeResult,
    DeviceMemoryError,
    Engine,
    KvResult,
    LoadResult,
    MemoryReport,
    PrefillResult,
    Timed,
)
from ..ledger import Ledger, Saved, checked_level, decode_steps
from .costs import Clock, Durations, LinearDurations, VirtualClock, WallClock

__all__ = [
    "Clock",
    "Durations",
    "FakeEngine",
    "LinearDurations",
    "VirtualClock",
    "WallClock",
    "create",
]

DEFAULT_LAYERS = 9
VOCAB_SIZE = 32_000


@dataclass(frozen=True)
class _Level:
    gpu_layers: int
    total_layers: int


class FakeEngine(Engine):
    """Obeys the contract of the real engines on a clock of its caller's, without reading a checkpoint.

    Tokens are a hash of the model's name and all tokens before, so that however a request is preempted and
    resumed it goes on alike.

    Args:
        durations: How long everything takes; ``LinearDurations()`` if None.
        clock: Advanced by each call; a ``VirtualClock`` of its own if None.
        device: Name of the device it stands for.
        total_layers: Layers of every model, or of some by name; the others have ``DEFAULT_LAYERS``.
        memory_bytes: The device's budget; None means no limit.
        partial_offload: Whether it accepts gpu_layers other than all.
        kv_bytes_per_token: Size of the keys and values of one token.
    """

    def __init__(
        self,
        durations: Durations | None = None,
        clock: Clock | None = None,
        *,
        device: str = "fake",
        total_layers: int | dict[str, int] = DEFAULT_LAYERS,
        memory_bytes: int | None = None,
        partial_offload: bool = True,
        kv_bytes_per_token: int = 10_000,
    ) -> None:
        self.durations: Durations = LinearDurations() if durations is None else durations
        self.clock: Clock = VirtualClock() if clock is None else clock
        self.device = device
        self.total_layers = total_layers
        self.memory_bytes = memory_bytes
        self.partial_offload = partial_offload
        self.kv_bytes_per_token = kv_bytes_per_token
        self._ledger: Ledger[_Level, int] = Ledger()

    def capabilities(self) -> Capabilities:
        """As Engine says; so are the calls below."""
        return Capabilities("fake", "1", self.device, self.partial_offload, True, ("gguf", "safetensors"))

    def footprint_bytes(  # noqa: D102
        self, model: str, checkpoint: str, gpu_layers: int | None, *, context_tokens: int, max_batch: int
    ) -> int:
        return self.durations.device_bytes(model, self._checked(model, gpu_layers).gpu_layers)

    def load(  # noqa: D102
        self, model: str, checkpoint: str, gpu_layers: int | None, *, context_tokens: int, max_batch: int
    ) -> LoadResult:
        self._ledger.check_load(model, context_tokens, max_batch)
        level = self._checked(model, gpu_layers)
        needed = self.memory().device_bytes + self.durations.device_bytes(model, level.gpu_layers)
        if self.memory_bytes is not None and needed > self.memory_bytes:
            raise DeviceMemoryError(
                f"{self.device} has {self.memory_bytes} bytes; with {model!r} it would need {needed}"
            )
        spent = self._spend(self.durations.load_s(model, checkpoint, level.gpu_layers))
        self._ledger.add(model, level, context_tokens, max_batch)
        return LoadResult(spent.start_s, spent.end_s, level.total_layers, self.memory())

    def unload(self, model: str) -> Timed:  # noqa: D102
        level = self._level(model)
        del self._ledger.residents[model]
        return self._spend(self.durations.unload_s(model, level))

    def prefill(self, model: str, request: str, tokens: list[int]) -> PrefillResult:  # noqa: D102
        resident = self._ledger.check_prefill(model, request, tokens)
        spent = self._spend(self.durations.prefill_s(model, resident.model.gpu_layers, len(tokens)))
        token = _next_token(model, tokens)
        resident.requests[request] = [*tokens, token]
        return PrefillResult(spent.start_s, spent.end_s, token, len(tokens))

    def decode(  # noqa: D102
        self, model: str, limits: dict[str, int], *, max_steps: int, max_s: float | None = None
    ) -> DecodeResult:
        resident = self._ledger.check_decode(model, limits, max_steps)

        def step(active: list[str]) -> list[int]:
            held = [resident.requests[request] for request in active]
            context_tokens = sum(map(len, held)) / len(held)
            level = resident.model.gpu_layers
            self._spend(self.durations.decode_step_s(model, level, len(held), context_tokens))
            return [_next_token(model, tokens) for tokens in held]

        return decode_steps(
            resident.requests,
            limits,
            max_steps=max_steps,
            max_s=max_s,
            now_s=lambda: self.clock.now_s,
            step=step,
        )

    def save_kv(self, model: str, request: str) -> KvResult:  # noqa: D102
        tokens = self._ledger.live(model, request)
        kv_bytes = (len(tokens) - 1) * self.kv_bytes_per_token
        spent = self._spend(self.durations.kv_save_s(model, self._level(model), len(tokens) - 1))
        self._ledger.drop(model, request)
        self._ledger.saved[model, request] = Saved(tokens, kv_bytes)
        return KvResult(spent.start_s, spent.end_s, kv_bytes, len(tokens) - 1)

    def restore_kv(self, model: str, request: str) -> KvResult:  # noqa: D102
        resident, saved = self._ledger.check_restore(model, request)
        kv_tokens = len(saved.tokens) - 1
        spent = self._spend(self.durations.kv_restore_s(model, resident.model.gpu_layers, kv_tokens))
        self._ledger.drop(model, request)
        resident.requests[request] = saved.tokens
        return KvResult(spent.start_s, spent.end_s, saved.kv, kv_tokens)

    def drop_kv(self, model: str, request: str) -> None:  # noqa: D102
        self._ledger.drop(model, request)

    def memory(self) -> MemoryReport:
        """The formulas' device memory; the host holds saved KV and the layers that are not on the device."""
        on_device = on_host = 0
        for model, resident in self._ledger.residents.items():
            here = self.durations.device_bytes(model, resident.model.gpu_layers)
            on_device += here
            on_host += self.durations.device_bytes(model, resident.model.total_layers) - here
        return MemoryReport(on_device, on_host + sum(saved.kv for saved in self._ledger.saved.values()))

    def close(self) -> None:  # noqa: D102
        self._ledger = Ledger()

    def _checked(self, model: str, gpu_layers: int | None) -> _Level:
        total = (
            self.total_layers
            if isinstance(self.total_layers, int)
            else self.total_layers.get(model, DEFAULT_LAYERS)
        )
        level = checked_level(gpu_layers, total, partial=self.partial_offload, device=self.device)
        return _Level(level, total)

    def _level(self, model: str) -> int:
        return self._ledger.resident(model).model.gpu_layers

    def _spend(self, duration_s: float) -> Timed:
        start_s = self.clock.now_s
        self.clock.now_s = start_s + duration_s
        return Timed(start_s, self.clock.now_s)


def _next_token(model: str, tokens: list[int]) -> int:
    digest = blake2b(model.encode() + b"\0" + array("q", tokens).tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % VOCAB_SIZE


def create(device: dict[str, Any]) -> Engine:
    """A fake on the real clock, as the worker serves it."""
    return FakeEngine(clock=WallClock(), device=device["name"], memory_bytes=device["memory_bytes"])
