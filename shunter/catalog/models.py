"""Architecture facts of dense decoder-only models and the sizes that follow from them."""

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

__all__ = ["ModelSpec", "catalog_models", "get_model", "scaled_model"]


@dataclass(frozen=True)
class ModelSpec:
    """Shape of a dense decoder-only transformer (Llama and Qwen families).

    Attributes:
        name: Name in the catalogue or the checkpoint.
        layers: Transformer layers, without the output layer.
        hidden_size: Width of the residual stream.
        attn_heads: Query heads.
        kv_heads: Key and value heads.
        head_dim: Width of one head.
        intermediate_size: Width of the gated MLP.
        vocab_size: Rows of the embedding.
        tied_embeddings: Whether the output layer reuses the embedding.
        qkv_bias: Whether q, k and v have biases (Qwen2).
        qk_norm: Whether q and k are normalised per head (Qwen3).
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

    @property
    def total_layers(self) -> int:
        """Transformer layers plus the output layer, as llama.cpp counts gpu_layers."""
        return self.layers + 1

    @property
    def params_per_layer(self) -> int:
        """Parameters of one transformer layer: attention, gated MLP, two norms, optional biases and norms."""
        q_width, kv_width = self.attn_heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.hidden_size * (2 * q_width + 2 * kv_width)
        extras = self.qkv_bias * (q_width + 2 * kv_width) + self.qk_norm * 2 * self.head_dim
        return attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size + extras

    @property
    def embedding_params(self) -> int:
        """Parameters of one embedding (or output) matrix."""
        return self.vocab_size * self.hidden_size

    @property
    def params(self) -> int:
        """All parameters."""
        matrices = 1 if self.tied_embeddings else 2
        return self.layers * self.params_per_layer + matrices * self.embedding_params + self.hidden_size

    def kv_bytes_per_token(self, bytes_per_element: float = 2.0) -> float:
        """Bytes of keys and values that one token adds over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * bytes_per_element

    @property
    def architecture(self) -> str:
        """The family whose code runs it: ``qwen3``, ``qwen2`` or ``llama``."""
        return "qwen3" if self.qk_norm else "qwen2" if self.qkv_bias else "llama"


@cache
def catalog_models() -> dict[str, ModelSpec]:
    """All models of the catalogue by name.

    Source: ``shunter/data/models.csv``; each row names the public sources it was checked against.
    """
    text = files("shunter.data").joinpath("models.csv").read_text(encoding="utf-8")
    specs = {}
    for row in csv.DictReader(text.splitlines()):
        values: dict[str, Any] = {
            f.name: _parse(row[_COLUMNS.get(f.name, f.name)], str(f.type)) for f in fields(ModelSpec)
        }
        specs[row["model"]] = ModelSpec(**values)
    return specs


_COLUMNS = {"name": "model"}


def _parse(text: str, kind: str) -> str | int | bool:
    if kind == "bool":
        return text == "True"
    return int(text) if kind == "int" else text


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
            )
            per_layer = spec.params_per_layer
            yield replace(spec, layers=max(2, round((params - spec.params) / per_layer) + 2))


def _misfit(spec: ModelSpec, base: ModelSpec, params: float) -> float:
    depth = base.layers * (spec.hidden_size / base.hidden_size) ** 0.25
    narrow_heads = 0.1 * (spec.head_dim < 64)
    return abs(math.log(spec.layers / depth)) + 4 * abs(math.log(spec.params / params)) + narrow_heads
