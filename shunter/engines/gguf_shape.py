"""The shape of the model in a GGUF file, from its metadata and tensor names: the one reading of both sides.

What llama.cpp knows of a family by its name alone is here too: which of its layers keep a window of keys and
values only. A family that has windows and is not here is refused, not guessed at.

Source: llama.cpp, docs of the keys in gguf-py/gguf/constants.py, and each family's ``load_arch_hparams``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from .base import CheckpointError
from .headers import HeaderError, TensorInfo
from .tensor_sizes import Wanted, check_sizes

__all__ = ["GENERATES", "GgufShape", "ShapeError", "is_expert", "read_gguf_shape"]

GENERATES = "be a model that generates text, not one for embeddings or ranking"

_FULL_EVERY = {"cohere2": 4, "gemma2": 2, "gemma3": 6, "gpt-oss": 2, "llama4": 4, "olmo2": 4}
"""Of so many layers the last one keeps all tokens, the others a window."""

_WINDOWS = {"gemma2": 4096, "llama4": 8192}
"""Windows that llama.cpp takes where the file names none."""

_NAMED_WINDOWS = ("cohere2", "gpt-oss")
"""Families whose files llama.cpp does not load unless they name the window."""

_NO_WINDOWS = (
    *("llama", "mistral3", "phi3", "qwen2", "qwen2moe", "qwen3", "qwen3moe"),
    *("granite", "command-r", "smollm3", "seed_oss"),
)
"""Families that llama.cpp runs without a window, whatever the file says."""

_PER_LAYER = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")
"""Numbers that llama.cpp takes one for each layer of, too."""

_EXPERT = re.compile(r"^blk\.\d+\.ffn_(?:gate|up|down|gate_up)(?:_exps\.|\.\d+\.)")
_EXPERT_DOWN = re.compile(r"^blk\.\d+\.ffn_down(?:_exps|\.(\d+))\.weight$")
_LAYER = re.compile(r"^blk\.(\d+)\.")


class ShapeError(CheckpointError):
    """A file is whole and holds a model that shunter cannot size, or no engine can load.

    Args:
        path: The file.
        rule: The rest of "must …".
        what: What it is instead.
    """

    def __init__(self, path: Path, rule: str, what: str) -> None:
        super().__init__(f"{path} must {rule}. Got {what!r} instead.")
        self.path, self.rule, self.what = path, rule, what


@dataclass(frozen=True)
class GgufShape:
    """A model's shape.

    Attributes:
        architecture: The family, as llama.cpp calls it.
        layers: Transformer layers, without those that only predict further tokens ahead.
        hidden_size: Width of the residual stream.
        attn_heads: Query heads.
        kv_heads: Key and value heads; of a latent model, as many as query heads.
        head_dim: Width of one head of queries and keys.
        value_dim: Width of one head of values.
        intermediate_size: Width of the MLP of layers without experts.
        vocab_size: Rows of the embedding.
        windowed_layers: Layers that keep a window of keys and values only.
        window_tokens: Length of the window; 0: none.
        experts: Routed experts of a layer; 0: none.
        experts_used: Experts that a token is sent to.
        expert_size: Width of one expert's MLP.
        shared_expert_size: Width of the MLP beside the experts.
        dense_layers: Layers without experts in a model that has some.
        kv_lora_rank: Width of the latent vector that is kept in place of keys and values; 0: these are kept.
        q_lora_rank: Width of the vector that queries are made of; 0: none.
        rope_dim: Of ``head_dim``, what is kept beside the latent vector.
    """

    architecture: str
    layers: int
    hidden_size: int
    attn_heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    intermediate_size: int
    vocab_size: int
    windowed_layers: int = 0
    window_tokens: int = 0
    experts: int = 0
    experts_used: int = 0
    expert_size: int = 0
    shared_expert_size: int = 0
    dense_layers: int = 0
    kv_lora_rank: int = 0
    q_lora_rank: int = 0
    rope_dim: int = 0

    @property
    def kv_width(self) -> int:
        """Elements of keys and values that one token adds in one layer."""
        if self.kv_lora_rank:
            return self.kv_lora_rank + self.rope_dim
        return self.kv_heads * (self.head_dim + self.value_dim)


def read_gguf_shape(
    path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, TensorInfo]
) -> tuple[GgufShape, dict[str, TensorInfo]]:
    """Reads a model's shape.

    Args:
        path: The file; named in errors.
        metadata: As ``read_gguf_header`` gives it.
        tensors: As ``read_gguf_header`` gives them.

    Returns:
        The shape, and the tensors that llama.cpp loads: without those of layers that predict tokens ahead.

    Raises:
        HeaderError: The header lacks something, or a value is of another type than it must be.
        ShapeError: It is a part of a file, or generates no text, or its layers are not alike.
    """
    keys = _Keys(path, metadata)
    _check_whole(path, keys)
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise HeaderError(path, "it has no token embedding (token_embd.weight): it is not a whole model")
    blocks = keys.number("block_count")
    hidden, heads = keys.number("embedding_length"), keys.number("attention.head_count")
    if embedding.shape[1] != hidden:
        why = f"it says embedding_length {hidden}, and its token embedding is {embedding.shape[1]} wide"
        raise HeaderError(path, why)
    layers = blocks - keys.number("nextn_predict_layers", 0)
    ahead = {_layer_of(name) for name in tensors if ".nextn." in name}
    if ahead and len(ahead) != blocks - layers:
        raise HeaderError(path, f"it says nextn_predict_layers {blocks - layers}, and holds {len(ahead)}")
    if layers < 1:
        why = f"it says {blocks} layers, of which {blocks - layers} only predict tokens ahead"
        raise HeaderError(path, why)
    windowed, window = _windows(keys, layers)
    loaded = {name: info for name, info in tensors.items() if not layers <= _layer_of(name) < blocks}
    shape = GgufShape(
        architecture=keys.architecture,
        layers=layers,
        hidden_size=hidden,
        attn_heads=heads,
        vocab_size=embedding.shape[0],
        windowed_layers=windowed,
        window_tokens=window,
        **_attention(keys, hidden, heads),
        **_mlp(keys, loaded, layers),
    )
    check_sizes(path, loaded.items(), _wanted(shape))
    _check_experts(path, shape, loaded)
    return shape, loaded


def is_expert(name: str) -> bool:
    """Whether a tensor holds routed experts, in one piece or one by one as older files do."""
    return _EXPERT.match(name) is not None


class _Keys:
    """Metadata of one family, checked as it is read."""

    def __init__(self, path: Path, metadata: Mapping[str, Any]) -> None:
        self.path, self.metadata = path, metadata
        architecture = metadata.get("general.architecture", "unnamed")
        if not isinstance(architecture, str):
            raise HeaderError(path, f"its general.architecture is no text: {_shortened(architecture)}")
        self.architecture = architecture

    def value(self, key: str) -> Any:
        return self.metadata.get(f"{self.architecture}.{key}")

    def number(self, key: str, default: int | None = None) -> int:
        """A whole number; where it may differ from layer to layer, the one that all of them have."""
        value, name = self.value(key), f"{self.architecture}.{key}"
        if value is None:
            if default is None:
                raise HeaderError(self.path, f"its header does not say {name}")
            return default
        if key in _PER_LAYER and isinstance(value, (tuple, list)) and value:
            value = self._common(name, value)
        if (
            isinstance(value, bool)
            or not isinstance(value, int)
            or value < 0
            or (default is None and not value)
        ):
            least = 1 if default is None else 0
            why = f"{name} must be a whole number from {least} on. Got {_shortened(value)} instead"
            raise HeaderError(self.path, why)
        return value

    def _common(self, name: str, values: tuple[Any, ...] | list[Any]) -> Any:
        layers = self.value("block_count")
        if len(values) != layers:
            rule = f"be one number, or one for each of {layers} layers"
            raise HeaderError(self.path, f"{name} must {rule}. Got {_shortened(values)} instead")
        if len(set(values)) > 1:
            raise ShapeError(self.path, f"have layers that are alike in {name}", _shortened(values))
        return values[0]


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _layer_of(name: str) -> int:
    match = _LAYER.match(name)
    return int(match[1]) if match else -1


def _check_whole(path: Path, keys: _Keys) -> None:
    if keys.metadata.get("split.count", 1) not in (0, 1):
        rule = "be one GGUF file; join its parts with llama-gguf-split --merge"
        raise ShapeError(path, rule, "one part of several")
    causal = keys.value("attention.causal")
    if not isinstance(causal, (bool, NoneType)):
        why = f"{keys.architecture}.attention.causal must be true or false. Got {_shortened(causal)} instead"
        raise HeaderError(path, why)
    if causal is False:
        raise ShapeError(path, GENERATES, "an encoder")
    if keys.number("pooling_type", 0):
        raise ShapeError(path, GENERATES, "an embedding model")


def _windows(keys: _Keys, layers: int) -> tuple[int, int]:
    family = keys.architecture
    default = None if family in _NAMED_WINDOWS else _WINDOWS.get(family, 0)
    window = keys.number("attention.sliding_window", default)
    if family == "llama4" and window:
        window = _WINDOWS[family]  # llama.cpp takes no other
    if not window or family in _NO_WINDOWS:
        return 0, 0
    pattern = keys.value("attention.sliding_window_pattern")
    if isinstance(pattern, (tuple, list)):
        if len(pattern) < layers or not all(isinstance(one, int) for one in pattern):
            name = f"{family}.attention.sliding_window_pattern"
            raise HeaderError(keys.path, f"{name} must say of each layer whether it has a window")
        windowed = sum(map(bool, pattern[:layers]))
        return windowed, window if windowed else 0
    every = keys.number("attention.sliding_window_pattern", _FULL_EVERY.get(family, 0))
    if not every:
        raise ShapeError(keys.path, "be of a family whose windows are known", f"{family} with a window")
    windowed = layers - layers // every
    return windowed, window if windowed else 0


def _attention(keys: _Keys, hidden: int, heads: int) -> dict[str, int]:
    latent = keys.number("attention.key_length_mla", 0)
    if latent:
        return {
            "kv_heads": heads,
            "head_dim": latent,
            "value_dim": keys.number("attention.value_length_mla"),
            "kv_lora_rank": keys.number("attention.kv_lora_rank"),
            "q_lora_rank": keys.number("attention.q_lora_rank", 0),
            "rope_dim": keys.number("rope.dimension_count"),
        }
    key_dim = keys.number("attention.key_length", hidden // heads)
    return {
        "kv_heads": keys.number("attention.head_count_kv", heads),
        "head_dim": key_dim,
        "value_dim": keys.number("attention.value_length", key_dim),
    }


def _wanted(shape: GgufShape) -> dict[str, Wanted]:
    """Sides of tensors by what their names end in."""
    keys = f"key_length {shape.head_dim}"
    queries = Wanted(0, shape.attn_heads * shape.head_dim, f"head_count {shape.attn_heads} x {keys}")
    shared = {
        "attn_q.weight": queries,
        "attn_q_b.weight": queries,
        "attn_output.weight": Wanted(
            -1,
            shape.attn_heads * shape.value_dim,
            f"head_count {shape.attn_heads} x value_length {shape.value_dim}",
        ),
        "ffn_down.weight": Wanted(
            -1, shape.intermediate_size, f"feed_forward_length {shape.intermediate_size}"
        ),
        "ffn_down_shexp.weight": Wanted(
            -1, shape.shared_expert_size, f"{shape.shared_expert_size} wide shared experts"
        ),
    }
    if shape.kv_lora_rank:
        latent = f"kv_lora_rank {shape.kv_lora_rank} + rope.dimension_count {shape.rope_dim}"
        return {**shared, "attn_kv_a_mqa.weight": Wanted(0, shape.kv_width, latent)}
    heads = f"head_count_kv {shape.kv_heads}"
    return {
        **shared,
        "attn_k.weight": Wanted(0, shape.kv_heads * shape.head_dim, f"{heads} x {keys}"),
        "attn_v.weight": Wanted(
            0, shape.kv_heads * shape.value_dim, f"{heads} x value_length {shape.value_dim}"
        ),
        "attn_qkv.weight": Wanted(
            0, queries.size + shape.kv_heads * (shape.head_dim + shape.value_dim), f"{queries.said}, {heads}"
        ),
    }


def _check_experts(path: Path, shape: GgufShape, tensors: Mapping[str, TensorInfo]) -> None:
    found, width = 0, shape.expert_size
    for name, info in tensors.items():
        if match := _EXPERT_DOWN.match(name):
            found = max(found, int(match[1]) + 1 if match[1] else info.shape[0])
            width = info.shape[-1]
    if (found, width) != (shape.experts, shape.expert_size):
        said = f"expert_count {shape.experts} and experts {shape.expert_size} wide"
        raise HeaderError(path, f"it says {said}, and its tensors are of {found}, {width} wide")


def _mlp(keys: _Keys, tensors: Mapping[str, TensorInfo], layers: int) -> dict[str, int]:
    experts = keys.number("expert_count", 0)
    if not experts:
        return {"intermediate_size": keys.number("feed_forward_length")}
    size = keys.number("expert_feed_forward_length", keys.number("feed_forward_length", 0))
    # Llama 4's files do not say that one expert is shared.
    shared = keys.number("expert_shared_count", int(keys.architecture == "llama4")) * size
    sparse = {_layer_of(name) for name in tensors if is_expert(name)}
    if not sparse:
        raise HeaderError(keys.path, f"it says {experts} experts and holds the tensors of none")
    return {
        "intermediate_size": keys.number("feed_forward_length", size),
        "experts": experts,
        "experts_used": keys.number("expert_used_count"),
        "expert_size": size,
        "shared_expert_size": keys.number("expert_shared_feed_forward_length", shared),
        "dense_layers": layers - len(sparse),
    }
