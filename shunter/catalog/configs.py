"""Hugging Face folders: what config.json says of a model's shape, and what its weights are once loaded.

Engines load a folder in the type that its configuration names, whatever type it is stored in, and leave an
output matrix unused that is stored beside an embedding which is that too. Both count here as loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shunter.catalog.config_sizes import check_tensors
from shunter.catalog.models import ModelSpec, check_modelled
from shunter.engines.gguf_shape import GENERATES
from shunter.engines.headers import TensorInfo, read_tensors, weight_files
from shunter.errors import BrokenFileError, InputError
from shunter.reading import read_json

FAMILIES = (
    *("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "phi3"),
    *("gemma", "gemma2", "gemma3_text", "gpt_oss", "llama4_text", "deepseek_v2", "deepseek_v3", "kimi_k2"),
    *("glm4", "glm4_moe", "granite", "cohere", "cohere2", "olmo2", "olmo3", "smollm3", "seed_oss"),
)
"""Families of folders whose sizes are known, as ``model_type`` of the part that generates text."""

_TIED = ("gemma", "gemma2", "gemma3_text", "cohere", "cohere2")
"""Families whose output layer is the embedding unless their configuration says no."""

_LEFT_OUT = {
    "gemma3_text": {
        **{"vocab_size": 262208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256},
        "sliding_window": 4096,
    }
}
"""What published configurations of a family leave out, as transformers fills it in.

Source: transformers, models/gemma3/configuration_gemma3.py.
"""

_PACKED_BESIDE = {"quantize_config.json": "GPTQ", "quant_config.json": "AWQ"}
"""Files that said how a folder is quantised before config.json did."""

_PLAIN_LAYERS = ("full_attention", "sliding_attention", "chunked_attention")
_LOADED = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}
LOADED_TYPES = tuple(name for name, _ in _LOADED.values())
_STORED = {"F64": "float32", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_FLOATS = (*_STORED, "F8_E4M3", "F8_E5M2")
_HEAD = "lm_head.weight"
_LAYER = re.compile(r"^model\.layers\.(\d+)\.")
_EXPERT = re.compile(r"^model\.layers\.(\d+)\.(?:.+\.)?experts\.")


@dataclass(frozen=True)
class Folder:
    """A Hugging Face folder.

    Attributes:
        spec: Shape of the part that generates text.
        tensors: What is loaded, in the type that it is loaded in, under names as plain models have them;
            routed experts under GGUF's names for them.
        method: How it is quantised, in capitals; None: it is not.
    """

    spec: ModelSpec
    tensors: dict[str, TensorInfo]
    method: str | None


def read_folder(path: Path, field: str) -> Folder:
    """Reads a folder's configuration and tensor tables.

    Raises:
        InputError: Its family's sizes are not known, it lacks a file, or it holds two sets of weights.
        BrokenFileError: A value is missing or of another type than it must be.
        HeaderError: A file of weights cannot be read.
    """
    if not (path / "config.json").exists():
        raise InputError(field, "be a GGUF file or a folder that holds config.json", str(path))
    whole = read_json(path / "config.json")
    text = whole.get("text_config")
    config = _Config(path / "config.json", {**whole, **text} if isinstance(text, dict) else whole)
    _check_family(config, whole, f"{path}", field)
    _check_weight_files(path, field)
    stored = {_plain_name(name): info for name, info in read_tensors(path).items()}
    method = _method(config, stored)
    tensors = stored if method else _as_loaded(config, stored)
    is_tied = _is_tied(config, stored)
    spec = _spec(config, model_name(path), stored, is_tied)
    check_tensors(config.path, stored, spec, scaled=method in _PACKED_BESIDE.values())
    return Folder(spec, _used(config, tensors, spec, is_tied), method)


def model_name(path: Path) -> str:
    """The folder's name; of a snapshot in the cache of Hugging Face, its repository's."""
    for place in (path.absolute(), path.resolve()):
        repository = place.parent.parent.name
        if place.parent.name == "snapshots" and repository.startswith("models--"):
            return repository.rpartition("--")[2]
    return path.resolve().name


class _Config:
    """Values of config.json, checked as they are read."""

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self.path, self.values = path, values
        self.family = str(values.get("model_type", "unnamed"))

    def number(self, key: str, default: int | None = None) -> int:
        """A whole number above zero; a default may be 0, and stands where the key is missing or null."""
        value = self.values.get(key)
        if value is None:
            value = _LEFT_OUT.get(self.family, {}).get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < (default is None):
            why = f"{key} must be a whole number above zero. Got {value!r} instead"
            raise BrokenFileError(self.path, why)
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise BrokenFileError(self.path, f"{key} must be true or false. Got {value!r} instead")
        return value

    def listed(self, key: str, kind: type) -> list[Any]:
        """A list of texts or of whole numbers; empty where the key is missing or null."""
        value = self.values.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(part, kind) for part in value):
            what = "texts" if kind is str else "whole numbers"
            raise BrokenFileError(self.path, f"{key} must be a list of {what}. Got {value!r} instead")
        return value


def _check_family(config: _Config, whole: Mapping[str, Any], path: str, field: str) -> None:
    if config.family == "gemma3":  # older configurations leave the type of their text part out
        config.family = "gemma3_text"
    for family in (str(whole.get("model_type", "")), config.family):
        check_modelled(family, f"{field}: {path}")
    if config.family not in FAMILIES:
        rule = f"be a model of a family of {', '.join(FAMILIES)}"
        raise InputError(field, rule, f"{path}: {config.family}")
    classes = config.listed("architectures", str)
    generates = ("ForCausalLM", "ForConditionalGeneration")
    if classes and not any(name.endswith(generates) for name in classes):
        raise InputError(field, GENERATES, f"{path}: {', '.join(classes)}")


def _check_weight_files(path: Path, field: str) -> None:
    """Checks that a folder holds weights, and once: an engine might take others than are counted."""
    listed = weight_files(path)
    if listed == [path / "model.safetensors"] and not listed[0].exists():
        raise InputError(field, "hold model.safetensors or model.safetensors.index.json", str(path))
    adapters = set(path.glob("adapter_*.safetensors"))
    others = sorted(file.name for file in set(path.glob("*.safetensors")) - set(listed) - adapters)
    if others:
        rule = f"hold one set of weights: beside {listed[0].name} lies {others[0]}; move one set away"
        raise InputError(field, rule, str(path))


def _plain_name(name: str) -> str:
    """A tensor's name as a plain model has it; layers of parts that see or hear are no layers of it."""
    plain = name.removeprefix("language_model.").replace("model.language_model.", "model.", 1)
    if _LAYER.match(plain) or plain.startswith(("model.embed_tokens.", "model.norm.", "lm_head.")):
        return plain
    return f"beside.{name.replace('layers.', 'blocks.')}"


