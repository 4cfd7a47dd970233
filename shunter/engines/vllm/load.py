"""One load of a model in vLLM: what it needs, where that goes, and the engine that comes of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from ..base import EngineError, RequestError
from ..headers import read_tensors
from ..ledger import checked_level
from ..transformers.checkpoint import kv_shape, loaded_weights, read_config, weight_files
from .model import VllmModel, build, engine_arguments
from .plan import KvPlan, check_blocks, check_offloaded, check_shapes, offloaded_bytes

_CPU_BLOCK_TOKENS = 32
_GPU_BLOCK_TOKENS = 16
_GPU_WORKSPACE_BYTES = 2**30


@dataclass(frozen=True)
class LoadPlan:
    """What one load needs.

    Attributes:
        checkpoint: Hugging Face folder.
        dtype: Type of weights and KV, as torch names it.
        vocab_size: Tokens that the model knows.
        most_tokens: Longest request that it was made for.
        gpu_layers: Layers on the device, of ``total_layers``.
        total_layers: Transformer layers plus the output layer.
        kv: KV blocks.
        device_bytes: What it counts against the device's budget.
        offloaded_bytes: Weights that stay on the host.
    """

    checkpoint: str
    dtype: str
    vocab_size: int
    most_tokens: int
    gpu_layers: int
    total_layers: int
    kv: KvPlan
    device_bytes: int
    offloaded_bytes: int


def plan_load(
    checkpoint: str,
    gpu_layers: int | None,
    *,
    context_tokens: int,
    max_batch: int,
    device: torch.device,
    device_name: str,
) -> LoadPlan:
    """Works out a load from the checkpoint's headers.

    Raises:
        UnsupportedLevelError: These gpu_layers cannot be honoured: vLLM for the CPU ignores cpu_offload_gb.
        CheckpointError: The checkpoint cannot be read.
    """
    weight_files(checkpoint)  # says what is lacking
    config = read_config(checkpoint)
    shape, text = kv_shape(config), config.get_text_config()
    on_gpu = device.type == "cuda"
    level = checked_level(gpu_layers, shape.layers + 1, partial=on_gpu, device=device_name)
    dtype = config.dtype or torch.float32
    block_tokens = _GPU_BLOCK_TOKENS if on_gpu else _CPU_BLOCK_TOKENS
    kv = KvPlan(context_tokens, max_batch, block_tokens, shape.bytes_per_token(dtype))
    weights = loaded_weights(checkpoint, config, dtype)
    away_bytes = offloaded_bytes(weights.layer_bytes, level)
    extra_bytes = int(text.max_position_embeddings * shape.head_dim * dtype.itemsize)  # rotary table
    if not on_gpu:  # where vLLM keeps a second, packed copy of the output layer
        extra_bytes += int(text.vocab_size * text.hidden_size * dtype.itemsize)
    return LoadPlan(
        checkpoint=checkpoint,
        dtype=str(dtype).removeprefix("torch."),
        vocab_size=int(text.vocab_size),
        most_tokens=int(text.max_position_embeddings),
        gpu_layers=level,
        total_layers=shape.layers + 1,
        kv=kv,
        device_bytes=weights.total_bytes - away_bytes + kv.total_bytes + extra_bytes,
        offloaded_bytes=away_bytes,
    )


def build_model(
    plan: LoadPlan, device: torch.device, *, prefix_caching: bool, enable_sleep_mode: bool
) -> VllmModel:
    """Builds the engine and checks that vLLM did what it was asked for; what it built is then ready to run.

    Raises:
        CheckpointError: vLLM cannot load the checkpoint, or its weights are misshapen.
        DeviceMemoryError: vLLM found no room, or has fewer KV blocks than the requests need.
        UnsupportedLevelError: Other weights than those of the plan stayed on the host.
        RequestError: The requests are longer than the model was made for.
    """
    if plan.kv.context_tokens > plan.most_tokens:
        raise RequestError(
            f"{plan.checkpoint} was made for {plan.most_tokens} tokens; "
            f"requests of {plan.kv.context_tokens} do not fit"
        )
    with torch.device("meta"):
        hollow = AutoModelForCausalLM.from_config(read_config(plan.checkpoint))
    shapes = {name: tuple(tensor.shape) for name, tensor in hollow.state_dict().items()}
    check_shapes(plan.checkpoint, read_tensors(Path(plan.checkpoint)), shapes)
    changes: dict[str, Any] = {"enable_prefix_caching": prefix_caching}
    if device.type == "cuda":
        changes |= _gpu_arguments(plan, device, enable_sleep_mode)
    llm = build(plan.checkpoint, engine_arguments(plan.checkpoint, plan.dtype, plan.kv, **changes))
    loaded = VllmModel(llm, plan.vocab_size, plan.device_bytes)
    try:
        check_blocks(plan.kv, *loaded.kv_blocks)
        check_offloaded(plan.offloaded_bytes, loaded.offloaded_bytes)
        loaded.settle()
    except EngineError:
        loaded.shutdown()
        raise
    return loaded


def _gpu_arguments(plan: LoadPlan, device: torch.device, enable_sleep_mode: bool) -> dict[str, Any]:
    total_bytes = torch.cuda.mem_get_info(device)[1]
    # vLLM refuses to start where less than this share is free; the KV blocks are fixed anyway.
    share = min(1.0, (plan.device_bytes + _GPU_WORKSPACE_BYTES) / total_bytes)
    changes: dict[str, Any] = {"gpu_memory_utilization": share, "enable_sleep_mode": enable_sleep_mode}
    if plan.offloaded_bytes:
        # It offloads whole tensors until it has this many bytes, so one less stops after the last one.
        changes["cpu_offload_gb"] = (plan.offloaded_bytes - 1) / 2**30
    return changes
