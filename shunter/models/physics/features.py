"""Physical features of each target: what the time or memory of an operation should be linear in.

Each function lists its features most physical first; when data are few, the last ones are left out first.
"device" and "host" in a name say which side does the work. A side's bytes are those of its layers, and of
the output layer for the side that holds it (the device, from one gpu_layer on); the input embedding counts
as the host's (one row of it is read per token, and llama.cpp keeps it there).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = [
    "CELL_COLUMNS",
    "DIFFERENCES",
    "FACT_COLUMNS",
    "MOST_UNEVEN_TOKENS",
    "TARGETS",
    "PlacedCells",
    "Target",
    "feature_frame",
    "feature_names",
    "placed_cells",
    "shape_names",
    "with_heads",
]

Array = npt.NDArray[np.float64]
Features = dict[str, Array]

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
HEAD_WIDTH = 128
"""Of models whose heads are not known: that of most with 3 billion parameters and more."""

CACHE_BYTES = 64e6
"""What caches hold of a step's weights: all of half as much, nothing of twice as much. Server and desktop
processors have 32 to 128 MB that one core can use. Measured on a Xeon: reading again and again takes 33 ps a
byte up to 64 MB, 64 ps from 128 MB."""

DIFFERENCES = {
    f"many_sequences_params_{side}": {f"more_sequences_params_{side}", f"is_batched_params_{side}"}
    for side in ("device", "host")
}
"""Features that are the difference of two others in all cells that can be, not only in those measured. Beside
both such a one is none too many, since coefficients are not negative; which of them has what is the same."""

ROWS_TOGETHER = 4
"""Tokens that matrix kernels of processors take at once; what is left of a pass reads the weights again."""

MOST_UNEVEN_TOKENS = 128
"""In longer prompts what is left makes little difference, and three of four are taken to have some."""

TILE_TOKENS = 64
"""From so many tokens on, attention is computed tile by tile, for less."""

CELL_COLUMNS = ("gpu_layers", "batch", "tokens", "context_tokens", "max_batch", "max_context_tokens")


@dataclass(frozen=True)
class PlacedCells:
    """Cells as arrays, with where their layers, weights and KV are; each of shape (n_cells,)."""

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


def with_heads(frame: pd.DataFrame) -> pd.DataFrame:
    """Takes heads that are not known as ``HEAD_WIDTH`` wide.

    Args:
        frame: Rows with ``hidden_size``.
    """
    typical = (frame["hidden_size"] / HEAD_WIDTH).clip(lower=1.0)
    return frame.assign(attn_heads=frame["attn_heads"].fillna(typical) if "attn_heads" in frame else typical)


def shape_names(frame: pd.DataFrame) -> npt.NDArray[np.str_]:
    """Names of the rows' shapes; shape (n_rows,).

    One model in two quantisations, or fine-tuned, is one shape under several names: whoever holds a model out
    to see what an unseen one has in common with the others must hold all of them out.

    Args:
        frame: Rows with ``FACT_COLUMNS``.
    """
    widths = frame[["layers", "hidden_size", "vocab_size", "params"]].astype("int64").astype(str)
    return widths.agg(" ".join, axis=1).to_numpy(dtype=str)


def placed_cells(frame: pd.DataFrame) -> PlacedCells:
    """Places the parts of cells with ``FACT_COLUMNS`` and ``CELL_COLUMNS``; shape (n_cells, any)."""
    c = {name: frame[name].to_numpy(dtype=np.float64) for name in (*FACT_COLUMNS, *CELL_COLUMNS)}
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
    return PlacedCells(
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


def _decode(c: PlacedCells) -> Features:
    """One decode step of a batch: every weight is read once; each further sequence adds computation and KV.

    Weights beyond the cache are read from memory. Attention reads KV, and computes with each query head, of
    which grouped-query attention has more than of the keys; a head's tokens cost more than its width does.
    Units: bytes, layers, parameters x sequences, bytes of KV, tokens x layers x heads or width.

    A second sequence may compute while weights are read, for nothing, and further ones not; so these have a
    term of their own, and one that has seen two only knows that it does not know.
    """
    more, many = c.batch - 1, np.maximum(c.batch - 2, 0)
    heads = c.batch * c.context_tokens * c.attn_heads
    attended = c.batch * c.context_tokens * c.hidden_size
    split_share = c.read_bytes_device * c.read_bytes_host / np.maximum(c.weight_bytes, 1.0)
    return {
        "read_bytes_device": c.read_bytes_device,
        "read_bytes_host": c.read_bytes_host,
        "layers_device": c.layers_device,
        "layers_host": c.layers_host,
        "more_sequences_params_device": more * c.params_device,
        "more_sequences_params_host": more * c.params_host,
        "kv_bytes_device": c.batch * c.context_tokens * c.kv_bytes_device,
        "kv_bytes_host": c.batch * c.context_tokens * c.kv_bytes_host,
        "heads_device": heads * c.layers_device,
        "heads_host": heads * c.layers_host,
        "attention_device": attended * c.layers_device,
        "attention_host": attended * c.layers_host,
        "more_sequences_layers": more * c.layers,
        "hop": c.is_split,
        "constant": np.ones_like(c.batch),
        "is_batched_params_device": (more > 0) * c.params_device,
        "is_batched_params_host": (more > 0) * c.params_host,
        "many_sequences_params_device": many * c.params_device,
        "many_sequences_params_host": many * c.params_host,
        "beyond_cache_bytes_device": c.beyond_cache * c.read_bytes_device,
        "beyond_cache_bytes_host": c.beyond_cache * c.read_bytes_host,
        "split_bytes": split_share,
    }


def _prefill(c: PlacedCells) -> Features:
    """One prompt: computation per token and weight, one pass over the weights, attention in tokens squared.

    On processors a few tokens that do not fill a kernel's rows cost another pass over the weights, and
    attention of a short prompt costs more per token than that of one long enough for tiles. With
    llama.cpp 5 tokens cost a third more than 4, and 8 only a twentieth more than 5; 64 a quarter less than
    63.

    Units: tokens x parameters, bytes, layers, tokens x layers x hidden size, tokens² x layers x heads
    or hidden size.
    """
    heads = c.tokens**2 * c.attn_heads
    has_leftover = (c.tokens > ROWS_TOGETHER) & (c.tokens % ROWS_TOGETHER > 0)
    leftover = np.where(c.tokens > MOST_UNEVEN_TOKENS, 1 - 1 / ROWS_TOGETHER, has_leftover)
    short_heads = (c.tokens < TILE_TOKENS) * heads
    width_device, width_host = c.layers_device * c.hidden_size, c.layers_host * c.hidden_size
    return {
        "token_params_device": c.tokens * c.params_device,
        "token_params_host": c.tokens * c.params_host,
        "layers_device": c.layers_device,
        "layers_host": c.layers_host,
        "read_bytes_device": c.read_bytes_device,
        "read_bytes_host": c.read_bytes_host,
        "heads_device": heads * c.layers_device,
        "heads_host": heads * c.layers_host,
        "attention_device": c.tokens**2 * width_device,
        "attention_host": c.tokens**2 * width_host,
        "token_width_device": c.tokens * width_device,
        "token_width_host": c.tokens * width_host,
        "hop_token_width": c.is_split * c.tokens * c.hidden_size,
        "hop": c.is_split,
        "constant": np.ones_like(c.tokens),
        "leftover_read_bytes_device": leftover * c.read_bytes_device,
        "leftover_read_bytes_host": leftover * c.read_bytes_host,
        "short_heads_device": short_heads * c.layers_device,
        "short_heads_host": short_heads * c.layers_host,
    }


def _load(c: PlacedCells) -> Features:
    """A load: bytes brought to each side, work per layer, buffers for all KV. Units: bytes, layers."""
    return {
        "weight_bytes_device": c.read_bytes_device,
        "constant": np.ones_like(c.layers),
        "weight_bytes_host": c.weight_bytes_host,
        "layers": c.layers,
        "kv_reserved_bytes_device": c.reserved_tokens * c.kv_bytes_device,
        "kv_reserved_bytes_host": c.reserved_tokens * c.kv_bytes_host,
    }


def _unload(c: PlacedCells) -> Features:
    """An unload: memory given back, page by page, and work per layer. Units: bytes, layers."""
    return {
        "constant": np.ones_like(c.layers),
        "weight_bytes_device": c.read_bytes_device,
        "weight_bytes_host": c.weight_bytes_host,
        "layers": c.layers,
        "kv_reserved_bytes_device": c.reserved_tokens * c.kv_bytes_device,
        "kv_reserved_bytes_host": c.reserved_tokens * c.kv_bytes_host,
    }


def _kv(c: PlacedCells) -> Features:
    """One request's KV copied to or from the host: bytes on each side, a tensor or two per layer."""
    return {
        "kv_bytes_device": c.tokens * c.kv_bytes_device,
        "constant": np.ones_like(c.tokens),
        "kv_bytes_host": c.tokens * c.kv_bytes_host,
        "layers_device": c.layers_device,
        "layers_host": c.layers_host,
    }


