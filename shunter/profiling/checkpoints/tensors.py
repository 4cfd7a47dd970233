"""Which tensors a model has, and random values for them, drawn directly in the stored type."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np

from shunter.catalog.models import ModelSpec
from shunter.engines.headers import GGML_TYPES

Array: TypeAlias = np.ndarray[Any, Any]

BYTES_PER_WEIGHT = {dtype: nbytes / block for dtype, block, nbytes in GGML_TYPES.values()}
"""Bytes per weight of a tensor by its type; in Q8_0 and Q4_0 32 weights share one 16-bit scale."""

_CHUNK = 1 << 20

_GAINS = {"attn_output.weight": 0.3}
# At 1.0 attention, which averages over random values, drowns each token in its context: the deeper, the more
# alike all positions become, and greedy decoding repeats one token for ever.


@dataclass(frozen=True)
class SynthTensor:
    """One tensor of a model.

    Attributes:
        gguf_name: Its name in GGUF files.
        hf_name: Its name in Hugging Face folders.
        shape: Rows first; a matrix maps its columns to its rows.
        fill: The constant that a vector holds (norms 1, biases 0); None for random matrices.
        gain: Standard deviation of a matrix's weights, times the root of its columns.
    """

    gguf_name: str
    hf_name: str
    shape: tuple[int, ...]
    fill: float | None = None
    gain: float = 1.0


def model_tensors(spec: ModelSpec) -> list[SynthTensor]:
    """Lists all tensors of a model, in the order in which they are written."""
    matrix, width = (spec.vocab_size, spec.hidden_size), spec.hidden_size
    tensors = [SynthTensor("token_embd.weight", "model.embed_tokens.weight", matrix)]
    for layer in range(spec.layers):
        tensors += _layer_tensors(spec, layer)
    tensors.append(SynthTensor("output_norm.weight", "model.norm.weight", (width,), 1.0))
    if not spec.tied_embeddings:
        tensors.append(SynthTensor("output.weight", "lm_head.weight", matrix))
    return tensors


def _layer_tensors(spec: ModelSpec, layer: int) -> list[SynthTensor]:
    hidden, ffn = spec.hidden_size, spec.intermediate_size
    q, kv, head = spec.attn_heads * spec.head_dim, spec.kv_heads * spec.head_dim, spec.head_dim
    rows: list[tuple[str, str, tuple[int, ...], float | None]] = [
        ("attn_norm.weight", "input_layernorm.weight", (hidden,), 1.0),
        ("attn_q.weight", "self_attn.q_proj.weight", (q, hidden), None),
        ("attn_k.weight", "self_attn.k_proj.weight", (kv, hidden), None),
        ("attn_v.weight", "self_attn.v_proj.weight", (kv, hidden), None),
        ("attn_output.weight", "self_attn.o_proj.weight", (hidden, q), None),
        ("ffn_norm.weight", "post_attention_layernorm.weight", (hidden,), 1.0),
        ("ffn_gate.weight", "mlp.gate_proj.weight", (ffn, hidden), None),
        ("ffn_up.weight", "mlp.up_proj.weight", (ffn, hidden), None),
        ("ffn_down.weight", "mlp.down_proj.weight", (hidden, ffn), None),
    ]
    if spec.qkv_bias:
        widths = {"q": q, "k": kv, "v": kv}
        rows += [(f"attn_{x}.bias", f"self_attn.{x}_proj.bias", (n,), 0.0) for x, n in widths.items()]
    if spec.qk_norm:
        rows += [(f"attn_{x}_norm.weight", f"self_attn.{x}_norm.weight", (head,), 1.0) for x in "qk"]
    return [
        SynthTensor(f"blk.{layer}.{g}", f"model.layers.{layer}.{h}", s, f, _GAINS.get(g, 1.0))
        for g, h, s, f in rows
    ]


def stored_type(tensor: SynthTensor, format: str, quantization: str) -> str:
    """The type a tensor is stored in: llama.cpp wants vectors in F32, transformers one type for all."""
    return "F32" if format == "gguf" and tensor.fill is not None else quantization


def stored_bytes(tensor: SynthTensor, format: str, quantization: str) -> int:
    """Bytes that a tensor takes in a file."""
    per_weight = BYTES_PER_WEIGHT[stored_type(tensor, format, quantization)]
    return round(math.prod(tensor.shape) * per_weight)


def draw_weights(tensor: SynthTensor, dtype: str, seed: tuple[int, int]) -> Array:
    """Draws a tensor's values in its stored type; the seed is the checkpoint's with the tensor's number.

    Matrices have mean 0 and variance gain²/columns, so that activations keep their scale through the layers.
    Quantised blocks are drawn as they are stored, several times faster than quantising floats.

    Returns:
        Array of the tensor's shape (BF16 as uint16); for Q8_0 and Q4_0 uint8 of shape (rows, row bytes).
    """
    if tensor.fill is not None:
        return _rounded(np.full(tensor.shape, tensor.fill, np.float32), dtype)
    bits = np.random.SFC64(np.random.SeedSequence(seed))
    scale = tensor.gain / math.sqrt(tensor.shape[1])
    if dtype in ("Q8_0", "Q4_0"):
        return _draw_blocks(tensor.shape, dtype, scale, bits)
    table = _rounded(_normal_quantiles() * np.float32(scale), dtype)
    out = np.empty(math.prod(tensor.shape), table.dtype)
    for start in range(0, out.size, _CHUNK):
        part = out[start : start + _CHUNK]
        part[:] = table[_random_bytes(bits, 2 * part.size).view(np.uint16)]
    return out.reshape(tensor.shape)


def _draw_blocks(shape: tuple[int, ...], dtype: str, scale: float, bits: np.random.SFC64) -> Array:
    quants = {"Q8_0": 32, "Q4_0": 16}[dtype]
    # standard deviation of uniform integers: 256 levels of int8, 16 levels of 4 bits
    step = np.float16(scale / {"Q8_0": 73.9, "Q4_0": 4.61}[dtype])
    blocks = np.empty((math.prod(shape) // 32, 2 + quants), np.uint8)
    for start in range(0, len(blocks), _CHUNK // 32):
        part = blocks[start : start + _CHUNK // 32]
        part[:, 2:] = _random_bytes(bits, part.shape[0] * quants).reshape(-1, quants)
        # The integers' mean is -1/2; without random signs that would be one direction outweighing all others.
        signed = np.where(part[:, 2] & 1, step, -step).astype(np.float16)
        part[:, :2] = signed.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(shape[0], -1)


def _random_bytes(bits: np.random.SFC64, count: int) -> Array:
    return bits.random_raw(-(-count // 8)).view(np.uint8)[:count]


def _rounded(values: Array, dtype: str) -> Array:
    if dtype == "BF16":
        return ((values.view(np.uint32) + 0x8000) >> 16).astype(np.uint16)
    return values.astype({"F16": np.float16, "F32": np.float32}[dtype])


@cache
def _normal_quantiles() -> Array:
    inverse = NormalDist().inv_cdf
    return np.array([inverse((i + 0.5) / 65536) for i in range(65536)], np.float32)
