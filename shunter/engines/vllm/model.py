"""One model in a vLLM engine of this process, stepped by hand.

vLLM's scheduler runs every request that it has. A request that is not to run is parked: it is left out of the
scheduler's list of running requests, so that it keeps its KV blocks and waits. vLLM itself knows requests
that sit out a step (its worker keeps their state), and a parked request goes on without recomputing anything.
"""

from __future__ import annotations

import gc
from typing import Any

import torch
from vllm import SamplingParams  # type: ignore[import-not-found, unused-ignore]
from vllm.engine.arg_utils import EngineArgs  # type: ignore[import-not-found, unused-ignore]
from vllm.model_executor.offloader.base import (  # type: ignore[import-not-found, unused-ignore]
    get_offloader,
)
from vllm.sampling_params import RequestOutputKind  # type: ignore[import-not-found, unused-ignore]
from vllm.v1.engine.llm_engine import LLMEngine  # type: ignore[import-not-found, unused-ignore]

from ..base import CheckpointError, DeviceMemoryError, EngineError, RequestError
from ..transformers.memory import give_back
from .plan import KvPlan


def engine_arguments(
    checkpoint: str, dtype: str, plan: KvPlan, *, blocks: int | None = None, **changes: Any
) -> EngineArgs:
    """vLLM's arguments for one model: exactly the KV blocks of the plan, eager, greedy, without a tokenizer.

    Args:
        checkpoint: Hugging Face folder.
        dtype: Type of weights and KV, as torch names it; vLLM would turn float32 into bfloat16 by itself.
        plan: KV blocks.
        blocks: Blocks to have instead of the plan's.
        changes: Further arguments.
    """
    arguments = {
        "model": checkpoint,
        "dtype": dtype,
        "skip_tokenizer_init": True,
        "load_format": "safetensors",
        # A request ends when it reaches this length, and one that is full must stay.
        "max_model_len": plan.context_tokens + 1,
        "max_num_seqs": plan.max_batch,
        "block_size": plan.block_tokens,
        "num_gpu_blocks_override": blocks or plan.blocks,
        "kv_cache_memory_bytes": plan.total_bytes,
        "enable_prefix_caching": False,
        "enforce_eager": True,
        "async_scheduling": False,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "generation_config": "vllm",
        "seed": 0,
    }
    return EngineArgs(**(arguments | changes))


def build(checkpoint: str, arguments: EngineArgs) -> LLMEngine:
    """Builds an engine and loads its weights.

    Raises:
        CheckpointError: vLLM cannot load the checkpoint.
        DeviceMemoryError: It found no room.
    """
    try:
        return LLMEngine.from_engine_args(arguments)
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryError(f"{checkpoint}: {error}") from error
    # vLLM, its file readers and its configuration share no base class of errors.
    except Exception as error:
        kind = DeviceMemoryError if "memory" in str(error).lower() else CheckpointError
        raise kind(f"{checkpoint}: {type(error).__name__}: {error}") from error