def _memory(c: PlacedCells) -> Features:
    """A resident's footprint: its weights on each side, the KV reserved there, buffers. Units: bytes."""
    return {
        "weight_bytes_device": c.read_bytes_device,
        "constant": np.ones_like(c.layers),
        "weight_bytes_host": c.weight_bytes_host,
        "kv_reserved_bytes_device": c.reserved_tokens * c.kv_bytes_device,
        "kv_reserved_bytes_host": c.reserved_tokens * c.kv_bytes_host,
        "batch_width": c.reserved_tokens * c.hidden_size,
    }


@dataclass(frozen=True)
class Target:
    """What is predicted.

    Attributes:
        name: With its unit.
        operation: The dataset's operation that it is about.
        features: Its physical features.
        measured: The observed value, from a dataset frame.
        smallest: Below it, errors count relative to it: a clock's or an allocator's grain, per row.
        by_page_cache: Whether warm and cold files are fitted apart.
    """

    name: str
    operation: str
    features: Callable[[PlacedCells], Features]
    measured: Callable[[pd.DataFrame], Array]
    smallest: Callable[[pd.DataFrame], Array]
    by_page_cache: bool = False


def _duration(frame: pd.DataFrame) -> Array:
    return frame["duration_s"].to_numpy(dtype=np.float64)


