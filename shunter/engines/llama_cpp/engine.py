"""llama.cpp by llama-cpp-python's low-level API, with real gpu_layers on CUDA and on the loopback device."""

from __future__ import annotations

import importlib.metadata
import os
import time
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from ..base import (
    Capabilities,
    DecodeResult,
    Engine,
    EngineError,
    KvResult,
    LoadResult,
    MemoryReport,
    PrefillResult,
    RequestError,
    Timed,
)
from ..ledger import Ledger, Saved, checked_level, decode_steps
from ..memory import check_fits, check_given_back, resident_bytes, trim_heap
from ..page_cache import drop_cached
from .devices import open_device
from .gguf import MAX_BATCH_TOKENS, read_facts
from .model import LlamaModel
from .native import check_version, settle_heap, silence
from .slots import LlamaSlots

_CHECKED_BYTES = 4_000_000


class LlamaCppEngine(Engine):
    """llama.cpp on one device.

    A device of kind ``loopback`` computes in a process of its own with the threads it names, while this
    process keeps to one; on ``cpu`` this process is the device, and partial offload is refused.

    Checkpoints are read into buffers, or mapped where the device's name says ``mmap``. A load ends when the
    model is ready to run either way: mapped pages that stay on the host are all touched within it, so that no
    disk is read by the first forward pass. What stays mapped counts as host memory.

    Args:
        device: Plain dict of DeviceSpec: name, kind, index, threads, memory_bytes, cores,
            share_percent, mmap.

    Raises:
        EngineUnavailableError: llama-cpp-python is too old, or its build does not support the device.
    """

    def __init__(self, device: dict[str, Any]) -> None:
        check_version()
        silence()
        settle_heap()
        self._name: str = device["name"]
        self._budget_bytes: int | None = device["memory_bytes"]
        self._threads = _host_threads(device)
        self._mmap: bool = device["mmap"]
        self._device = open_device(device)
        self._partial = self._device.pointer is not None
        self._ledger: Ledger[LlamaSlots, npt.NDArray[np.uint8]] = Ledger()
        self._planned_bytes: dict[str, int] = {}
        self._weight_bytes: dict[str, int] = {}
        self._closed = False

    def capabilities(self) -> Capabilities:
        """As Engine says; so are the calls below."""
        version = importlib.metadata.version("llama-cpp-python")
        versions = {"llama.cpp": llama_cpp.llama_version().decode(), "numpy": np.__version__}
        return Capabilities("llama-cpp", version, self._name, self._partial, True, ("gguf",), versions)

    def footprint_bytes(  # noqa: D102
        self, model: str, checkpoint: str, gpu_layers: int | None, *, context_tokens: int, max_batch: int
    ) -> int:
        facts = read_facts(checkpoint)
        level = checked_level(gpu_layers, facts.total_layers, partial=self._partial, device=self._name)
        planned_bytes = facts.device_bytes(level, context_tokens, max_batch, MAX_BATCH_TOKENS)
        return planned_bytes + (0 if self._partial else facts.unshared_host_bytes)

    def load(  # noqa: D102
        self, model: str, checkpoint: str, gpu_layers: int | None, *, context_tokens: int, max_batch: int
    ) -> LoadResult:
        self._ledger.check_load(model, context_tokens, max_batch)
        planned_bytes = self.footprint_bytes(
            model, checkpoint, gpu_layers, context_tokens=context_tokens, max_batch=max_batch
        )
        check_fits(
            model,
            self._name,
            needed_bytes=planned_bytes,
            taken_bytes=sum(self._planned_bytes.values()),
            budget_bytes=self._budget_bytes,
        )
        facts = read_facts(checkpoint)
        level = checked_level(gpu_layers, facts.total_layers, partial=self._partial, device=self._name)
        before_bytes = self._device.used_bytes()
        start_s = time.monotonic()
        loaded = None
        try:
            loaded = LlamaModel(
                checkpoint,
                device=self._device.pointer,
                gpu_layers=level if self._partial else 0,
                context_tokens=context_tokens,
                max_batch=max_batch,
                threads=self._threads,
                mmap=self._mmap,
            )
            self._device.settle()
            end_s = time.monotonic()
            self._check_growth(before_bytes, facts.device_weight_bytes(level))
        except EngineError:
            if loaded is not None:
                loaded.close()
            self._trim()
            raise
        self._trim()
        self._ledger.add(model, LlamaSlots(loaded, max_batch), context_tokens, max_batch)
        self._planned_bytes[model] = planned_bytes
        host_bytes = 0 if self._partial else facts.unshared_host_bytes
        self._weight_bytes[model] = facts.device_weight_bytes(level) + host_bytes
        return LoadResult(start_s, end_s, facts.total_layers, self.memory())

    def _trim(self) -> None:
        self._device.trim()
        trim_heap()

    def _check_growth(self, before_bytes: int, expected_bytes: int) -> None:
        # A build that silently keeps layers on the host would make every measurement plausible and wrong.
        # Below a few MB, noise of the device's own memory could hide it; where this process is the device,
        # there is no other place.
        if not self._partial or expected_bytes < _CHECKED_BYTES:
            return
        grown_bytes = self._device.used_bytes() - before_bytes
        if grown_bytes < expected_bytes / 2:
            raise EngineError(
                f"gpu_layers were not honoured: {self._name} grew by {grown_bytes / 1e6:.1f} MB, "
                f"not by the {expected_bytes / 1e6:.1f} MB of its layers"
            )

    def unload(self, model: str) -> Timed:  # noqa: D102
        loaded = self._ledger.resident(model).model
        self._device.check()
        before_bytes = self._device.used_bytes()
        start_s = time.monotonic()
        del self._ledger.residents[model], self._planned_bytes[model]
        loaded.model.close()
        self._trim()
        end_s = time.monotonic()
        freed_bytes = before_bytes - self._device.used_bytes()
        weight_bytes = self._weight_bytes.pop(model)
        check_given_back(model, self._name, weight_bytes=weight_bytes, freed_bytes=freed_bytes)
        return Timed(start_s, end_s)

    def prefill(self, model: str, request: str, tokens: list[int]) -> PrefillResult:  # noqa: D102
        resident = self._ledger.check_prefill(model, request, tokens)
        _check_tokens(tokens, resident.model.model.vocab_size)
        self._device.check()
        start_s = time.monotonic()
        token = resident.model.prefill(request, tokens)
        end_s = time.monotonic()
        resident.requests[request] = [*tokens, token]
        return PrefillResult(start_s, end_s, token, len(tokens))

    def decode(  # noqa: D102
        self, model: str, limits: dict[str, int], *, max_steps: int, max_s: float | None = None
    ) -> DecodeResult:
        resident = self._ledger.check_decode(model, limits, max_steps)
        requests = resident.requests
        self._device.check()
        return decode_steps(
            requests,
            limits,
            max_steps=max_steps,
            max_s=max_s,
            now_s=time.monotonic,
            step=lambda active: resident.model.step({request: requests[request] for request in active}),
        )

    def save_kv(self, model: str, request: str) -> KvResult:  # noqa: D102
        tokens = self._ledger.live(model, request)
        resident = self._ledger.resident(model)
        self._device.check()
        start_s = time.monotonic()
        data = resident.model.take(request)
        end_s = time.monotonic()
        self._ledger.saved[model, request] = Saved(resident.requests.pop(request), data)
        return KvResult(start_s, end_s, data.nbytes, len(tokens) - 1)

    def restore_kv(self, model: str, request: str) -> KvResult:  # noqa: D102
        resident, saved = self._ledger.check_restore(model, request)
        self._device.check()
        start_s = time.monotonic()
        resident.model.put(request, saved.kv)
        self._device.settle()
        end_s = time.monotonic()
        resident.requests[request] = saved.tokens
        kv_bytes = saved.kv.nbytes
        del self._ledger.saved[model, request], saved
        trim_heap()
        return KvResult(start_s, end_s, kv_bytes, len(resident.requests[request]) - 1)

    def drop_kv(self, model: str, request: str) -> None:  # noqa: D102
        if model in self._ledger.residents:
            self._device.check()
            self._ledger.resident(model).model.drop(request)
        self._ledger.drop(model, request)
        trim_heap()

    def memory(self) -> MemoryReport:  # noqa: D102
        host_bytes = resident_bytes()
        on_host = self._device.pointer is None
        return MemoryReport(host_bytes if on_host else self._device.used_bytes(), host_bytes)

    def drop_page_cache(self, checkpoint: str) -> None:  # noqa: D102
        drop_cached(checkpoint)

    def close(self) -> None:  # noqa: D102
        if self._closed:
            return
        self._closed = True
        # Models first: llama.cpp aborts this process if the device is gone when it frees what is there.
        for resident in self._ledger.residents.values():
            if not self._device.lost:
                resident.model.model.close()
        self._ledger = Ledger()
        self._planned_bytes.clear()
        self._weight_bytes.clear()
        self._device.close()
        trim_heap()


def create(device: dict[str, Any]) -> Engine:
    """Builds the engine for a plain dict of DeviceSpec; raises as ``LlamaCppEngine``."""
    return LlamaCppEngine(device)


def _host_threads(device: dict[str, Any]) -> int:
    if device["kind"] == "loopback":
        return 1
    if device["threads"] is not None:
        return int(device["threads"])
    # The second hardware thread of a core only gets in the first one's way in matrix products.
    return max(1, len(os.sched_getaffinity(0)) // 2)


def _check_tokens(tokens: list[int], vocab_size: int) -> None:
    if min(tokens) < 0 or max(tokens) >= vocab_size:
        raise RequestError(
            f"tokens must be 0 to {vocab_size - 1}. Got {min(tokens)} to {max(tokens)} instead."
        )
