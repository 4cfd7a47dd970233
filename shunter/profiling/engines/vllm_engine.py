"""The vLLM engine behind ``vllm.create``, which sets the environment up before this module is imported.

Requests outside a batch keep their KV blocks and wait. KV cannot be copied out: a preempted request either
stays where it is or is dropped and recomputed. The KV blocks of a load hold ``max_batch`` requests of
``context_tokens`` tokens, which is read back from vLLM, so that vLLM never preempts requests by itself.

In float32 a request's tokens do not depend on its company or on whether it was recomputed; in bfloat16 and
float16 they can, where two tokens are almost tied.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import torch
import vllm  # type: ignore[import-not-found, unused-ignore]
from transformers import AutoModelForCausalLM

from .base import (
    Capabilities,
    DecodeResult,
    DeviceMemoryError,
    Engine,
    EngineError,
    KvResult,
    LoadResult,
    MemoryReport,
    PrefillResult,
    RequestError,
    Timed,
)
from .ledger import Ledger, checked_level, decode_steps
from .torch_checkpoint import kv_shape, read_config, weight_files
from .torch_memory import free_bytes, give_back, resident_bytes
from .vllm_model import VllmModel, build, engine_arguments
from .vllm_plan import KvPlan, check_blocks, check_shapes, layer_bytes, offloaded_bytes, stored_tensors

__all__ = ["VllmEngine"]

_CPU_BLOCK_TOKENS = 32
_GPU_BLOCK_TOKENS = 16
_GPU_WORKSPACE_BYTES = 2**30


@dataclass(frozen=True)
class _Plan:
    """One load: what it needs and where that goes."""

    checkpoint: str
    dtype: str
    vocab_size: int
    most_tokens: int
    total_layers: int
    kv: KvPlan
    device_bytes: int
    offloaded_bytes: int


class VllmEngine(Engine):
    """The engine.

    On the CPU a model is resident as a whole. On a GPU the first layers' weights can stay in host memory,
    where the GPU reads them at each use (``cpu_offload_gb``); the output layer is always on the GPU.

    Args:
        name: Of the device.
        device: Where torch computes.
        memory_bytes: Budget for weights and KV on the device; None means what is free there.
        prefix_caching: Whether equal prompt beginnings share KV blocks.
        sleep_level: 0: an unload ends the model's engine. 1 or 2: it sends it to sleep (GPU only).
    """

    def __init__(
        self,
        name: str,
        device: torch.device,
        memory_bytes: int | None = None,
        *,
        prefix_caching: bool = False,
        sleep_level: int = 0,
    ) -> None:
        self.name = name
        self.device = device
        self.memory_bytes = memory_bytes
        self.prefix_caching = prefix_caching
        self.sleep_level = sleep_level
        self._ledger: Ledger[VllmModel, None] = Ledger()
        self._plans: dict[str, _Plan] = {}
        self._asleep: dict[_Plan, tuple[VllmModel, int]] = {}

    def capabilities(self) -> Capabilities:
        """As Engine says; so are the calls below."""
        settings = {"prefix_caching": str(int(self.prefix_caching)), "sleep_level": str(self.sleep_level)}
        versions = {"torch": torch.__version__, **settings}
        return Capabilities(
            "vllm",
            str(vllm.__version__),
            self.name,
            self.device.type == "cuda",
            False,
            ("safetensors",),
            versions,
        )

    def preemptions(self, model: str) -> int:
        """How often vLLM itself preempted a request of a resident, which its KV blocks should rule out."""
        return self._ledger.resident(model).model.preemptions

    def footprint_bytes(  # noqa: D102
        self, model: str, checkpoint: str, gpu_layers: int | None, *, context_tokens: int, max_batch: int
    ) -> int:
        return self._plan(checkpoint, gpu_layers, context_tokens, max_batch).device_bytes

    def load(  # noqa: D102
        self, model: str, checkpoint: str, gpu_layers: int | None, *, context_tokens: int, max_batch: int
    ) -> LoadResult:
        start_s = self._now_s()
        self._ledger.check_load(model, context_tokens, max_batch)
        plan = self._plan(checkpoint, gpu_layers, context_tokens, max_batch)
        self._check_fits(model, plan)
        loaded = self._wake(plan) if plan in self._asleep else self._build(plan)
        self._ledger.add(model, loaded, context_tokens, max_batch)
        self._plans[model] = plan
        end_s = self._now_s()
        return LoadResult(start_s, end_s, plan.total_layers, self.memory())

    def _plan(self, checkpoint: str, gpu_layers: int | None, context_tokens: int, max_batch: int) -> _Plan:
        files = weight_files(checkpoint)
        config = read_config(checkpoint)
        shape = kv_shape(config)
        layers = layer_bytes(stored_tensors(files))
        partial = self.device.type == "cuda"
        level = checked_level(gpu_layers, shape.layers + 1, partial=partial, device=self.name)
        dtype = config.dtype or torch.float32
        block_tokens = _GPU_BLOCK_TOKENS if partial else _CPU_BLOCK_TOKENS
        kv = KvPlan(context_tokens, max_batch, block_tokens, shape.bytes_per_token(dtype))
        away_bytes = offloaded_bytes(layers, level)
        weight_bytes = sum(path.stat().st_size for path in files)
        text = config.get_text_config()
        extra_bytes = int(text.max_position_embeddings * shape.head_dim * dtype.itemsize)  # rotary table
        if self.device.type == "cpu":  # where vLLM keeps a second, packed copy of the output layer
            extra_bytes += int(text.vocab_size * text.hidden_size * dtype.itemsize)
        return _Plan(
            checkpoint=checkpoint,
            dtype=str(dtype).removeprefix("torch."),
            vocab_size=int(text.vocab_size),
            most_tokens=int(text.max_position_embeddings),
            total_layers=shape.layers + 1,
            kv=kv,
            device_bytes=weight_bytes - away_bytes + kv.total_bytes + extra_bytes,
            offloaded_bytes=away_bytes,
        )

    def _check_fits(self, model: str, plan: _Plan) -> None:
        held = [resident.model.device_bytes for resident in self._ledger.residents.values()]
        free = free_bytes(self.device) if self.memory_bytes is None else self.memory_bytes - sum(held)
        if plan.device_bytes > free:
            raise DeviceMemoryError(
                f"{self.name} has {free / 1e6:.0f} MB left; "
                f"{model!r} needs {plan.device_bytes / 1e6:.0f} MB for weights and KV"
            )
        if plan.kv.context_tokens > plan.most_tokens:
            raise RequestError(
                f"{plan.checkpoint} was made for {plan.most_tokens} tokens; "
                f"requests of {plan.kv.context_tokens} do not fit"
            )

    def _build(self, plan: _Plan) -> VllmModel:
        with torch.device("meta"):
            hollow = AutoModelForCausalLM.from_config(read_config(plan.checkpoint))
        shapes = {name: tuple(tensor.shape) for name, tensor in hollow.state_dict().items()}
        check_shapes(plan.checkpoint, stored_tensors(weight_files(plan.checkpoint)), shapes)
        arguments = engine_arguments(plan.checkpoint, plan.dtype, plan.kv, **self._changes(plan))
        llm = build(plan.checkpoint, arguments)
        loaded = VllmModel(llm, plan.vocab_size, plan.device_bytes)
        try:
            check_blocks(plan.kv, *loaded.kv_blocks)
            loaded.settle()
        except EngineError:
            loaded.shutdown()
            raise
        return loaded

    def _changes(self, plan: _Plan) -> dict[str, Any]:
        changes: dict[str, Any] = {"enable_prefix_caching": self.prefix_caching}
        if self.device.type == "cuda":
            total_bytes = torch.cuda.mem_get_info(self.device)[1]
            # vLLM refuses to start where less than this share is free; the KV blocks are fixed anyway.
            changes["gpu_memory_utilization"] = min(
                1.0, (plan.device_bytes + _GPU_WORKSPACE_BYTES) / total_bytes
            )
            changes["enable_sleep_mode"] = self.sleep_level > 0
        if plan.offloaded_bytes:
            # It offloads whole tensors until it has this many bytes, so one less stops after the last one.
            changes["cpu_offload_gb"] = (plan.offloaded_bytes - 1) / 2**30
        return changes

    def unload(self, model: str) -> Timed:  # noqa: D102
        start_s = self._now_s()
        loaded = self._ledger.resident(model).model
        del self._ledger.residents[model]
        plan = self._plans.pop(model)
        if self.sleep_level and plan not in self._asleep:
            self._send_to_sleep(plan, loaded)
        else:
            loaded.shutdown()
        return Timed(start_s, self._now_s())

    def _send_to_sleep(self, plan: _Plan, loaded: VllmModel) -> None:
        before_bytes = free_bytes(self.device)
        loaded.sleep(self.sleep_level)
        freed_bytes = free_bytes(self.device) - before_bytes
        # A sleep that is not available returns at once and frees nothing.
        if freed_bytes < plan.device_bytes // 2:
            loaded.shutdown()
            raise EngineError(
                f"vLLM's sleep on {self.name} freed {freed_bytes / 1e6:.0f} of "
                f"{plan.device_bytes / 1e6:.0f} MB, so the model was ended: unset SHUNTER_VLLM_SLEEP_LEVEL"
            )
        self._asleep[plan] = loaded, freed_bytes

    def _wake(self, plan: _Plan) -> VllmModel:
        loaded, _ = self._asleep.pop(plan)
        loaded.wake(self.sleep_level)
        loaded.settle()
        return loaded

    def prefill(self, model: str, request: str, tokens: list[int]) -> PrefillResult:  # noqa: D102
        start_s = self._now_s()
        resident = self._ledger.check_prefill(model, request, tokens)
        token = resident.model.prefill(request, tokens)
        resident.requests[request] = [*tokens, token]
        return PrefillResult(start_s, self._now_s(), token, len(tokens))

    def decode(  # noqa: D102
        self, model: str, limits: dict[str, int], *, max_steps: int, max_s: float | None = None
    ) -> DecodeResult:
        resident = self._ledger.check_decode(model, limits, max_steps)

        def step(active: list[str]) -> list[int]:
            try:
                return resident.model.step(active)
            except EngineError:
                for request in active:  # vLLM and we no longer agree on their tokens
                    self.drop_kv(model, request)
                raise

        return decode_steps(
            resident.requests, limits, max_steps=max_steps, max_s=max_s, now_s=self._now_s, step=step
        )

    def save_kv(self, model: str, request: str) -> KvResult:  # noqa: D102
        self._ledger.live(model, request)
        raise RequestError(
            f"request {request!r} of model {model!r} cannot be saved: vLLM keeps KV where it is; "
            "drop it and recompute"
        )

    def restore_kv(self, model: str, request: str) -> KvResult:  # noqa: D102
        self._ledger.resident(model)
        raise RequestError(f"request {request!r} of model {model!r} is not saved: vLLM saves no KV")

    def drop_kv(self, model: str, request: str) -> None:  # noqa: D102
        if model in self._ledger.residents:
            self._ledger.residents[model].model.leave(request)
        self._ledger.drop(model, request)

    def memory(self) -> MemoryReport:  # noqa: D102
        host_bytes = resident_bytes()
        if self.device.type == "cuda":
            # torch still counts what sleeping engines have given back to the driver.
            slept_bytes = sum(freed for _, freed in self._asleep.values())
            return MemoryReport(int(torch.cuda.memory_allocated(self.device)) - slept_bytes, host_bytes)
        return MemoryReport(host_bytes, host_bytes)

    def drop_page_cache(self, checkpoint: str) -> None:  # noqa: D102
        for path in weight_files(checkpoint):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)  # pages that are not yet written would stay
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)

    def close(self) -> None:  # noqa: D102
        for resident in self._ledger.residents.values():
            resident.model.shutdown()
        for loaded, _ in self._asleep.values():
            loaded.shutdown()
        self._ledger, self._plans, self._asleep = Ledger(), {}, {}
        give_back()

    def _now_s(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic()
