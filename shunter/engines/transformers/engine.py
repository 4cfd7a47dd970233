"""Hugging Face transformers on torch: any number of resident models on the CPU or one CUDA GPU.

Decoding is continuous batching: one forward pass per step over all requests of the batch, whatever their
lengths. Weights stay in the checkpoint's own type.

In float32 a request's tokens do not depend on its company or on whether it was recomputed. In bfloat16 and
float16 they can: rounding follows the shape of the batch, and where two tokens are almost tied the other one
may win. Saved and restored keys and values are the same bits in every type.
"""

from __future__ import annotations

import gc
import importlib.metadata
import sys
import tempfile
import time
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from ..base import (
    Capabilities,
    DecodeResult,
    Engine,
    EngineUnavailableError,
    KvResult,
    LoadResult,
    MemoryReport,
    PrefillResult,
    Timed,
)
from ..ledger import Ledger, Saved, checked_level, decode_steps
from ..memory import check_fits, check_given_back, resident_bytes
from ..page_cache import drop_cached
from .checkpoint import (
    kv_shape,
    loaded_dtype,
    loaded_weights,
    place,
    read_config,
    read_model,
    weight_files,
    weights_on_device,
)
from .kv import KvSlots, SavedKv
from .memory import free_bytes, give_back, memory_errors
from .model import TorchModel

_FAMILIES = ("llama", "qwen2", "qwen3")
_TINY = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "vocab_size": 8,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 64,
}


