"""Model files on disk, GGUF and Hugging Face folders: their shape and size, read from headers only."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shunter.catalog.models import ModelSpec
from shunter.engines.headers import HeaderError, TensorInfo, read_gguf_header, read_tensors, weight_files
from shunter.engines.weights import weigh
from shunter.errors import BrokenFileError, InputError

__all__ = ["Checkpoint", "read_checkpoint"]

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""Families whose sizes are known; each is dense."""

_GENERATES = "be a model that generates text, not one for embeddings or ranking"


@dataclass(frozen=True)
class Checkpoint:
    """A model file or folder.

    Attributes:
        name: File stem or folder name; also the name of its spec.
        path: The GGUF file or the Hugging Face folder.
        format: ``gguf`` or ``safetensors``.
        spec: Its shape.
        quantization: The type that holds most weights: ``F16``, ``BF16``, ``Q8_0``, ``Q4_K``, …
        weight_bytes: Bytes of all tensors.
        layer_weight_bytes: Bytes of one transformer layer (mean).
    """

    name: str
    path: Path
    format: str
    spec: ModelSpec
    quantization: str
    weight_bytes: int
    layer_weight_bytes: int


def read_checkpoint(path: str | Path, *, field: str = "--model") -> Checkpoint:
    """Reads what a checkpoint is from its headers; never loads weights.

    Args:
        path: A GGUF file, or a folder with ``config.json`` and safetensors files.
        field: Named in errors.

    Raises:
        InputError: There is nothing at the path, or its architecture is not one of ``ARCHITECTURES``.
        BrokenFileError: A file is truncated, damaged or of another kind.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _read_folder(path, field)
        if not path.exists():
            raise InputError(field, "name a GGUF file or a Hugging Face folder that exists", str(path))
        if path.suffix in (".safetensors", ".json"):
            raise InputError(field, "name the folder that holds config.json, not a file in it", str(path))
        return _read_gguf(path, field)
    except HeaderError as err:
        raise BrokenFileError(err.path, err.why) from err
    except OSError as err:
        raise BrokenFileError(err.filename or path, err.strerror or str(err)) from err


def _read_gguf(path: Path, field: str) -> Checkpoint:
    metadata, tensors = read_gguf_header(path)
    architecture = str(metadata.get("general.architecture", "unnamed"))
    _check_architecture(field, path, architecture, metadata.get(f"{architecture}.expert_count"))
    if metadata.get("split.count", 1) not in (0, 1):
        raise InputError(field, "be one GGUF file; join its parts with llama-gguf-split --merge", str(path))
    if metadata.get(f"{architecture}.pooling_type", 0) or not metadata.get(
        f"{architecture}.attention.causal", True
    ):
        raise InputError(field, _GENERATES, str(path))
    if "token_embd.weight" not in tensors or len(tensors["token_embd.weight"].shape) != 2:
        raise BrokenFileError(path, "it has no token embedding (token_embd.weight): it is not a whole model")

    def number(key: str, default: int | None = None) -> int:
        return _integer(path, f"{architecture}.{key}", metadata.get(f"{architecture}.{key}", default))

    heads, hidden = number("attention.head_count"), number("embedding_length")
    if tensors["token_embd.weight"].shape[1] != hidden:
        width = tensors["token_embd.weight"].shape[1]
        raise BrokenFileError(
            path, f"it says embedding_length {hidden}, and its token embedding is {width} wide"
        )
    spec = ModelSpec(
        name=path.stem,
        layers=number("block_count"),
        hidden_size=hidden,
        attn_heads=heads,
        kv_heads=number("attention.head_count_kv", heads),
        head_dim=number("attention.key_length", hidden // heads),
        intermediate_size=number("feed_forward_length"),
        vocab_size=tensors["token_embd.weight"].shape[0],
        tied_embeddings="output.weight" not in tensors,
        qkv_bias="blk.0.attn_q.bias" in tensors,
        qk_norm="blk.0.attn_q_norm.weight" in tensors,
    )
    return _summarised(path, "gguf", spec, tensors)


def _read_folder(path: Path, field: str) -> Checkpoint:
    if not (path / "config.json").exists():
        raise InputError(field, "be a GGUF file or a folder that holds config.json", str(path))
    config = _read_json(path / "config.json")
    architecture = str(config.get("model_type", "unnamed"))
    experts = config.get("num_experts") or config.get("num_local_experts")
    _check_architecture(field, path, architecture, experts)
    classes = config.get("architectures") or []
    if classes and not any(str(name).endswith("ForCausalLM") for name in classes):
        raise InputError(field, _GENERATES, f"{path}: {', '.join(map(str, classes))}")
    if weight_files(path) == [path / "model.safetensors"] and not (path / "model.safetensors").exists():
        raise InputError(field, "hold model.safetensors or model.safetensors.index.json", str(path))
    tensors = read_tensors(path)

    def number(key: str, default: int | None = None) -> int:
        return _integer(path / "config.json", key, config.get(key) or default)

    heads, hidden = number("num_attention_heads"), number("hidden_size")
    first_layer = "model.layers.0.self_attn."
    spec = ModelSpec(
        name=path.resolve().name,
        layers=number("num_hidden_layers"),
        hidden_size=hidden,
        attn_heads=heads,
        kv_heads=number("num_key_value_heads", heads),
        head_dim=number("head_dim", hidden // heads),
        intermediate_size=number("intermediate_size"),
        vocab_size=number("vocab_size"),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=first_layer + "q_proj.bias" in tensors,
        qk_norm=first_layer + "q_norm.weight" in tensors,
    )
    return _summarised(path, "safetensors", spec, tensors)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as err:
        raise BrokenFileError(path, f"it is not JSON ({err})") from err
    if not isinstance(values, dict):
        raise BrokenFileError(path, "it is not a JSON object")
    return values


def _check_architecture(field: str, path: Path, architecture: str, experts: object) -> None:
    known = ", ".join(ARCHITECTURES)
    if experts or "moe" in architecture.lower():
        rule = f"be a dense model ({known}): mixtures of experts are not supported"
        raise InputError(field, rule, f"{path}: {architecture}")
    if architecture not in ARCHITECTURES:
        raise InputError(field, f"be a model of architecture {known}", f"{path}: {architecture}")


def _integer(path: Path, key: str, value: object) -> int:
    if not isinstance(value, int) or value < 1:
        raise BrokenFileError(path, f"{key} must be a whole number above zero. Got {value!r} instead")
    return value


def _summarised(path: Path, format: str, spec: ModelSpec, tensors: dict[str, TensorInfo]) -> Checkpoint:
    elements: Counter[str] = Counter()
    for info in tensors.values():
        elements[info.dtype] += info.elements
    weights = weigh(path, tensors, layers=spec.layers)
    return Checkpoint(
        name=spec.name,
        path=path,
        format=format,
        spec=spec,
        quantization=elements.most_common(1)[0][0],
        weight_bytes=weights.total_bytes,
        layer_weight_bytes=sum(weights.layer_bytes) // spec.layers,
    )
