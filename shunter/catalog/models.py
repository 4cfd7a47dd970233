"""Architecture facts of decoder-only models and the sizes that follow from them.

Layers may keep keys and values of a window only (Gemma, gpt-oss, Llama 4), have mixtures of experts, or keep
one latent vector for all heads (DeepSeek). What is none of these is refused by name (``check_modelled``).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.resources import files
from typing import Any

from shunter.catalog.model_names import known_model, nearest_models
from shunter.errors import InputError, UnknownNameError

__all__ = [
    "ModelSpec",
    "catalog_models",
    "check_modelled",
    "get_model",
    "known_models",
    "scaled_model",
]


@dataclass(frozen=True)
class ModelSpec:
    """Shape of a decoder-only transformer.

    Of norms two a layer are counted; the further ones of Gemma and GLM are some 3 in 100,000 of all.

    Attributes:
        name: Name in the catalogue or the checkpoint.
        layers: Transformer layers, without the output layer.
        hidden_size: Width of the residual stream.
        attn_heads: Query heads.
        kv_heads: Key and value heads.
        head_dim: Width of one head of queries and keys.
        intermediate_size: Width of the gated MLP of layers without experts.
        vocab_size: Rows of the embedding.
        tied_embeddings: Whether the output layer reuses the embedding.
        qkv_bias: Whether q, k and v have biases (Qwen2).
        qk_norm: Whether q and k are normalised per head (Qwen3).
        value_dim: Width of one head of values; 0: as ``head_dim``.
        windowed_layers: Layers that keep keys and values of the last ``window_tokens`` only.
        window_tokens: Length of that window; 0 where no layer has one.
        experts: Routed experts of a layer; 0: none, the MLP is dense.
        experts_used: Experts that one token is sent to.
        expert_size: Width of one expert's MLP.
        shared_expert_size: Width of the MLP beside the experts, which all tokens pass; 0: none.
        dense_layers: Layers without experts in a model that has some.
        router_bias: Whether each expert has a bias in the choice among them (DeepSeek V3, GLM 4.5).
        all_biases: Whether output projection, router and experts have biases, and heads sinks (gpt-oss).
        fused_qkv: Whether q, k and v are one matrix (Phi), which quantisations treat as one.
        kv_lora_rank: Width of the latent vector that is kept in place of keys and values; 0: these are kept.
        q_lora_rank: Width of the vector that queries are made of; 0: they are made directly.
        rope_dim: Of ``head_dim``, the part that carries positions and is kept beside the latent vector.
    """

    name: str
    layers: int
    hidden_size: int
    attn_heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tied_embeddings: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    value_dim: int = 0
    windowed_layers: int = 0
    window_tokens: int = 0
    experts: int = 0
    experts_used: int = 0
    expert_size: int = 0
    shared_expert_size: int = 0
    dense_layers: int = 0
    router_bias: bool = False
    all_biases: bool = False
    fused_qkv: bool = False
    kv_lora_rank: int = 0
    q_lora_rank: int = 0
    rope_dim: int = 0

    @property
    def total_layers(self) -> int:
        """Transformer layers plus the output layer, as llama.cpp counts gpu_layers."""
        return self.layers + 1

    @property
    def params_per_layer(self) -> int:
        """Parameters of one transformer layer; where only some have experts, the mean."""
        return self._layer_params // self.layers

    @property
    def _layer_params(self) -> int:
        per_layer = self._attention_params + 2 * self.hidden_size
        dense = 3 * self.hidden_size * self.intermediate_size
        if not self.experts:
            return self.layers * (per_layer + dense)
        router = self.experts * (self.hidden_size + (self.router_bias or self.all_biases))
        beside = router + 3 * self.hidden_size * self.shared_expert_size
        sparse_layers = self.layers - self.dense_layers
        mlps = self.dense_layers * dense + sparse_layers * beside + self.expert_params
        return self.layers * per_layer + mlps

    @property
    def _attention_params(self) -> int:
        heads, value_dim = self.attn_heads, self.value_dim or self.head_dim
        output = heads * value_dim * self.hidden_size
        if self.kv_lora_rank:
            rank, width = self.q_lora_rank, heads * self.head_dim
            queries = rank * (self.hidden_size + 1 + width) if rank else self.hidden_size * width
            latent = self.hidden_size * (self.kv_lora_rank + self.rope_dim) + self.kv_lora_rank
            made = self.kv_lora_rank * heads * (self.head_dim - self.rope_dim + value_dim)
            return queries + latent + made + output
        widths = heads * self.head_dim + self.kv_heads * (self.head_dim + value_dim)
        extras = self.qkv_bias * widths + self.qk_norm * 2 * self.head_dim
        extras += self.all_biases * (self.hidden_size + heads)
        return self.hidden_size * widths + output + extras

    @property
    def expert_params(self) -> int:
        """Parameters of all routed experts."""
        one = 3 * self.hidden_size * self.expert_size
        one += self.all_biases * (2 * self.expert_size + self.hidden_size)
        return (self.layers - self.dense_layers) * self.experts * one if self.experts else 0

    @property
    def expert_share(self) -> float:
        """Share of the transformer layers' parameters that is in routed experts."""
        return self.expert_params / self._layer_params

    @property
    def embedding_params(self) -> int:
        """Parameters of one embedding (or output) matrix."""
        return self.vocab_size * self.hidden_size

    @property
    def params(self) -> int:
        """All parameters."""
        matrices = 1 if self.tied_embeddings else 2
        return self._layer_params + matrices * self.embedding_params + self.hidden_size

    @property
    def active_params(self) -> int:
        """Parameters without those of the experts that a token is not sent to."""
        unused = self.experts - self.experts_used
        return self.params - (self.expert_params * unused // self.experts if self.experts else 0)

    def kv_bytes_per_token(self, bytes_per_element: float = 2.0) -> float:
        """Bytes of keys and values that one token adds over all layers, those with a window among them."""
        if self.kv_lora_rank:
            return self.layers * (self.kv_lora_rank + self.rope_dim) * bytes_per_element
        width = self.head_dim + (self.value_dim or self.head_dim)
        return self.layers * self.kv_heads * width * bytes_per_element

    @property
    def architecture(self) -> str:
        """The family whose code runs a plain one: ``qwen3``, ``qwen2`` or ``llama``."""
        return "qwen3" if self.qk_norm else "qwen2" if self.qkv_bias else "llama"


_LINEAR, _SSM, _SEES = "layers of linear attention", "state-space layers", "a part that sees or hears"
_NOT_MODELLED = {
    "gemma3n": "embeddings of each layer, and layers that share keys and values",
    "gemma4": "layers of unequal heads that share keys and values",
    "gpt2": "positions that are learned",
    "lfm2": "convolutional layers",
    "rwkv": "recurrent layers",
    "deepseek_v32": "an index of which keys are read",
    "deepseek_v4": "keys and values that are compressed",
    "glm_moe_dsa": "an index of which keys are read",
    "glm_5": "an index of which keys are read",
    "phi3_small": "layers of sparse attention",
    "llama_3_3_nemotron_super": "layers that are unlike",
    "llama_3_1_nemotron_ultra": "layers that are unlike",
    "llama_3_1_nemotron_51b": "layers that are unlike",
    **dict.fromkeys(("qwen3_next", "qwen3_coder_next", "qwen3_5", "qwen3_6"), _LINEAR),
    **dict.fromkeys(("kimi_linear", "minimax_text", "minimax_m1"), _LINEAR),
    **dict.fromkeys(("falcon_h1", "jamba", "mamba", "falcon_mamba", "phi_4_mini_flash"), _SSM),
    **dict.fromkeys(("granitehybrid", "granitemoehybrid", "granite_4_0_h"), _SSM),
    **dict.fromkeys(("nemotron_h", "nemotron_nano", "nemotron_3"), _SSM),
    **dict.fromkeys(("phi_1", "phi_2", "starcoder2"), "no gated MLP"),
    **dict.fromkeys(("falcon_7b", "falcon_40b", "falcon_180b"), "no gated MLP"),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen2_5_omni", "qwen3_omni"), _SEES),
    **dict.fromkeys(("mllama", "llama_3_2_11b_vision", "llama_3_2_90b_vision"), _SEES),
    **dict.fromkeys(("mistral_small_3_1", "mistral_small_3_2", "magistral_small_2509", "ministral_3"), _SEES),
    **dict.fromkeys(("phi_3_vision", "phi_3_5_vision", "phi_4_multimodal", "phi4mm", "kimi_k2_5"), _SEES),
    **dict.fromkeys(("kimi_k2_6", "glm_4_5v", "glm_4_6v"), _SEES),
}
"""Families that are known and whose sizes do not follow from a ``ModelSpec``: what they have instead."""


@cache
def catalog_models() -> dict[str, ModelSpec]:
    """The models of the catalogue that synthetic checkpoints can be like, by name.

    Source: ``shunter/data/models.csv``; each row names the public sources it was checked against.
    """
    return _read("models.csv")


@cache
def _further_models() -> dict[str, ModelSpec]:
    return _read("families.csv")


def known_models() -> dict[str, ModelSpec]:
    """All models whose shape is known, by name: those of ``catalog_models`` and of further families.

    Source: ``shunter/data/families.csv``; each row names the published count that it was checked against.
    """
    return {**catalog_models(), **_further_models()}


def _read(file: str) -> dict[str, ModelSpec]:
    text = files("shunter.data").joinpath(file).read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return {row["model"]: ModelSpec(row["model"], **_numbers(row)) for row in rows}


def _numbers(row: dict[str, str]) -> dict[str, Any]:
    """What a row says; a column that the file lacks, or a cell that is empty, leaves the default."""
    told = {f.name: (row.get(f.name, ""), str(f.type)) for f in fields(ModelSpec) if f.name != "name"}
    given = {name: (text, kind) for name, (text, kind) in told.items() if text}
    return {name: text == "True" if kind == "bool" else int(text) for name, (text, kind) in given.items()}


def not_modelled(family: str) -> str | None:
    """What a family has that no ``ModelSpec`` says; None if it is not known for any such thing.

    Args:
        family: Its name in a configuration or a file (``gemma3n``), or that of a model of it, with or
            without who made it (google/Gemma-3n-E4B, NVIDIA-Nemotron-Nano-9B-v2).
    """
    plain = _plain(family.rpartition("/")[2]).removeprefix("nvidia")
    return next((what for name, what in _NOT_MODELLED.items() if plain.startswith(_plain(name))), None)


def check_modelled(family: str, field: str) -> None:
    """Refuses what is known and not modelled.

    Raises:
        InputError: It is that.
    """
    what = not_modelled(family)
    if what is not None:
        raise InputError(field, f"be of a family whose sizes are known: this one has {what}", family)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def get_model(name: str, *, field: str = "model") -> ModelSpec:
    """Looks a model up by its name, however it is spelled.

    Raises:
        UnknownNameError: It is not in the catalogue; names the nearest.
    """
    models = catalog_models()
    known = known_model(name, models)
    if known is None:
        raise UnknownNameError(field, name, models, nearest_models(name, models))
    return models[known]


def scaled_model(base: ModelSpec, params: float, *, vocab_size: int = 512) -> ModelSpec:
    """Scales a model down to about this many parameters, keeping its proportions.

    Width shrinks first and depth slowly, so that small models keep enough layers for partial offload to be
    a range; the vocabulary is cut, since a real one would be most of a small model. Heads are 64 wide, or 32
    where the steps in width, one group of heads each, would be too coarse.

    Raises:
        InputError: More parameters are wanted than the base has, or too few for two layers.
    """
    if params > base.params:
        rule = f"be at most that of {base.name} itself ({base.params / 1e6:.0f} M parameters)"
        raise InputError("size", rule, f"{params / 1e6:.1f} M parameters")
    spec = min(_shrunk(base, params, vocab_size), key=lambda candidate: _misfit(candidate, base, params))
    if spec.params > 1.25 * params:
        rule = f"be at least {spec.params / 1e6:.1f} M parameters: two layers of {base.name}'s proportions"
        raise InputError("size", rule, f"{params / 1e6:.1f} M parameters")
    return spec


def _shrunk(base: ModelSpec, params: float, vocab_size: int) -> Iterator[ModelSpec]:
    """All narrower models, each as deep as the wanted size asks for."""
    group = base.attn_heads // base.kv_heads
    for head_dim in (64, 32):
        for hidden in range(group * head_dim, base.hidden_size + 1, group * head_dim):
            ffn = base.intermediate_size * hidden / base.hidden_size
            spec = replace(
                base,
                layers=2,
                hidden_size=hidden,
                attn_heads=hidden // head_dim,
                kv_heads=hidden // head_dim // group,
                head_dim=head_dim,
                intermediate_size=max(128, round(ffn / 128) * 128),
                vocab_size=vocab_size,
                windowed_layers=0,
                window_tokens=0,
            )
            per_layer = spec.params_per_layer
            yield replace(spec, layers=max(2, round((params - spec.params) / per_layer) + 2))


def _misfit(spec: ModelSpec, base: ModelSpec, params: float) -> float:
    depth = base.layers * (spec.hidden_size / base.hidden_size) ** 0.25
    narrow_heads = 0.1 * (spec.head_dim < 64)
    return abs(math.log(spec.layers / depth)) + 4 * abs(math.log(spec.params / params)) + narrow_heads
