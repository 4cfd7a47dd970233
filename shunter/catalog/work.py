"""What an operation does, whatever does it: bytes read and copied, multiplications, tokens attended.

The one table of terms, each a function with a value for the device's side and one for the host's. The fit of
a single device takes them as features (``models.physics.features``), the fit over GPUs divides them by the
rates of data sheets (``models.physics``), and the design of experiments asks which configurations tell them
apart (``profiling.sweep.design``).

A side's bytes are those of its layers, and of the output layer for the side that holds it (the device, from
one gpu_layer on); the input embedding counts as the host's (one row of it is read per token, and llama.cpp
keeps it there).

Layers with a window keep, and read, no more of a request's tokens than that; of a mixture of experts a step
reads and multiplies with the experts that its tokens are sent to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from shunter.catalog.models import ModelSpec

__all__ = [
    "CONFIGURATION_COLUMNS",
    "EXPERT_LAYERS_ON_HOST",
    "FACT_COLUMNS",
    "FAMILY_COLUMNS",
    "PlacedConfigurations",
    "experts_kept_on_host_bytes",
    "family_facts",
    "kept_tokens",
    "placed_configurations",
    "reserved_kv_bytes",
]

Array = npt.NDArray[np.float64]

FACT_COLUMNS = (
    "params",
    "weight_bytes",
    "layer_weight_bytes",
    "layers",
    "total_layers",
    "hidden_size",
    "attn_heads",
    "kv_bytes_per_token",
    "vocab_size",
)

FAMILY_COLUMNS = (
    "windowed_layers",
    "window_tokens",
    "experts",
    "experts_used",
    "expert_share",
    "tied_bytes",
)
"""What a plain decoder lacks, missing or 0 there: layers that keep a window of keys and values only, and its
length; routed experts of a layer, those that a token is sent to, and the share of the layers' bytes that they
are; an embedding that is the output layer too, of which llama.cpp holds a copy on either side."""

EXPERT_LAYERS_ON_HOST = "expert_layers_on_host"
"""An optional column: of how many layers, from the first on, the experts stay on the host (--n-cpu-moe)."""

PASS_TOKENS = 512
"""Tokens that llama.cpp's windows have room for beside their own: one pass of a prompt (n_ubatch)."""

CONFIGURATION_COLUMNS = ("gpu_layers", "batch", "tokens", "context_tokens", "max_batch", "max_context_tokens")

CACHE_BYTES = 64e6
"""What caches hold of a step's weights: all of half as much, nothing of twice as much. Server and desktop
processors have 32 to 128 MB that one core can use. Measured on a Xeon: reading again and again takes 33 ps a
byte up to 64 MB, 64 ps from 128 MB."""


@dataclass(frozen=True)
class PlacedConfigurations:
    """Configurations as arrays (n_configurations,), with where their layers, weights and KV are.

    ``params_*`` are those that a token is multiplied with; ``expert_idle_share`` is the share of a layer's
    experts that it is not sent to.
    """

    batch: Array
    tokens: Array
    context_tokens: Array
    reserved_tokens: Array
    reserved_kv_tokens: Array
    layers: Array
    hidden_size: Array
    attn_heads: Array
    weight_bytes: Array
    layers_device: Array
    layers_host: Array
    read_bytes_device: Array
    read_bytes_host: Array
    weight_bytes_host: Array
    params_device: Array
    params_host: Array
    expert_bytes_device: Array
    expert_bytes_host: Array
    expert_idle_share: Array
    windowed_share: Array
    window_tokens: Array
    tied_bytes: Array
    kv_bytes_device: Array
    kv_bytes_host: Array
    is_split: Array
    beyond_cache: Array


class Sides(NamedTuple):
    """One quantity of an operation on either side; each of shape (n_configurations,)."""

    device: Array
    host: Array


def family_facts(spec: ModelSpec, *, expert_share: float, tied_bytes: float) -> dict[str, float]:
    """What ``FAMILY_COLUMNS`` are of a model.

    Args:
        spec: The model.
        expert_share: Share of its layers' bytes that are routed experts.
        tied_bytes: Of an embedding that is the output layer too; 0 where it has none.
    """
    told = {name: float(getattr(spec, name)) for name in FAMILY_COLUMNS[:4]}
    return {**told, "expert_share": expert_share, "tied_bytes": tied_bytes}


def reserved_kv_bytes(facts: Mapping[str, Any], context_tokens: int, requests: int) -> float:
    """Keys and values that some requests reserve room for, over all layers of a model.

    Args:
        facts: A model's, by ``FACT_COLUMNS`` and ``FAMILY_COLUMNS``, of which the latter may be missing.
        context_tokens: Most tokens of a request.
        requests: How many there are.
    """
    share = np.array(_fact(facts, "windowed_layers") / facts["layers"])
    tokens = reserved_tokens(np.array(context_tokens), share, np.array(_fact(facts, "window_tokens")))
    return float(facts["kv_bytes_per_token"] * (requests * tokens))


