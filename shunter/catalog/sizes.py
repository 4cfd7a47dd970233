"""Bytes that a model's weights take in a quantisation of llama.cpp's, tensor by tensor.

A quantisation is a type for most tensors and others for some: the output layer, and in the ``_M`` mixes the
values and the down projections of half of the layers. K types need rows of whole blocks of 256 weights;
narrower rows take another type, which on small models is most of them.

Source: llama.cpp, llama-quant.cpp (``llama_tensor_get_type``) and ggml-common.h.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from shunter.catalog.models import ModelSpec
from shunter.engines.headers import GGML_TYPES

__all__ = ["quantised_bytes"]

_BITS = {name: Fraction(8 * nbytes, block) for name, block, nbytes in GGML_TYPES.values()} | {
    "FP8": Fraction(8)
}
_BLOCKS = {name: block for name, block, _ in GGML_TYPES.values()}
_NARROW = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""What a tensor takes whose rows are no whole blocks."""

_MIXES = {"Q4_K_M": ("Q4_K", "Q6_K", "Q5_K"), "Q5_K_M": ("Q5_K", "Q6_K", "Q6_K")}
"""Most tensors; values and down projections of layers that get more bits; q, k and v in one matrix."""

_LAYERS_OF_70B = 80
"""By their layers llama.cpp knows models of 70 billion parameters, whose few values get more bits."""

_WHOLE = ("F32", "F16", "BF16", "FP8", "Q8_0")
"""Types that the output layer keeps."""


@dataclass(frozen=True)
class QuantisedBytes:
    """What a model's weights take.

    Attributes:
        total: All of them.
        layer: One transformer layer, on the mean.
        expert_share: Share of the layers' bytes that routed experts are.
        output: The output layer's matrix.
    """

    total: float
    layer: float
    expert_share: float
    output: float


@dataclass(frozen=True)
class _Matrix:
    """A matrix of one layer, or as many alike as ``count``."""

    role: str
    columns: int
    rows: int
    count: int = 1


def quantised_bytes(spec: ModelSpec, quantization: str) -> QuantisedBytes:
    """Adds up a model's tensors in a quantisation.

    Args:
        spec: The model.
        quantization: A type of ggml (``Q8_0``, ``F16``), FP8, a mix (``Q4_K_M``, ``Q5_K_M``), or ``MXFP4``:
            experts in that type and everything else in Q8_0, as gpt-oss is published.
    """
    layers = experts = Fraction(0)
    vectors = 32 * (spec.params - _matrix_params(spec))
    for layer in range(spec.layers):
        for matrix in _layer_matrices(spec, layer):
            kind = _type_of(spec, quantization, matrix, layer)
            bits = _bits(kind, matrix.columns) * matrix.columns * matrix.rows * matrix.count
            layers += bits
            experts += bits if matrix.role.endswith("_exps") else 0
    layers += vectors
    output = _bits(_output_type(quantization, spec.hidden_size), spec.hidden_size) * spec.embedding_params
    base = _bits(_base_type(quantization), spec.hidden_size) * spec.embedding_params
    outside = output if spec.tied_embeddings else output + base
    total = int((layers + outside) / 8)
    return QuantisedBytes(total, float(layers / 8 / spec.layers), float(experts / layers), int(output / 8))


def _matrix_params(spec: ModelSpec) -> int:
    matrices = sum(
        m.columns * m.rows * m.count for layer in range(spec.layers) for m in _layer_matrices(spec, layer)
    )
    return matrices + spec.embedding_params * (1 if spec.tied_embeddings else 2)


def _layer_matrices(spec: ModelSpec, layer: int) -> Iterator[_Matrix]:
    hidden, heads, value_dim = spec.hidden_size, spec.attn_heads, spec.value_dim or spec.head_dim
    if spec.kv_lora_rank:
        yield from _latent_matrices(spec)
    elif spec.fused_qkv:
        rows = heads * spec.head_dim + spec.kv_heads * (spec.head_dim + value_dim)
        yield _Matrix("attn_qkv", hidden, rows)
    else:
        yield _Matrix("attn_q", hidden, heads * spec.head_dim)
        yield _Matrix("attn_k", hidden, spec.kv_heads * spec.head_dim)
        yield _Matrix("attn_v", hidden, spec.kv_heads * value_dim)
    yield _Matrix("attn_output", heads * value_dim, hidden)
    if not spec.experts or layer < spec.dense_layers:
        yield from _mlp("", hidden, spec.intermediate_size)
        return
    yield from _mlp("_exps", hidden, spec.expert_size, spec.experts)
    if spec.shared_expert_size:
        yield from _mlp("_shexp", hidden, spec.shared_expert_size)


def _latent_matrices(spec: ModelSpec) -> Iterator[_Matrix]:
    width, rank = spec.attn_heads * spec.head_dim, spec.q_lora_rank
    if rank:
        yield _Matrix("attn_q_a", spec.hidden_size, rank)
    yield _Matrix("attn_q_b", rank or spec.hidden_size, width)
    yield _Matrix("attn_kv_a", spec.hidden_size, spec.kv_lora_rank + spec.rope_dim)
    made = spec.head_dim - spec.rope_dim + (spec.value_dim or spec.head_dim)
    yield _Matrix("attn_kv_b", spec.kv_lora_rank, spec.attn_heads * made)


def _mlp(suffix: str, hidden: int, width: int, count: int = 1) -> Iterator[_Matrix]:
    yield _Matrix(f"ffn_gate{suffix}", hidden, width, count)
    yield _Matrix(f"ffn_up{suffix}", hidden, width, count)
    yield _Matrix(f"ffn_down{suffix}", width, hidden, count)


def _base_type(quantization: str) -> str:
    if quantization == "MXFP4":
        return "Q8_0"
    return _MIXES[quantization][0] if quantization in _MIXES else quantization


def _output_type(quantization: str, columns: int) -> str:
    base = _base_type(quantization)
    if base in _WHOLE:
        return base
    return "Q6_K" if columns % _BLOCKS["Q6_K"] == 0 else "Q8_0"


def _type_of(spec: ModelSpec, quantization: str, matrix: _Matrix, layer: int) -> str:
    base, role = _base_type(quantization), matrix.role
    if spec.all_biases and role.endswith("_exps") and base not in ("F32", "F16", "BF16"):
        return "MXFP4"  # gpt-oss was trained so, and is never quantised again
    if quantization not in _MIXES:
        return base
    eight = spec.experts == 8  # Mixtral, whose attention is a small part
    if (role == "attn_v" and eight) or (role == "attn_k" and eight):
        return "Q8_0"
    if role == "attn_output" and eight:
        return "Q5_K"
    if role == "attn_qkv":
        return _MIXES[quantization][2]
    if role == "attn_v" or role.startswith("ffn_down"):
        kind = _MIXES[quantization][_more_bits(layer, spec.layers)]
        return "Q5_K" if (role, kind, spec.layers) == ("attn_v", "Q4_K", _LAYERS_OF_70B) else kind
    return base


def _more_bits(layer: int, layers: int) -> bool:
    """The first and the last eighth of the layers, and every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _bits(kind: str, columns: int) -> Fraction:
    narrow = kind in _NARROW and columns % _BLOCKS[kind]
    return _BITS[_NARROW[kind] if narrow else kind]
