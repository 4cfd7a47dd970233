"""An engine whose calls are metered: how long they took, and what energy each used."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from shunter.engines.base import (
    Capabilities,
    DecodeResult,
    Engine,
    KvResult,
    LoadResult,
    MemoryReport,
    PrefillResult,
    Timed,
)
from shunter.profiling.meters.conditions import Sensors
from shunter.profiling.meters.energy import Gpu

__all__ = ["MeteredEngine"]

UNREAD = {"cpu_energy_j": float("nan"), "device_energy_j": float("nan"), **Gpu.UNKNOWN}

_T = TypeVar("_T", bound=Timed)


class MeteredEngine(Engine):
    """Passes every call on.

    Args:
        engine: The engine whose calls these are.
        sensors: Read around each timed call.

    Attributes:
        engine_s: Time in timed calls, by the engine's own clock: loads, unloads, prefills, decodes, KV.
        other_s: Time in all other calls, such as memory reports, as this process saw it.
        readings: Sensor readings of the last timed call, by column of the dataset.
    """

    def __init__(self, engine: Engine, sensors: Sensors) -> None:
        self.sensors = sensors
        self.engine_s = 0.0
        self.other_s = 0.0
        self.readings: dict[str, float] = {}
        self._engine = engine
        self._can: Capabilities | None = None
        self._is_quiet = False

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """In it no sensor is read, so that between calls no time is lost: their readings are missing."""
        self._is_quiet = True
        try:
            yield
        finally:
            self._is_quiet = False
            self.sensors.find_processes()

    def capabilities(self) -> Capabilities:
        """As Engine says; so are the calls below. Asked once: they do not change."""
        with self._other():
            self._can = self._can or self._engine.capabilities()
            return self._can

    def footprint_bytes(  # noqa: D102
        self, model: str, checkpoint: str, gpu_layers: int | None, *, context_tokens: int, max_batch: int
    ) -> int:
        with self._other():
            return self._engine.footprint_bytes(
                model, checkpoint, gpu_layers, context_tokens=context_tokens, max_batch=max_batch
            )

    def load(  # noqa: D102
        self, model: str, checkpoint: str, gpu_layers: int | None, *, context_tokens: int, max_batch: int
    ) -> LoadResult:
        before = self._energy()
        done = self._engine.load(
            model, checkpoint, gpu_layers, context_tokens=context_tokens, max_batch=max_batch
        )
        if not self._is_quiet:
            self.sensors.find_processes()
        return self._timed(done, before)

    def unload(self, model: str) -> Timed:  # noqa: D102
        before = self._energy()
        return self._timed(self._engine.unload(model), before)

    def prefill(self, model: str, request: str, tokens: list[int]) -> PrefillResult:  # noqa: D102
        before = self._energy()
        return self._timed(self._engine.prefill(model, request, tokens), before)

    def decode(  # noqa: D102
        self, model: str, limits: dict[str, int], *, max_steps: int, max_s: float | None = None
    ) -> DecodeResult:
        before = self._energy()
        return self._timed(self._engine.decode(model, limits, max_steps=max_steps, max_s=max_s), before)

    def save_kv(self, model: str, request: str) -> KvResult:  # noqa: D102
        before = self._energy()
        return self._timed(self._engine.save_kv(model, request), before)

    def restore_kv(self, model: str, request: str) -> KvResult:  # noqa: D102
        before = self._energy()
        return self._timed(self._engine.restore_kv(model, request), before)

    def drop_kv(self, model: str, request: str) -> None:  # noqa: D102
        with self._other():
            self._engine.drop_kv(model, request)

    def memory(self) -> MemoryReport:  # noqa: D102
        with self._other():
            return self._engine.memory()

    def drop_page_cache(self, checkpoint: str) -> None:  # noqa: D102
        with self._other():
            self._engine.drop_page_cache(checkpoint)

    def close(self) -> None:  # noqa: D102
        self._engine.close()

    def _energy(self) -> dict[str, float]:
        return {} if self._is_quiet else self.sensors.energy()

    def _timed(self, done: _T, before: dict[str, float]) -> _T:
        self.engine_s += done.duration_s
        self.readings = UNREAD if self._is_quiet else self.sensors.after(before)
        return done

    @contextmanager
    def _other(self) -> Iterator[None]:
        start_s = time.monotonic()
        yield
        self.other_s += time.monotonic() - start_s