def _method(config: _Config, stored: Mapping[str, TensorInfo]) -> str | None:
    """How a folder is quantised; None: it is not.

    Raises:
        BrokenFileError: It does not say how, and its weights are whole numbers.
    """
    quantised = config.values.get("quantization_config")
    if quantised is None:
        packed = [n for n, info in stored.items() if n.endswith("weight") and info.dtype not in _FLOATS]
        beside = [how for name, how in _PACKED_BESIDE.items() if (config.path.parent / name).exists()]
        if packed and not beside:
            why = f"it must say by quantization_config how {packed[0]} is quantised, which is"
            raise BrokenFileError(config.path, f"{why} {stored[packed[0]].dtype}")
        return beside[0] if packed else None
    method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
    if not isinstance(method, str) or not method:
        why = f"quantization_config must name its quant_method. Got {quantised!r} instead"
        raise BrokenFileError(config.path, why)
    return method.upper()


def _as_loaded(config: _Config, stored: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Tensors in the type that engines load them in: the configuration's, or else the first of the files'."""
    named = config.values.get("dtype") or config.values.get("torch_dtype")
    if named is None:
        named = next((_STORED[info.dtype] for info in stored.values() if info.dtype in _STORED), "float32")
    named = str(named).removeprefix("torch.")
    if named not in _LOADED:
        why = f"dtype must be one of {', '.join(_LOADED)}. Got {named!r} instead"
        raise BrokenFileError(config.path, why)
    dtype, element_bytes = _LOADED[named]
    return {
        name: TensorInfo(dtype, info.shape, info.elements * element_bytes) if info.dtype in _FLOATS else info
        for name, info in stored.items()
    }


def _is_tied(config: _Config, stored: Mapping[str, TensorInfo]) -> bool:
    said = config.values.get("tie_word_embeddings")
    if said is None:
        return config.family in _TIED or _HEAD not in stored
    is_tied = config.flag("tie_word_embeddings", False)
    if not is_tied and _HEAD not in stored:
        raise BrokenFileError(
            config.path, f"it says tie_word_embeddings false, and the folder holds no {_HEAD}"
        )
    return is_tied


def _used(
    config: _Config, tensors: Mapping[str, TensorInfo], spec: ModelSpec, is_tied: bool
) -> dict[str, TensorInfo]:
    ahead = range(spec.layers, spec.layers + config.number("num_nextn_predict_layers", 0))
    used = {}
    for name, info in tensors.items():
        match, expert = _LAYER.match(name), _EXPERT.match(name)
        if (name == _HEAD and is_tied) or (match and int(match[1]) in ahead):
            continue
        used[f"blk.{expert[1]}.ffn_up_exps.{name}" if expert else name] = info
    return used


def _spec(config: _Config, name: str, stored: Mapping[str, TensorInfo], is_tied: bool) -> ModelSpec:
    heads, hidden = config.number("num_attention_heads"), config.number("hidden_size")
    layers = config.number("num_hidden_layers")
    windowed, window = _windows(config, layers)
    first = "model.layers.0.self_attn."
    return ModelSpec(
        name=name,
        layers=layers,
        hidden_size=hidden,
        attn_heads=heads,
        vocab_size=config.number("vocab_size"),
        tied_embeddings=is_tied,
        qkv_bias=first + "q_proj.bias" in stored,
        qk_norm=first + "q_norm.weight" in stored,
        windowed_layers=windowed,
        window_tokens=window,
        all_biases=first + "sinks" in stored,
        router_bias=any(tensor.endswith(".gate.e_score_correction_bias") for tensor in stored),
        fused_qkv=first + "qkv_proj.weight" in stored,
        **_attention(config, hidden, heads),
        **_mlp(config, layers),
    )


def _attention(config: _Config, hidden: int, heads: int) -> dict[str, int]:
    latent = config.number("kv_lora_rank", 0)
    if not latent:
        return {
            "kv_heads": config.number("num_key_value_heads", heads),
            "head_dim": config.number("head_dim", 0) or hidden // heads,
        }
    rope_dim = config.number("qk_rope_head_dim")
    return {
        "kv_heads": heads,
        "head_dim": config.number("qk_nope_head_dim") + rope_dim,
        "value_dim": config.number("v_head_dim"),
        "kv_lora_rank": latent,
        "q_lora_rank": config.number("q_lora_rank", 0),
        "rope_dim": rope_dim,
    }


_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")


def _mlp(config: _Config, layers: int) -> dict[str, int]:
    said = (config.number(key, 0) for key in _EXPERT_COUNTS if config.values.get(key) is not None)
    experts = next(said, 0)
    size = config.number("intermediate_size")
    if not experts:
        return {"intermediate_size": size}
    expert_size = config.number("moe_intermediate_size", 0) or size
    shared = config.number("shared_expert_intermediate_size", 0)
    shared = shared or config.number("n_shared_experts", 0) * expert_size
    if config.family == "llama4_text":
        size, shared = config.number("intermediate_size_mlp"), expert_size
    sparse = _sparse_layers(config, layers)
    return {
        "intermediate_size": size,
        "experts": experts,
        "experts_used": config.number("num_experts_per_tok"),
        "expert_size": expert_size,
        "shared_expert_size": shared,
        "dense_layers": layers - sparse,
    }


def _sparse_layers(config: _Config, layers: int) -> int:
    """Layers that have experts."""
    step = config.number("decoder_sparse_step", 1) * config.number("interleave_moe_layer_step", 1)
    first = config.number("first_k_dense_replace", 0)
    skipped = config.listed("mlp_only_layers", int)
    return sum((i + 1) % max(1, step) == 0 and i >= first and i not in skipped for i in range(layers))


def _windows(config: _Config, layers: int) -> tuple[int, int]:
    """Layers that have a window, and its length."""
    family, kinds = config.family, _layer_kinds(config, layers)
    window = config.number("attention_chunk_size" if family == "llama4_text" else "sliding_window", 0)
    if not window or not config.flag("use_sliding_window", not family.startswith("qwen")):
        return 0, 0
    windowed = len(kinds) - kinds.count("full_attention") if kinds else _windowed_layers(config, layers)
    return (windowed, window) if windowed else (0, 0)


def _layer_kinds(config: _Config, layers: int) -> list[str]:
    """What each layer attends to; empty where it is not said."""
    kinds = config.values.get("layer_types")
    if kinds is None:
        return []
    if not isinstance(kinds, list) or len(kinds) != layers or not set(map(str, kinds)) <= set(_PLAIN_LAYERS):
        got = sorted(set(map(str, kinds))) if isinstance(kinds, list) else kinds
        rule = f"name each of {layers} layers one of {', '.join(_PLAIN_LAYERS)}"
        raise BrokenFileError(config.path, f"layer_types must {rule}. Got {got!r} instead")
    return kinds


def _windowed_layers(config: _Config, layers: int) -> int:
    """Layers that have a window where the configuration does not say it of each."""
    family = config.family
    if family == "llama4_text":
        positioned = config.listed("no_rope_layers", int) or [(i + 1) % 4 for i in range(layers)]
        return sum(map(bool, positioned))
    named = {"gemma3_text": 6, "cohere2": 4, "olmo3": 4}
    every = {"gemma2": 2, "gpt_oss": 2}.get(family)
    if family in named:
        every = config.number("sliding_window_pattern", named[family])
    if every:
        return layers - layers // every
    return max(0, layers - config.number("max_window_layers", 0)) if family.startswith("qwen") else layers
