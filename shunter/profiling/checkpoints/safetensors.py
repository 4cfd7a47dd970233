"""Random-weight Hugging Face folders that transformers and vLLM load, written without torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shunter.catalog.models import ModelSpec
from shunter.profiling.checkpoints.gguf import CONTEXT_TOKENS
from shunter.profiling.checkpoints.tensors import SynthTensor, draw_weights, model_tensors, stored_bytes

FOLDER_FILES = ("config.json", "model.safetensors")
"""All that a synthetic folder holds."""

_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_TORCH_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def write_safetensors(
    spec: ModelSpec, path: Path, quantization: str, seed: int, on_bytes: Callable[[int], None]
) -> None:
    """Writes a folder with ``config.json`` and ``model.safetensors``, tensor by tensor.

    Calls ``on_bytes`` with the size of each. The same seed gives the same bytes; all tensors are of one type.
    """
    path.mkdir()
    config = json.dumps(_config(spec, quantization), indent=2)
    (path / "config.json").write_text(config + "\n", encoding="utf-8")
    tensors = model_tensors(spec)
    with (path / "model.safetensors").open("wb") as file:
        header = _header(tensors, quantization)
        file.write(len(header).to_bytes(8, "little") + header)
        for number, tensor in enumerate(tensors):
            data = draw_weights(tensor, quantization, (seed, number))
            file.write(data.data)
            on_bytes(data.nbytes)


def _header(tensors: list[SynthTensor], quantization: str) -> bytes:
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for tensor in tensors:
        end = start + stored_bytes(tensor, "safetensors", quantization)
        table[tensor.hf_name] = {"dtype": quantization, "shape": tensor.shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(table, separators=(",", ":")).encode()
    return text.ljust(-(-len(text) // 8) * 8)


def _config(spec: ModelSpec, quantization: str) -> dict[str, Any]:
    return {
        "architectures": [_CLASSES[spec.architecture]],
        "model_type": spec.architecture,
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.attn_heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": CONTEXT_TOKENS,
        "rope_theta": 10000.0,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "use_sliding_window": False,
        "sliding_window": None,
        "tie_word_embeddings": spec.tied_embeddings,
        "use_cache": True,
        "bos_token_id": 256,
        "eos_token_id": 257,
        "pad_token_id": 258,
        "torch_dtype": _TORCH_TYPES[quantization],
    }
