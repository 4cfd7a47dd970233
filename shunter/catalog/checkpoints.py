"""Model files on disk, GGUF and Hugging Face folders: their shape and size, read from headers only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from shunter.catalog.configs import LOADED_TYPES, read_folder
from shunter.catalog.models import ModelSpec, check_modelled
from shunter.engines.gguf_shape import GgufShape, ShapeError, is_expert, read_gguf_shape
from shunter.engines.headers import HeaderError, TensorInfo, read_gguf_header
from shunter.engines.weights import weigh
from shunter.errors import BrokenFileError, InputError

__all__ = ["Checkpoint", "read_checkpoint"]

GGUF_FAMILIES = (
    *("llama", "qwen2", "qwen3", "qwen2moe", "qwen3moe", "mistral3", "phi3", "gemma", "gemma2", "gemma3"),
    *("gpt-oss", "llama4", "deepseek2", "glm4", "glm4moe", "granite", "command-r", "cohere2", "olmo2"),
    *("smollm3", "seed_oss"),
)
"""Families of GGUF files whose sizes are known, as llama.cpp calls them."""


@dataclass(frozen=True)
class Checkpoint:
    """A model file or folder.

    Attributes:
        name: File stem or folder name; also the name of its spec. A snapshot in the cache of Hugging Face is
            named by its repository.
        path: The GGUF file or the Hugging Face folder.
        format: ``gguf`` or ``safetensors``.
        spec: Its shape.
        quantization: The type that holds most weights once loaded: ``F16``, ``Q8_0``, ``Q4_K``, …; of a
            folder that is quantised, how: ``AWQ``, ``GPTQ``, ``BITSANDBYTES``, ``FP8``, …
        weight_bytes: Bytes of all tensors once loaded.
        layer_weight_bytes: Bytes of one transformer layer (mean).
        counted_params: All weights, counted; 0: as the spec has it.
        expert_params: Those of routed experts.
        expert_weight_bytes: Bytes of routed experts.
        tied_bytes: Bytes of an embedding that is the output layer too, and held twice where layers are split.
    """

    name: str
    path: Path
    format: str
    spec: ModelSpec
    quantization: str
    weight_bytes: int
    layer_weight_bytes: int
    counted_params: int = 0
    expert_params: int = 0
    expert_weight_bytes: int = 0
    tied_bytes: int = 0

    @property
    def params(self) -> int:
        """All parameters."""
        return self.counted_params or self.spec.params

    @property
    def active_params(self) -> int:
        """Parameters without those of the experts that a token is not sent to."""
        unused = self.spec.experts - self.spec.experts_used
        return self.params - self.expert_params * unused // max(1, self.spec.experts)

    @property
    def expert_share(self) -> float:
        """Share of the layers' bytes that routed experts are."""
        return self.expert_weight_bytes / (self.spec.layers * self.layer_weight_bytes)

    @property
    def is_packed(self) -> bool:
        """Whether it is a folder whose weights are quantised, several to an element."""
        return self.format == "safetensors" and self.quantization not in LOADED_TYPES

    def named(self, name: str) -> Checkpoint:
        """The same checkpoint under another name."""
        return replace(self, name=name, spec=replace(self.spec, name=name))


def read_checkpoint(path: str | Path, *, field: str = "--model") -> Checkpoint:
    """Reads what a checkpoint is from its headers; never loads weights.

    Args:
        path: A GGUF file, or a folder with ``config.json`` and safetensors files.
        field: Named in errors.

    Raises:
        InputError: There is nothing at the path, its family's sizes are not known, or it holds two sets of
            weights.
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
    except ShapeError as err:
        raise InputError(field, err.rule, f"{path}: {err.what}") from err
    except HeaderError as err:
        raise BrokenFileError(err.path, err.why) from err
    except OSError as err:
        raise BrokenFileError(err.filename or path, err.strerror or str(err)) from err


def _read_gguf(path: Path, field: str) -> Checkpoint:
    metadata, tensors = read_gguf_header(path)
    family = metadata.get("general.architecture", "unnamed")
    if isinstance(family, str) and family not in GGUF_FAMILIES:
        check_modelled(family, f"{field}: {path}")
        raise InputError(field, f"be a model of a family of {', '.join(GGUF_FAMILIES)}", f"{path}: {family}")
    shape, loaded = read_gguf_shape(path, metadata, tensors)
    return _summarised(path, path.stem, "gguf", _spec(path.stem, shape, loaded), loaded)


def _spec(name: str, shape: GgufShape, tensors: Mapping[str, TensorInfo]) -> ModelSpec:
    if shape.kv_lora_rank:
        latent = {
            "kv_lora_rank": shape.kv_lora_rank,
            "q_lora_rank": shape.q_lora_rank,
            "rope_dim": shape.rope_dim,
        }
    else:
        latent = {}
    return ModelSpec(
        name=name,
        layers=shape.layers,
        hidden_size=shape.hidden_size,
        attn_heads=shape.attn_heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate_size,
        vocab_size=shape.vocab_size,
        tied_embeddings="output.weight" not in tensors,
        qkv_bias="blk.0.attn_q.bias" in tensors or "blk.0.attn_qkv.bias" in tensors,
        qk_norm="blk.0.attn_q_norm.weight" in tensors,
        value_dim=0 if shape.value_dim == shape.head_dim else shape.value_dim,
        windowed_layers=shape.windowed_layers,
        window_tokens=shape.window_tokens,
        experts=shape.experts,
        experts_used=shape.experts_used,
        expert_size=shape.expert_size,
        shared_expert_size=shape.shared_expert_size,
        dense_layers=shape.dense_layers,
        router_bias=any(name.endswith(".exp_probs_b.bias") for name in tensors),
        all_biases="blk.0.attn_sinks.weight" in tensors,
        fused_qkv="blk.0.attn_qkv.weight" in tensors,
        **latent,
    )


def _read_folder(path: Path, field: str) -> Checkpoint:
    folder = read_folder(path, field)
    found = _summarised(path, folder.spec.name, "safetensors", folder.spec, folder.tensors)
    if folder.method is None:
        return found
    # Packed weights are several to an element, so that the shape tells how many there are.
    spec = folder.spec
    return replace(found, quantization=folder.method, counted_params=0, expert_params=spec.expert_params)


def _summarised(
    path: Path, name: str, format: str, spec: ModelSpec, tensors: Mapping[str, TensorInfo]
) -> Checkpoint:
    elements: Counter[str] = Counter()
    for info in tensors.values():
        elements[info.dtype] += info.elements
    weights = weigh(path, tensors, layers=spec.layers)
    experts = [info for tensor, info in tensors.items() if is_expert(tensor)]
    return Checkpoint(
        name=name,
        path=path,
        format=format,
        spec=spec,
        quantization=elements.most_common(1)[0][0],
        weight_bytes=weights.total_bytes,
        layer_weight_bytes=sum(weights.layer_bytes) // spec.layers,
        counted_params=elements.total(),
        expert_params=sum(info.elements for info in experts),
        expert_weight_bytes=sum(info.nbytes for info in experts),
        tied_bytes=weights.embedding_bytes if format == "gguf" and spec.tied_embeddings else 0,
    )