def experts_kept_on_host_bytes(facts: Mapping[str, Any], gpu_layers: int) -> float:
    """Weights of experts that a model's arguments keep on the host though their layers are on the device."""
    asked, layers = _fact(facts, EXPERT_LAYERS_ON_HOST), facts["layers"]
    on_device = max(0, gpu_layers - 1)
    kept = min(max(0.0, asked - (layers - on_device)), on_device) * (_fact(facts, "experts") > 0)
    return float(kept * facts["layer_weight_bytes"] * _fact(facts, "expert_share"))


def _fact(facts: Mapping[str, Any], name: str) -> float:
    value = float(facts.get(name) or 0.0)
    return value if value == value else 0.0


def placed_configurations(frame: pd.DataFrame) -> PlacedConfigurations:
    """Places the parts of configurations.

    Args:
        frame: Has ``FACT_COLUMNS`` and ``CONFIGURATION_COLUMNS``, and may have ``FAMILY_COLUMNS`` and
            ``EXPERT_LAYERS_ON_HOST``; shape (n_configurations, any).
    """
    c = {name: frame[name].to_numpy(dtype=np.float64) for name in (*FACT_COLUMNS, *CONFIGURATION_COLUMNS)}
    c |= {name: _optional(frame, name) for name in (*FAMILY_COLUMNS, EXPERT_LAYERS_ON_HOST)}
    bytes_per_param = c["weight_bytes"] / c["params"]
    # llama.cpp places the output layer first, then the last layers: so device memory grows with gpu_layers.
    layers_device = np.clip(c["gpu_layers"] - 1, 0, c["layers"])
    layers_host = c["layers"] - layers_device
    outside_layers = np.maximum(c["weight_bytes"] - c["layers"] * c["layer_weight_bytes"], 0.0)
    matrix_bytes = c["vocab_size"] * c["hidden_size"] * bytes_per_param
    # Mixes give an output layer more bits than the mean; where it is the embedding too, its size is known.
    matrix_bytes = np.where(c["tied_bytes"] > 1.01 * matrix_bytes, c["tied_bytes"], matrix_bytes)
    output_bytes = np.minimum(outside_layers, matrix_bytes)
    has_output = c["gpu_layers"] >= 1
    experts_layer = c["layer_weight_bytes"] * c["expert_share"]
    # The first layers are the host's anyway.
    kept_on_host = np.clip(c[EXPERT_LAYERS_ON_HOST] - layers_host, 0, layers_device) * (c["experts"] > 0)
    moved = experts_layer * kept_on_host
    read_device = layers_device * c["layer_weight_bytes"] + output_bytes * has_output - moved
    read_host = layers_host * c["layer_weight_bytes"] + output_bytes * ~has_output + moved
    experts_device, experts_host = experts_layer * layers_device - moved, experts_layer * layers_host + moved
    windowed_share = c["windowed_layers"] / c["layers"]
    idle = 1 - c["experts_used"] / np.maximum(c["experts"], 1.0)
    kv_layer = c["kv_bytes_per_token"] / c["layers"]
    return PlacedConfigurations(
        batch=c["batch"],
        tokens=c["tokens"],
        context_tokens=c["context_tokens"],
        reserved_tokens=c["max_batch"] * c["max_context_tokens"],
        reserved_kv_tokens=c["max_batch"]
        * reserved_tokens(c["max_context_tokens"], windowed_share, c["window_tokens"]),
        layers=c["layers"],
        hidden_size=c["hidden_size"],
        attn_heads=c["attn_heads"],
        weight_bytes=c["weight_bytes"],
        layers_device=layers_device,
        layers_host=layers_host,
        read_bytes_device=read_device,
        read_bytes_host=read_host,
        weight_bytes_host=c["weight_bytes"] - read_device,
        params_device=(read_device - experts_device * idle) / bytes_per_param,
        params_host=(read_host - experts_host * idle) / bytes_per_param,
        expert_bytes_device=experts_device,
        expert_bytes_host=experts_host,
        expert_idle_share=idle,
        windowed_share=windowed_share,
        window_tokens=c["window_tokens"],
        tied_bytes=c["tied_bytes"] * has_output,
        kv_bytes_device=kv_layer * layers_device,
        kv_bytes_host=kv_layer * layers_host,
        is_split=(
            (c["gpu_layers"] > 0) & ((c["gpu_layers"] < c["total_layers"]) | (kept_on_host > 0))
        ).astype(np.float64),
        beyond_cache=np.clip((np.log2((read_device + read_host) / CACHE_BYTES) + 1) / 2, 0, 1),
    )


def _optional(frame: pd.DataFrame, name: str) -> Array:
    if name not in frame:
        return np.zeros(len(frame))
    return frame[name].fillna(0.0).to_numpy(dtype=np.float64)


def kept_tokens(tokens: Array, windowed_share: Array, window_tokens: Array) -> Array:
    """Tokens of a context that a layer keeps, on the mean over layers with and without a window.

    Args:
        tokens: Tokens of the context, or of many.
        windowed_share: Share of the layers that have a window.
        window_tokens: Length of the window.
    """
    kept = (1 - windowed_share) * tokens + windowed_share * np.minimum(tokens, window_tokens)
    return np.asarray(kept, dtype=np.float64)


