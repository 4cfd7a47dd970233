"""An engine whose calls are metered: how long they took, and what energy each used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    """Passes every call of an engine on, and reads the sensors around each timed one.

    Attributes:
        engine_s: Time in timed calls, by the engine's own clock: loads, unloads, prefills, decodes, KV.
        readings: Sensor readings of the last timed call, by column of the dataset.
    """

    def __init__(self, engine: Engine, sensors: Sensors) -> None:
        self.sensors = sensors
        self.engine_s = 0.0
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
        self._can = self._can or self._engine.capabilities()
        return self._can

    def footprint_bytes(  # noqa: D102
        self, model: str, checkpoint: str, gpu_layers: int | None, *, context_tokens: int, max_batch: int
    ) -> int:
        return self._engine.footprint_bytes(
            model, checkpoint, gpu_layers, context_tokens=context_tokens, max_batch=max_batch
        )

    def load(  # noqa: D102
        self, model: str, checkpoint: str, gpu_layers: int | None, *, context_tokens: int, max_batch: int
    ) -> LoadResult:
        done = self._timed(
            lambda: self._engine.load(
                model, checkpoint, gpu_layers, context_tokens=context_tokens, max_batch=max_batch
            )
        )
        if not self._is_quiet:
            self.sensors.find_processes()
        return done

    def unload(self, model: str) -> Timed:  # noqa: D102
        return self._timed(lambda: self._engine.unload(model))

    def prefill(self, model: str, request: str, tokens: list[int]) -> PrefillResult:  # noqa: D102
        return self._timed(lambda: self._engine.prefill(model, request, tokens))

    def decode(  # noqa: D102
        self, model: str, limits: dict[str, int], *, max_steps: int, max_s: float | None = None
    ) -> DecodeResult:
        return self._timed(lambda: self._engine.decode(model, limits, max_steps=max_steps, max_s=max_s))

    def save_kv(self, model: str, request: str) -> KvResult:  # noqa: D102
        return self._timed(lambda: self._engine.save_kv(model, request))

    def restore_kv(self, model: str, request: str) -> KvResult:  # noqa: D102
        return self._timed(lambda: self._engine.restore_kv(model, request))

    def drop_kv(self, model: str, request: str) -> None:  # noqa: D102
        self._engine.drop_kv(model, request)

    def memory(self) -> MemoryReport:  # noqa: D102
        return self._engine.memory()

    def drop_page_cache(self, checkpoint: str) -> None:  # noqa: D102
        self._engine.drop_page_cache(checkpoint)

    def close(self) -> None:  # noqa: D102
        self._engine.close()

    def _timed(self, call: Callable[[], _T]) -> _T:
        before = {} if self._is_quiet else self.sensors.energy()
        done = call()
        self.engine_s += done.duration_s
        self.readings = UNREAD if self._is_quiet else self.sensors.after(before)
        return done