class VllmModel:
    """A resident model.

    Args:
        llm: Its engine, which runs in this process.
        vocab_size: Tokens that it knows.
        device_bytes: What it counts against the device's budget.

    Attributes:
        offloaded_bytes: Weights that vLLM left on the host, by its own count.
    """

    def __init__(self, llm: LLMEngine, vocab_size: int, device_bytes: int) -> None:
        self.llm = llm
        self.vocab_size = vocab_size
        self.device_bytes = device_bytes
        # One offloader serves the process: it is that of the engine built last.
        self.offloaded_bytes = int(getattr(get_offloader(), "cpu_offload_bytes", 0))
        self._core: Any = llm.engine_core.engine_core
        self._scheduler: Any = self._core.scheduler
        self._live: dict[str, Any] = {}
        self._preemptions_of_gone = 0

    @property
    def kv_blocks(self) -> tuple[int, int]:
        """KV blocks that vLLM has, its null block among them, and tokens per block."""
        cache = self.llm.vllm_config.cache_config
        return int(cache.num_gpu_blocks), int(cache.block_size)

    @property
    def preemptions(self) -> int:
        """How often vLLM itself took a request's KV blocks away, to recompute it later."""
        return self._preemptions_of_gone + sum(int(r.num_preemptions) for r in self._live.values())

    def prefill(self, request: str, tokens: list[int]) -> int:
        """Processes a prompt while all other requests are parked; gives the first token.

        Raises:
            RequestError: A token is not in the vocabulary.
            EngineError: vLLM does not get on with it.
        """
        if not 0 <= min(tokens) <= max(tokens) < self.vocab_size:
            raise RequestError(f"tokens of request {request!r} must be from 0 to {self.vocab_size - 1}")
        self._scheduler.running = []
        name = self.llm.add_request(request, {"prompt_token_ids": tokens}, self._sampling(len(tokens)))
        live = self._live[request] = self._scheduler.requests[name]
        computed_tokens = -1
        while live.num_computed_tokens > computed_tokens:
            computed_tokens = live.num_computed_tokens
            for output in self.llm.step():
                return int(output.outputs[0].token_ids[-1])
        self.leave(request)
        raise EngineError(f"vLLM did not run request {request!r}: it found no KV blocks for it")

    def _sampling(self, prompt_tokens: int) -> SamplingParams:
        return SamplingParams(
            temperature=0,
            max_tokens=self.llm.model_config.max_model_len - prompt_tokens,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )

    def step(self, active: list[str]) -> list[int]:
        """Runs one step of these requests, all others being parked; gives the next token of each.

        Raises:
            EngineError: vLLM preempted some of them; their tokens of this step are lost.
        """
        self._scheduler.running = [self._live[request] for request in active]
        found = {output.request_id: output.outputs[0].token_ids for output in self.llm.step()}
        if sorted(found) != sorted(active) or any(len(tokens) != 1 for tokens in found.values()):
            raise EngineError(
                f"vLLM ran {len(found)} of {len(active)} requests, with {self.preemptions} preemptions of "
                "its own: its KV blocks do not hold the batch"
            )
        return [int(found[request][0]) for request in active]

    def leave(self, request: str) -> None:
        """Frees a request's KV blocks; one that is unknown is no error."""
        live = self._live.pop(request, None)
        if live is not None:
            self._preemptions_of_gone += int(live.num_preemptions)
            self.llm.abort_request([live.request_id], internal=True)

    def settle(self) -> None:
        """Makes it ready: touches the KV blocks, sets up what first steps need, frees what loading left."""
        for cache in self._core.model_executor.driver_worker.worker.model_runner.kv_caches:
            cache.zero_()
        self.prefill("settle", [0])
        self.step(["settle"])
        self.leave("settle")
        give_back()

    def sleep(self, level: int) -> None:
        """Sends weights to the host (1) or forgets them (2), and gives the KV blocks up. Only on a GPU."""
        for request in list(self._live):
            self.leave(request)
        self.llm.sleep(level)

    def wake(self, level: int) -> None:
        """Undoes ``sleep``; after level 2 the weights are read from the checkpoint again."""
        if level == 1:
            self.llm.wake_up()
            return
        self.llm.wake_up(tags=["weights"])
        self.llm.collective_rpc("reload_weights")
        self.llm.wake_up(tags=["kv_cache"])

    def shutdown(self) -> None:
        """Ends the engine and gives its memory back.

        vLLM's own shutdown also tears down torch.distributed, which all engines of a process share; it is
        left alone, so that other residents go on and the next load need not set it up again.
        """
        self.llm.engine_core._finalizer.detach()
        self._core.structured_output_manager.clear_backend()
        self._core.model_executor.shutdown()
        self._scheduler.shutdown()
        del self.llm, self._core, self._scheduler, self._live
        give_back()
        gc.freeze()  # vLLM thawed everything that was imported: the next load would search it for garbage