def reserved_tokens(context_tokens: Array, windowed_share: Array, window_tokens: Array) -> Array:
    """Tokens that a layer has room for; arguments as for ``kept_tokens``.

    Source: llama.cpp, llama-kv-cache-iswa.cpp: the window and one pass.
    """
    return kept_tokens(context_tokens, windowed_share, window_tokens + PASS_TOKENS)


def _kept(c: PlacedConfigurations, tokens: Array) -> Array:
    return kept_tokens(tokens, c.windowed_share, c.window_tokens)


def layers(c: PlacedConfigurations) -> Sides:
    """Transformer layers: each costs kernels, or threads that meet."""
    return Sides(c.layers_device, c.layers_host)


def weights_read_bytes(c: PlacedConfigurations, tokens: Array) -> Sides:
    """Weights that a decode step, or a pass of a prefill, reads once.

    Of experts those that any of its tokens is sent to, if all are equally likely.

    Args:
        c: The configurations.
        tokens: Tokens that are computed at once: a decode step's sequences, or those of a prompt.

    Source: Pope et al., Efficiently Scaling Transformer Inference, 2022, section 2.
    """
    unread = c.expert_idle_share**tokens
    return Sides(
        c.read_bytes_device - c.expert_bytes_device * unread, c.read_bytes_host - c.expert_bytes_host * unread
    )


def weights_held_bytes(c: PlacedConfigurations) -> Sides:
    """Weights that a load brings and an unload gives back, the embedding on the host."""
    return Sides(c.read_bytes_device, c.weight_bytes_host)


def weights_kept_bytes(c: PlacedConfigurations) -> Sides:
    """Weights that lie on either side once loaded: an embedding that is the output layer too is on both."""
    return Sides(c.read_bytes_device, c.weight_bytes_host + c.tied_bytes)


def sequence_params(c: PlacedConfigurations, sequences: Array) -> Sides:
    """Parameters that some sequences are multiplied with in a decode step, 2 operations each.

    Source: Kaplan et al., Scaling Laws for Neural Language Models, 2020, section 2.1.
    """
    return Sides(sequences * c.params_device, sequences * c.params_host)


def token_params(c: PlacedConfigurations) -> Sides:
    """Parameters that the tokens of a prompt are multiplied with, 2 operations each.

    Source: Kaplan et al., Scaling Laws for Neural Language Models, 2020, section 2.1.
    """
    return Sides(c.tokens * c.params_device, c.tokens * c.params_host)


def kv_read_bytes(c: PlacedConfigurations) -> Sides:
    """Keys and values that a decode step reads: of all tokens before it that a layer keeps."""
    held = c.batch * _kept(c, c.context_tokens)
    return Sides(held * c.kv_bytes_device, held * c.kv_bytes_host)


def attended_heads(c: PlacedConfigurations) -> Sides:
    """Tokens before a decode step x query heads x layers."""
    heads = c.batch * _kept(c, c.context_tokens) * c.attn_heads
    return Sides(heads * c.layers_device, heads * c.layers_host)


def attended_width(c: PlacedConfigurations) -> Sides:
    """Tokens before a decode step x width of the queries x layers; grouped queries are wider than keys."""
    width = c.batch * _kept(c, c.context_tokens) * c.hidden_size
    return Sides(width * c.layers_device, width * c.layers_host)


def _pairs(c: PlacedConfigurations) -> Array:
    """Pairs of a prompt's tokens, twice those that attend: with a window, each with as many as it has."""
    windowed = np.minimum(c.tokens, c.window_tokens)
    beside = c.windowed_share * (c.tokens - windowed) ** 2
    return np.asarray(c.tokens**2 - beside, dtype=np.float64)


def pair_heads(c: PlacedConfigurations) -> Sides:
    """Pairs of a prompt's tokens x query heads x layers."""
    heads = _pairs(c) * c.attn_heads
    return Sides(heads * c.layers_device, heads * c.layers_host)


def pair_width(c: PlacedConfigurations) -> Sides:
    """Pairs of a prompt's tokens x width of the queries x layers."""
    pairs = _pairs(c)
    return Sides(pairs * (c.layers_device * c.hidden_size), pairs * (c.layers_host * c.hidden_size))


def token_width(c: PlacedConfigurations) -> Sides:
    """A prompt's tokens x width of the residual stream x layers: activations."""
    device, host = c.layers_device * c.hidden_size, c.layers_host * c.hidden_size
    return Sides(c.tokens * device, c.tokens * host)


def kv_copied_bytes(c: PlacedConfigurations) -> Sides:
    """Keys and values of one request, copied to or from the host."""
    tokens = _kept(c, c.tokens)
    return Sides(tokens * c.kv_bytes_device, tokens * c.kv_bytes_host)


def kv_reserved_bytes(c: PlacedConfigurations) -> Sides:
    """Keys and values that a resident reserves room for."""
    return Sides(c.reserved_kv_tokens * c.kv_bytes_device, c.reserved_kv_tokens * c.kv_bytes_host)