class TransformersEngine(Engine):
    """The engine.

    On the CPU a model is resident as a whole. On a GPU any gpu_layers are honoured where accelerate is
    installed: the first layers stay on the GPU and the rest are copied there at each use; with 0 the model
    is computed on the host.

    Args:
        name: Name of the device.
        device: Where torch computes.
        memory_bytes: Budget for weights and KV on the device; None means what is free there.
    """

    def __init__(self, name: str, device: torch.device, memory_bytes: int | None = None) -> None:
        self.name = name
        self.device = device
        self.memory_bytes = memory_bytes
        self.partial_offload = device.type == "cuda" and "accelerate" in _versions()
        self._ledger: Ledger[TorchModel, SavedKv] = Ledger()

    def capabilities(self) -> Capabilities:
        """As Engine says; so are the calls below."""
        versions = _versions()
        version = versions.pop("transformers")
        return Capabilities(
            "transformers", version, self.name, self.partial_offload, True, ("safetensors",), versions
        )

    def footprint_bytes(  # noqa: D102
        self, model: str, checkpoint: str, gpu_layers: int | None, *, context_tokens: int, max_batch: int
    ) -> int:
        weight_files(checkpoint)  # says what is lacking
        config = read_config(checkpoint)
        shape = kv_shape(config)
        level = checked_level(gpu_layers, shape.layers + 1, partial=self.partial_offload, device=self.name)
        dtype = loaded_dtype(checkpoint, config)
        weights = loaded_weights(checkpoint, config, dtype)
        kv_bytes = shape.bytes_per_token(dtype) * max_batch * context_tokens
        return weights_on_device(weights, level) + kv_bytes * (level > 0)

    def load(  # noqa: D102
        self, model: str, checkpoint: str, gpu_layers: int | None, *, context_tokens: int, max_batch: int
    ) -> LoadResult:
        start_s = self._now_s()
        self._ledger.check_load(model, context_tokens, max_batch)
        device_bytes = self.footprint_bytes(
            model, checkpoint, gpu_layers, context_tokens=context_tokens, max_batch=max_batch
        )
        taken_bytes = sum(resident.model.device_bytes for resident in self._ledger.residents.values())
        budget_bytes = self.memory_bytes
        if budget_bytes is None:
            budget_bytes = taken_bytes + free_bytes(self.device)
        check_fits(
            model,
            self.name,
            needed_bytes=device_bytes,
            taken_bytes=taken_bytes,
            budget_bytes=budget_bytes,
        )
        config = read_config(checkpoint)
        shape = kv_shape(config)
        level = checked_level(gpu_layers, shape.layers + 1, partial=self.partial_offload, device=self.name)
        with memory_errors(self.name):
            net = read_model(checkpoint, config)
            compute_on = place(net, level, self.device)
            slots = KvSlots(shape, max_batch, context_tokens, net.dtype, compute_on)
        self._ledger.add(model, TorchModel(net, slots, device_bytes), context_tokens, max_batch)
        end_s = self._now_s()
        return LoadResult(start_s, end_s, shape.layers + 1, self.memory())

    def unload(self, model: str) -> Timed:  # noqa: D102
        start_s = self._now_s()
        weight_bytes = self._ledger.resident(model).model.weight_bytes(self.device)
        before_bytes = self.memory().device_bytes
        del self._ledger.residents[model]
        give_back()
        end_s = self._now_s()
        freed_bytes = before_bytes - self.memory().device_bytes
        check_given_back(model, self.name, weight_bytes=weight_bytes, freed_bytes=freed_bytes)
        return Timed(start_s, end_s)

    def prefill(self, model: str, request: str, tokens: list[int]) -> PrefillResult:  # noqa: D102
        start_s = self._now_s()
        resident = self._ledger.check_prefill(model, request, tokens)
        with memory_errors(self.name):
            token = resident.model.prefill(request, tokens)
        resident.requests[request] = [*tokens, token]
        return PrefillResult(start_s, self._now_s(), token, len(tokens))

    def decode(  # noqa: D102
        self, model: str, limits: dict[str, int], *, max_steps: int, max_s: float | None = None
    ) -> DecodeResult:
        resident = self._ledger.check_decode(model, limits, max_steps)

        def step(active: list[str]) -> list[int]:
            last_tokens = {request: resident.requests[request][-1] for request in active}
            lengths = {request: len(resident.requests[request]) - 1 for request in active}
            with memory_errors(self.name):
                return resident.model.step(last_tokens, lengths)

        return decode_steps(
            resident.requests, limits, max_steps=max_steps, max_s=max_s, now_s=self._now_s, step=step
        )

    def save_kv(self, model: str, request: str) -> KvResult:  # noqa: D102
        start_s = self._now_s()
        tokens = self._ledger.live(model, request)
        kv = self._ledger.resident(model).model.copy_out(request, len(tokens) - 1)
        self.drop_kv(model, request)
        self._ledger.saved[model, request] = Saved(tokens, kv)
        return KvResult(start_s, self._now_s(), _kv_bytes(kv), len(tokens) - 1)

    def restore_kv(self, model: str, request: str) -> KvResult:  # noqa: D102
        start_s = self._now_s()
        resident, saved = self._ledger.check_restore(model, request)
        resident.model.enter(request, saved.kv)
        del self._ledger.saved[model, request]
        resident.requests[request] = saved.tokens
        return KvResult(start_s, self._now_s(), _kv_bytes(saved.kv), len(saved.tokens) - 1)

    def drop_kv(self, model: str, request: str) -> None:  # noqa: D102
        if model in self._ledger.residents:
            self._ledger.residents[model].model.leave(request)
        self._ledger.drop(model, request)

    def memory(self) -> MemoryReport:  # noqa: D102
        host_bytes = resident_bytes()
        if self.device.type == "cuda":
            return MemoryReport(int(torch.cuda.memory_allocated(self.device)), host_bytes)
        return MemoryReport(host_bytes, host_bytes)

    def drop_page_cache(self, checkpoint: str) -> None:  # noqa: D102
        for path in weight_files(checkpoint):
            drop_cached(str(path))

    def close(self) -> None:  # noqa: D102
        self._ledger = Ledger()
        give_back()

    def _now_s(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic()


def _kv_bytes(kv: SavedKv) -> int:
    return sum(int(keys.nbytes) + int(values.nbytes) for keys, values in kv)


def _versions() -> dict[str, str]:
    found = {}
    for package in ("transformers", "torch", "accelerate", "safetensors"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def create(device: dict[str, Any]) -> Engine:
    """Makes the engine for a device given as the plain dictionary of a DeviceSpec.

    Raises:
        EngineUnavailableError: The device is none of torch's, or is not there.
    """
    kind, name = device["kind"], device["name"]
    if kind not in ("cpu", "cuda"):
        raise EngineUnavailableError(f"engine 'transformers' runs on cpu and cuda devices, not on {name}")
    if kind == "cuda" and device["index"] >= torch.cuda.device_count():
        raise EngineUnavailableError(
            f"torch {torch.__version__} of {sys.executable} sees {torch.cuda.device_count()} CUDA devices, "
            f"so there is no {name}"
        )
    if device["threads"]:
        torch.set_num_threads(device["threads"])
    torch_device = torch.device("cpu" if kind == "cpu" else f"cuda:{device['index']}")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    _import_lazy_parts(torch_device)
    gc.freeze()  # everything imported lives on: an unload need not look through it for garbage
    return TransformersEngine(name, torch_device, device["memory_bytes"])


def _import_lazy_parts(device: torch.device) -> None:
    # The library imports most of itself at the first model, which would be counted as load time.
    for family in _FAMILIES:
        config = AutoConfig.for_model(family, **_TINY)
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            AutoModelForCausalLM.from_config(config).save_pretrained(folder)
            net = read_model(folder, read_config(folder))
            place(net, 2, device)
            net(torch.zeros((1, 2), dtype=torch.long, device=device))
