"""Random-weight GGUF files that llama.cpp loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType

from shunter.catalog.models import ModelSpec
from shunter.profiling.checkpoints.tensors import draw_weights, model_tensors, stored_type

CONTEXT_TOKENS = 32768
"""Longest context that a synthetic checkpoint declares."""
MIN_VOCAB = 259
"""All bytes and three special tokens."""

_FILE_TYPES = {
    "F32": LlamaFileType.ALL_F32,
    "F16": LlamaFileType.MOSTLY_F16,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
    "Q4_0": LlamaFileType.MOSTLY_Q4_0,
}


def write_gguf(
    spec: ModelSpec, path: Path, quantization: str, seed: int, on_bytes: Callable[[int], None]
) -> None:
    """Writes one GGUF file, tensor by tensor, and calls ``on_bytes`` with the size of each.

    The same seed gives the same bytes. Norms and biases are F32. The vocabulary must hold ``MIN_VOCAB``
    tokens.
    """
    writer = GGUFWriter(path, spec.architecture)
    try:
        _add_shape(writer, spec, quantization)
        _add_vocabulary(writer, spec.vocab_size)
        tensors = model_tensors(spec)
        for tensor in tensors:
            _add_tensor_info(
                writer, tensor.gguf_name, tensor.shape, stored_type(tensor, "gguf", quantization)
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for number, tensor in enumerate(tensors):
            data = draw_weights(tensor, stored_type(tensor, "gguf", quantization), (seed, number))
            writer.write_tensor_data(data)
            on_bytes(data.nbytes)
    finally:
        writer.close()


def _add_shape(writer: GGUFWriter, spec: ModelSpec, quantization: str) -> None:
    writer.add_name(f"synthetic {spec.name}")
    writer.add_file_type(_FILE_TYPES[quantization])
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_block_count(spec.layers)
    writer.add_embedding_length(spec.hidden_size)
    writer.add_feed_forward_length(spec.intermediate_size)
    writer.add_head_count(spec.attn_heads)
    writer.add_head_count_kv(spec.kv_heads)
    writer.add_key_length(spec.head_dim)
    writer.add_value_length(spec.head_dim)
    writer.add_rope_dimension_count(spec.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(spec.vocab_size)


def _add_vocabulary(writer: GGUFWriter, vocab_size: int) -> None:
    special = ["<|bos|>", "<|eos|>", "<|pad|>"]
    merges = ["Ġ t", "h e", "Ġt he"][: vocab_size - MIN_VOCAB]
    tokens = _byte_tokens() + special + [merge.replace(" ", "") for merge in merges]
    unused = [f"<|unused{i}|>" for i in range(vocab_size - len(tokens))]
    types = [TokenType.NORMAL] * 256 + [TokenType.CONTROL] * 3 + [TokenType.NORMAL] * len(merges)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens + unused)
    writer.add_token_types(types + [TokenType.UNUSED] * len(unused))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    writer.add_pad_token_id(258)
    writer.add_add_bos_token(False)


def _byte_tokens() -> list[str]:
    """The 256 printable characters that stand for bytes in GPT-2's vocabulary, by byte.

    Source: https://github.com/openai/gpt-2/blob/master/src/encoder.py (bytes_to_unicode)
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _add_tensor_info(writer: GGUFWriter, name: str, shape: tuple[int, ...], dtype: str) -> None:
    if dtype in ("F32", "F16"):
        numpy_type = np.dtype(np.float32 if dtype == "F32" else np.float16)
        writer.add_tensor_info(name, shape, numpy_type, int(np.prod(shape)) * numpy_type.itemsize)
        return
    kind = GGMLQuantizationType[dtype]
    block, block_bytes = GGML_QUANT_SIZES[kind]
    stored = (*shape[:-1], shape[-1] // block * block_bytes)
    writer.add_tensor_info(name, stored, np.dtype(np.uint8), int(np.prod(stored)), raw_dtype=kind)
