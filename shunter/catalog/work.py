"""What an operation does, whatever does it: bytes read and copied, multiplications, tokens attended.

The one table of terms, each a function with a value for the device's side and one for the host's. The fit of
a single device takes them as features (``models.physics.features``), the fit over GPUs divides them by the
rates of data sheets (``models.physics``), and the design of experiments asks which configurations tell them
apart (``profiling.sweep.design``).

A side's bytes are those of its layers, and of the output layer for the side that holds it (the device, from
one gpu_layer on); the input embedding counts as the host's (one row of it is read per token, and llama.cpp
keeps it there).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = ["CONFIGURATION_COLUMNS", "FACT_COLUMNS", "PlacedConfigurations", "placed_configurations"]

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

CONFIGURATION_COLUMNS = ("gpu_layers", "batch", "tokens", "context_tokens", "max_batch", "max_context_tokens")

CACHE_BYTES = 64e6
"""What caches hold of a step's weights: all of half as much, nothing of twice as much. Server and desktop
processors have 32 to 128 MB that one core can use. Measured on a Xeon: reading again and again takes 33 ps a
byte up to 64 MB, 64 ps from 128 MB."""


@dataclass(frozen=True)
class PlacedConfigurations:
    """Configurations as arrays (n_configurations,), with where their layers, weights and KV are."""

    batch: Array
    tokens: Array
    context_tokens: Array
    reserved_tokens: Array
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
    kv_bytes_device: Array
    kv_bytes_host: Array
    is_split: Array
    beyond_cache: Array


class Sides(NamedTuple):
    """One quantity of an operation on either side; each of shape (n_configurations,)."""

    device: Array
    host: Array


def placed_configurations(frame: pd.DataFrame) -> PlacedConfigurations:
    """Places the parts of configurations.

    Args:
        frame: Has ``FACT_COLUMNS`` and ``CONFIGURATION_COLUMNS``; shape (n_configurations, any).
    """
    c = {name: frame[name].to_numpy(dtype=np.float64) for name in (*FACT_COLUMNS, *CONFIGURATION_COLUMNS)}
    bytes_per_param = c["weight_bytes"] / c["params"]
    # llama.cpp places the output layer first, then the last layers: so device memory grows with gpu_layers.
    layers_device = np.clip(c["gpu_layers"] - 1, 0, c["layers"])
    layers_host = c["layers"] - layers_device
    outside_layers = np.maximum(c["weight_bytes"] - c["layers"] * c["layer_weight_bytes"], 0.0)
    output_bytes = np.minimum(outside_layers, c["vocab_size"] * c["hidden_size"] * bytes_per_param)
    has_output = c["gpu_layers"] >= 1
    read_device = layers_device * c["layer_weight_bytes"] + output_bytes * has_output
    read_host = layers_host * c["layer_weight_bytes"] + output_bytes * ~has_output
    kv_layer = c["kv_bytes_per_token"] / c["layers"]
    return PlacedConfigurations(
        batch=c["batch"],
        tokens=c["tokens"],
        context_tokens=c["context_tokens"],
        reserved_tokens=c["max_batch"] * c["max_context_tokens"],
        layers=c["layers"],
        hidden_size=c["hidden_size"],
        attn_heads=c["attn_heads"],
        weight_bytes=c["weight_bytes"],
        layers_device=layers_device,
        layers_host=layers_host,
        read_bytes_device=read_device,
        read_bytes_host=read_host,
        weight_bytes_host=c["weight_bytes"] - read_device,
        params_device=read_device / bytes_per_param,
        params_host=read_host / bytes_per_param,
        kv_bytes_device=kv_layer * layers_device,
        kv_bytes_host=kv_layer * layers_host,
        is_split=((c["gpu_layers"] > 0) & (c["gpu_layers"] < c["total_layers"])).astype(np.float64),
        beyond_cache=np.clip((np.log2((read_device + read_host) / CACHE_BYTES) + 1) / 2, 0, 1),
    )


def layers(c: PlacedConfigurations) -> Sides:
    """Transformer layers: each costs kernels, or threads that meet."""
    return Sides(c.layers_device, c.layers_host)


def weights_read_bytes(c: PlacedConfigurations) -> Sides:
    """Weights that a decode step, or a pass of a prefill, reads once.

    Source: Pope et al., Efficiently Scaling Transformer Inference, 2022, section 2.
    """
    return Sides(c.read_bytes_device, c.read_bytes_host)


def weights_held_bytes(c: PlacedConfigurations) -> Sides:
    """Weights that a load brings and an unload gives back, the embedding on the host."""
    return Sides(c.read_bytes_device, c.weight_bytes_host)


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
    """Keys and values that a decode step reads: of all tokens before it."""
    held = c.batch * c.context_tokens
    return Sides(held * c.kv_bytes_device, held * c.kv_bytes_host)


def attended_heads(c: PlacedConfigurations) -> Sides:
    """Tokens before a decode step x query heads x layers."""
    heads = c.batch * c.context_tokens * c.attn_heads
    return Sides(heads * c.layers_device, heads * c.layers_host)


def attended_width(c: PlacedConfigurations) -> Sides:
    """Tokens before a decode step x width of the queries x layers; grouped queries are wider than keys."""
    width = c.batch * c.context_tokens * c.hidden_size
    return Sides(width * c.layers_device, width * c.layers_host)


def pair_heads(c: PlacedConfigurations) -> Sides:
    """Pairs of a prompt's tokens x query heads x layers."""
    heads = c.tokens**2 * c.attn_heads
    return Sides(heads * c.layers_device, heads * c.layers_host)


def pair_width(c: PlacedConfigurations) -> Sides:
    """Pairs of a prompt's tokens x width of the queries x layers."""
    pairs = c.tokens**2
    return Sides(pairs * (c.layers_device * c.hidden_size), pairs * (c.layers_host * c.hidden_size))


def token_width(c: PlacedConfigurations) -> Sides:
    """A prompt's tokens x width of the residual stream x layers: activations."""
    device, host = c.layers_device * c.hidden_size, c.layers_host * c.hidden_size
    return Sides(c.tokens * device, c.tokens * host)


def kv_copied_bytes(c: PlacedConfigurations) -> Sides:
    """Keys and values of one request, copied to or from the host."""
    return Sides(c.tokens * c.kv_bytes_device, c.tokens * c.kv_bytes_host)


def kv_reserved_bytes(c: PlacedConfigurations) -> Sides:
    """Keys and values that a resident reserves room for."""
    return Sides(c.reserved_tokens * c.kv_bytes_device, c.reserved_tokens * c.kv_bytes_host)
