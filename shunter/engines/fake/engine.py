"""The public fake: an engine without a model, whose durations are formulas and whose tokens are a hash."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ..base import (
    Capabilities,
    DecodeResult,
    Engine,
    KvResult,
    LoadResult,
    MemoryReport,
    PrefillResult,
    RequestError,
    Timed,
)
from ..headers import read_tensors
from ..ledger import Ledger, Saved, checked_level, decode_steps
from ..memory import check_fits
from ..sleeping import SleepingEngine
from ..weights import weigh
from .costs import FakeClock, FakeVirtualClock, FakeWallClock, LinearDurations

__all__ = ["FakeEngine", "FakeWallClock", "LinearDurations"]

DEFAULT_LAYERS = 9
VOCAB_SIZE = 32_000


@dataclass(frozen=True)
class _Level:
    gpu_layers: int
    total_layers: int
    durations: LinearDurations


@dataclass(frozen=True)
class _Asleep:
    """Who sleeps: as loaded, with which context and batch, at which level of sleep."""

    level: _Level
    context_tokens: int
    max_batch: int
    sleep_level: int


class FakeEngine(SleepingEngine):
    """Obeys the contract of the real engines on a clock of its caller's; of a checkpoint it reads the header.

    Tokens are a hash of the model's name and all tokens before, so that however a request is preempted and
    resumed it goes on alike.

    Args:
        durations: How long everything takes; ``LinearDurations`` of each model's layers if None.
        clock: Advanced by each call; a ``FakeVirtualClock`` of its own if None.
        device: Name of the device it stands for.
        total_layers: Layers of every model, or of some by name. Others have those of their checkpoint, or
            ``DEFAULT_LAYERS`` where there is no such file.
        memory_bytes: The device's budget; None means no limit.
        partial_offload: Whether it accepts gpu_layers other than all.
        kv_bytes_per_token: Size of the keys and values of one token.
    """

    def __init__(
        self,
        durations: LinearDurations | None = None,
        clock: FakeClock | None = None,
        *,
        device: str = "fake",
        total_layers: int | dict[str, int] | None = None,
        memory_bytes: int | None = None,
        partial_offload: bool = True,
        kv_bytes_per_token: int = 10_000,
    ) -> None:
        self.durations = LinearDurations() if durations is None else durations
        self._has_own_durations = durations is not None
        self.clock: FakeClock = FakeVirtualClock() if clock is None else clock
        self.device = device
        self.total_layers = total_layers
        self.memory_bytes = memory_bytes
        self.partial_offload = partial_offload
        self.kv_bytes_per_token = kv_bytes_per_token
        self._ledger: Ledger[_Level, int] = Ledger()
        self._layers_read: dict[str, int] = {}
        self._asleep: dict[str, _Asleep] = {}

    def capabilities(self) -> Capabilities:
        """As Engine says; so are the calls below."""
        return Capabilities("fake", "1", self.device, self.partial_offload, True, ("gguf", "safetensors"))

    def footprint_bytes(  # noqa: D102
        self, model: str, checkpoint: str, gpu_layers: int | None, *, context_tokens: int, max_batch: int
    ) -> int:
        level = self._checked(model, checkpoint, gpu_layers)
        return level.durations.device_bytes(model, level.gpu_layers)

    def load(  # noqa: D102
        self, model: str, checkpoint: str, gpu_layers: int | None, *, context_tokens: int, max_batch: int
    ) -> LoadResult:
        sizes = {"context_tokens": context_tokens, "max_batch": max_batch}
        self._ledger.check_load(model, context_tokens, max_batch)
        level = self._checked(model, checkpoint, gpu_layers)
        sleeper = self._asleep.get(model)
        if sleeper is not None and sleeper != replace(sleeper, level=level, **sizes):
            raise RequestError(f"model {model!r} sleeps as it was loaded otherwise; unload it first")
        kept_bytes = 0 if sleeper is None else level.durations.asleep_bytes(model, level.gpu_layers)
        check_fits(
            model,
            self.device,
            needed_bytes=level.durations.device_bytes(model, level.gpu_layers),
            taken_bytes=self.memory().device_bytes - kept_bytes,
            budget_bytes=self.memory_bytes,
        )
        took_s = level.durations.load_s if sleeper is None else self._waking_s(sleeper)
        spent = self._spend(took_s(model, checkpoint, level.gpu_layers))
        self._asleep.pop(model, None)
        self._ledger.add(model, level, context_tokens, max_batch)
        return LoadResult(spent.start_s, spent.end_s, level.total_layers, self.memory())

    def unload(self, model: str) -> Timed:  # noqa: D102
        if model in self._asleep:
            level = self._asleep.pop(model).level
        else:
            level = self._level(model)
            del self._ledger.residents[model]
        return self._spend(level.durations.unload_s(model, level.gpu_layers))

    def fall_asleep(self, model: str, level: int) -> Timed:  # noqa: D102
        resident = self._ledger.resident(model)
        if level not in (1, 2):
            raise RequestError(f"model {model!r} sleeps at level 1 or 2, not {level}")
        del self._ledger.residents[model]
        loaded = resident.model
        self._asleep[model] = _Asleep(loaded, resident.context_tokens, resident.max_batch, level)
        return self._spend(loaded.durations.fall_asleep_s(model, loaded.gpu_layers, level))

    def prefill(self, model: str, request: str, tokens: list[int]) -> PrefillResult:  # noqa: D102
        resident = self._ledger.check_prefill(model, request, tokens)
        level = resident.model
        spent = self._spend(level.durations.prefill_s(model, level.gpu_layers, len(tokens)))
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
            level = resident.model
            step_s = level.durations.decode_step_s(model, level.gpu_layers, len(held), context_tokens)
            self._spend(step_s)
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
        level = self._level(model)
        spent = self._spend(level.durations.kv_save_s(model, level.gpu_layers, len(tokens) - 1))
        self._ledger.drop(model, request)
        self._ledger.saved[model, request] = Saved(tokens, kv_bytes)
        return KvResult(spent.start_s, spent.end_s, kv_bytes, len(tokens) - 1)

    def restore_kv(self, model: str, request: str) -> KvResult:  # noqa: D102
        resident, saved = self._ledger.check_restore(model, request)
        kv_tokens = len(saved.tokens) - 1
        level = resident.model
        spent = self._spend(level.durations.kv_restore_s(model, level.gpu_layers, kv_tokens))
        self._ledger.drop(model, request)
        resident.requests[request] = saved.tokens
        return KvResult(spent.start_s, spent.end_s, saved.kv, kv_tokens)

    def drop_kv(self, model: str, request: str) -> None:  # noqa: D102
        self._ledger.drop(model, request)

    def memory(self) -> MemoryReport:
        """The formulas' device memory.

        The host holds saved KV, the layers that are not on the device, and at level 1 what sleepers keep.
        """
        on_device = on_host = 0
        for model, resident in self._ledger.residents.items():
            level = resident.model
            here = level.durations.device_bytes(model, level.gpu_layers)
            on_device += here
            on_host += level.durations.device_bytes(model, level.total_layers) - here
        for model, sleeper in self._asleep.items():
            level = sleeper.level
            on_device += level.durations.asleep_bytes(model, level.gpu_layers)
            if sleeper.sleep_level == 1:
                on_host += level.durations.device_bytes(model, level.total_layers)
        return MemoryReport(on_device, on_host + sum(saved.kv for saved in self._ledger.saved.values()))

    def close(self) -> None:  # noqa: D102
        self._ledger, self._asleep = Ledger(), {}

    def _waking_s(self, sleeper: _Asleep) -> Callable[[str, str, int], float]:
        return partial(sleeper.level.durations.wake_s, level=sleeper.sleep_level)

    def _checked(self, model: str, checkpoint: str, gpu_layers: int | None) -> _Level:
        total = self.total_layers.get(model) if isinstance(self.total_layers, dict) else self.total_layers
        total = self._layers_of(checkpoint) if total is None else total
        level = checked_level(gpu_layers, total, partial=self.partial_offload, device=self.device)
        durations = self.durations if self._has_own_durations else LinearDurations(total_layers=total)
        return _Level(level, total, durations)

    def _layers_of(self, checkpoint: str) -> int:
        path = Path(checkpoint)
        if not checkpoint or not path.exists():
            return DEFAULT_LAYERS
        if checkpoint not in self._layers_read:
            self._layers_read[checkpoint] = weigh(path, read_tensors(path)).total_layers
        return self._layers_read[checkpoint]

    def _level(self, model: str) -> _Level:
        return self._ledger.resident(model).model

    def _spend(self, duration_s: float) -> Timed:
        start_s = self.clock.now_s
        self.clock.now_s = start_s + duration_s
        return Timed(start_s, self.clock.now_s)


def _next_token(model: str, tokens: list[int]) -> int:
    digest = blake2b(model.encode() + b"\0" + array("q", tokens).tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % VOCAB_SIZE


def create(device: dict[str, Any]) -> Engine:
    """A fake on the real clock, as the worker serves it."""
    return FakeEngine(clock=FakeWallClock(), device=device["name"], memory_bytes=device["memory_bytes"])