def _microsecond(frame: pd.DataFrame) -> Array:
    return np.full(len(frame), 1e-6)


def _footprint(side: str) -> Callable[[pd.DataFrame], Array]:
    def grown(frame: pd.DataFrame) -> Array:
        """Bytes that the load added; pages that an allocator already had can make it less than nothing."""
        difference = frame[f"{side}_bytes"] - frame[f"{side}_bytes_before"]
        return difference.clip(lower=0.0).to_numpy(dtype=np.float64)

    return grown


def _twentieth_of_weights(frame: pd.DataFrame) -> Array:
    return frame["weight_bytes"].to_numpy(dtype=np.float64) / 20


TARGETS: dict[str, Target] = {
    t.name: t
    for t in (
        Target("load_s", "load", _load, _duration, _microsecond, by_page_cache=True),
        Target("unload_s", "unload", _unload, _duration, _microsecond),
        Target("prefill_s", "prefill", _prefill, _duration, _microsecond),
        Target("decode_step_s", "decode", _decode, _duration, _microsecond),
        Target("kv_save_s", "kv_save", _kv, _duration, _microsecond),
        Target("kv_restore_s", "kv_restore", _kv, _duration, _microsecond),
        Target("device_bytes", "load", _memory, _footprint("device"), _twentieth_of_weights),
        Target("host_bytes", "load", _memory, _footprint("host"), _twentieth_of_weights),
    )
}


@cache
def feature_names(target: str) -> frozenset[str]:
    """Names of a target's features; none for an unknown target."""
    if target not in TARGETS:
        return frozenset()
    nothing = np.empty(0)
    return frozenset(TARGETS[target].features(PlacedCells(**{f.name: nothing for f in fields(PlacedCells)})))


def feature_frame(target: Target, frame: pd.DataFrame) -> pd.DataFrame:
    """Computes a target's features.

    Args:
        target: One of ``TARGETS``.
        frame: Cells with ``FACT_COLUMNS`` and ``CELL_COLUMNS``; shape (n_cells, any).

    Returns:
        Shape (n_cells, n_features), most physical first.
    """
    return pd.DataFrame(target.features(placed_cells(frame)), index=frame.index)
