"""The vLLM engine behind ``vllm.create``, which sets the environment up before this module is imported.

Requests outside a batch keep their KV blocks and wait. KV cannot be copied out: a preempted request either
stays where it is or is dropped and recomputed. The KV blocks of a load hold ``max_batch`` requests of
``context_tokens`` tokens, which is read back from vLLM, so that vLLM never preempts requests by itself.

In float32 a request's tokens do not depend on its company or on whether it was recomputed; in bfloat16 and
float16 they can, where two tokens are almost tied.
"""

from __future__ import annotations

import time
from typing import Any

import torch
import vllm  # type: ignore[import-not-found, unused-ignore]

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
from ..ledger import Ledger, decode_steps
from ..memory import check_fits, resident_bytes
from ..page_cache import drop_cached
from ..transformers.checkpoint import weight_files
from ..transformers.memory import free_bytes, give_back
from .load import LoadPlan, build_model, plan_load
from .model import VllmModel
from .process import VllmProcess
from .settings import Settings

Model = VllmModel | VllmProcess


class VllmEngine(Engine):
    """The engine.

    On the CPU a model is resident as a whole. On a GPU the first layers' weights can stay in host memory,
    where the GPU reads them at each use (``cpu_offload_gb``); the output layer is always on the GPU.

    Without sleep an unload ends the model's vLLM engine and a load builds a new one: in this process, or in
    one of its own, which the load then starts and waits for.

    The caller says which requests run in each step, so that vLLM's own priorities have nothing to order.

    Args:
        spec: The device, as the plain dictionary of a DeviceSpec. Its memory is the budget for weights and KV
            there; None means what is free.
        device: Where torch computes.
        settings: How vLLM is run.
    """

    def __init__(self, spec: dict[str, Any], device: torch.device, settings: Settings) -> None:
        self.name: str = spec["name"]
        self.device = device
        self.memory_bytes: int | None = spec["memory_bytes"]
        self.settings = settings
        self._spec = spec
        self._ledger: Ledger[Model, None] = Ledger()
        self._plans: dict[str, LoadPlan] = {}
        self._asleep: dict[LoadPlan, tuple[VllmModel, int]] = {}
        self._preemptions_of_ended = 0

    def capabilities(self) -> Capabilities:
        """As Engine says; so are the calls below."""
        return Capabilities(
            engine="vllm",
            # What is measured under one setting is not to pass for another's, so the version names them.
            engine_version=str(vllm.__version__) + self.settings.suffix(),
            device=self.name,
            partial_offload=self.device.type == "cuda",
            kv_save=False,
            checkpoint_formats=("safetensors",),
            versions={"torch": torch.__version__, **self.settings.versions()},
        )

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
        taken_bytes = sum(resident.model.device_bytes for resident in self._ledger.residents.values())
        budget_bytes = self.memory_bytes
        if budget_bytes is None:
            budget_bytes = taken_bytes + free_bytes(self.device)
        check_fits(
            model,
            self.name,
            needed_bytes=plan.device_bytes,
            taken_bytes=taken_bytes,
            budget_bytes=budget_bytes,
        )
        loaded = self._wake(plan) if plan in self._asleep else self._build(plan)
        self._ledger.add(model, loaded, context_tokens, max_batch)
        self._plans[model] = plan
        end_s = self._now_s()
        return LoadResult(start_s, end_s, plan.total_layers, self.memory(), self.settings.process_per_model)

    def _plan(self, checkpoint: str, gpu_layers: int | None, context_tokens: int, max_batch: int) -> LoadPlan:
        return plan_load(
            checkpoint,
            gpu_layers,
            context_tokens=context_tokens,
            max_batch=max_batch,
            device=self.device,
            device_name=self.name,
        )

    def _build(self, plan: LoadPlan) -> Model:
        if self.settings.process_per_model:
            return VllmProcess(plan, self._spec)
        return build_model(
            plan,
            self.device,
            prefix_caching=self.settings.prefix_caching,
            enable_sleep_mode=self.settings.sleep_level > 0,
        )

    def unload(self, model: str) -> Timed:  # noqa: D102
        start_s = self._now_s()
        loaded = self._ledger.resident(model).model
        del self._ledger.residents[model]
        plan = self._plans.pop(model)
        if isinstance(loaded, VllmModel) and self.settings.sleep_level and plan not in self._asleep:
            self._send_to_sleep(plan, loaded)
        else:
            self._end(loaded)
        return Timed(start_s, self._now_s())

    def _end(self, loaded: Model) -> None:
        try:
            self._preemptions_of_ended += loaded.preemptions
        finally:
            loaded.shutdown()

    def _send_to_sleep(self, plan: LoadPlan, loaded: VllmModel) -> None:
        before_bytes = free_bytes(self.device)
        loaded.sleep(self.settings.sleep_level)
        freed_bytes = free_bytes(self.device) - before_bytes
        # A sleep that is not available returns at once and frees nothing.
        if freed_bytes < plan.device_bytes // 2:
            self._end(loaded)
            raise EngineError(
                f"vLLM's sleep on {self.name} freed {freed_bytes / 1e6:.0f} of "
                f"{plan.device_bytes / 1e6:.0f} MB, so the model was ended: unset SHUNTER_VLLM_SLEEP_LEVEL"
            )
        self._asleep[plan] = loaded, freed_bytes

    def _wake(self, plan: LoadPlan) -> VllmModel:
        loaded, _ = self._asleep.pop(plan)
        loaded.wake(self.settings.sleep_level)
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
        models = self._models()
        others = [model.memory for model in models if isinstance(model, VllmProcess)]
        host_bytes = resident_bytes() + sum(other.host_bytes for other in others)
        preemptions = self._preemptions_of_ended + sum(model.preemptions for model in models)
        if self.device.type == "cpu":
            return MemoryReport(host_bytes, host_bytes, preemptions)
        # torch still counts what sleeping engines have given back to the driver.
        slept_bytes = sum(freed for _, freed in self._asleep.values())
        own_bytes = int(torch.cuda.memory_allocated(self.device)) - slept_bytes
        return MemoryReport(own_bytes + sum(other.device_bytes for other in others), host_bytes, preemptions)

    def _models(self) -> list[Model]:
        awake: list[Model] = [resident.model for resident in self._ledger.residents.values()]
        return [*awake, *(loaded for loaded, _ in self._asleep.values())]

    def drop_page_cache(self, checkpoint: str) -> None:  # noqa: D102
        for path in weight_files(checkpoint):
            drop_cached(str(path))

    def close(self) -> None:  # noqa: D102
        for loaded in self._models():
            self._end(loaded)
        self._ledger, self._plans, self._asleep = Ledger(), {}, {}
        give_back()

    def _now_s(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic()
