"""Physical features of each target: what the time or memory of an operation should be linear in.

Each function lists its features most physical first; when data are few, the last ones are left out first.
They are the terms of ``catalog.work``, under the names that fitted models are kept with; "device" and "host"
in a name say which side does the work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache

import numpy as np
import numpy.typing as npt
import pandas as pd

from shunter.catalog import work
from shunter.catalog.work import PlacedConfigurations, placed_configurations

__all__ = ["MOST_UNEVEN_TOKENS"]

Array = npt.NDArray[np.float64]
Features = dict[str, Array]

HEAD_WIDTH = 128
"""Head width of models whose heads are not known: that of most with 3 billion parameters and more."""

DIFFERENCES = {
    f"many_sequences_params_{side}": {f"more_sequences_params_{side}", f"is_batched_params_{side}"}
    for side in ("device", "host")
}
"""Features that are the difference of two others in all configurations that can be, not only in those
measured. Beside both such a one is none too many, since coefficients are not negative; which of them has what
is the same."""

ROWS_TOGETHER = 4
"""Tokens that matrix kernels of processors take at once; what is left of a pass reads the weights again."""

MOST_UNEVEN_TOKENS = 128
"""In longer prompts what is left makes little difference, and three of four are taken to have some."""

TILE_TOKENS = 64
"""From so many tokens on, attention is computed tile by tile, for less."""


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


def _both(name: str, sides: work.Sides) -> Features:
    return {f"{name}_device": sides.device, f"{name}_host": sides.host}


def _decode(c: PlacedConfigurations) -> Features:
    """One decode step of a batch: every weight is read once; each further sequence adds computation and KV.

    Weights beyond the cache are read from memory. Attention reads KV, and computes with each query head, of
    which grouped-query attention has more than of the keys; a head's tokens cost more than its width does.
    Units: bytes, layers, parameters x sequences, bytes of KV, tokens x layers x heads or width.

    A second sequence may compute while weights are read, for nothing, and further ones not; so these have a
    term of their own, and one that has seen two only knows that it does not know.
    """
    more, read = c.batch - 1, work.weights_read_bytes(c, c.batch)
    beyond_cache = work.Sides(c.beyond_cache * read.device, c.beyond_cache * read.host)
    return {
        **_both("read_bytes", read),
        **_both("layers", work.layers(c)),
        **_both("more_sequences_params", work.sequence_params(c, more)),
        **_both("kv_bytes", work.kv_read_bytes(c)),
        **_both("heads", work.attended_heads(c)),
        **_both("attention", work.attended_width(c)),
        "more_sequences_layers": more * c.layers,
        "hop": c.is_split,
        "constant": np.ones_like(c.batch),
        **_both("is_batched_params", work.sequence_params(c, np.asarray(more > 0, np.float64))),
        **_both("many_sequences_params", work.sequence_params(c, np.maximum(c.batch - 2, 0))),
        **_both("beyond_cache_bytes", beyond_cache),
        "split_bytes": read.device * read.host / np.maximum(c.weight_bytes, 1.0),
    }


def _prefill(c: PlacedConfigurations) -> Features:
    """One prompt: computation per token and weight, one pass over the weights, attention in tokens squared.

    On processors a few tokens that do not fill a kernel's rows cost another pass over the weights, and
    attention of a short prompt costs more per token than that of one long enough for tiles. With
    llama.cpp 5 tokens cost a third more than 4, and 8 only a twentieth more than 5; 64 a quarter less than
    63.

    Units: tokens x parameters, bytes, layers, tokens x layers x hidden size, tokens² x layers x heads
    or hidden size.
    """
    has_leftover = (c.tokens > ROWS_TOGETHER) & (c.tokens % ROWS_TOGETHER > 0)
    leftover = np.where(c.tokens > MOST_UNEVEN_TOKENS, 1 - 1 / ROWS_TOGETHER, has_leftover)
    is_short, heads = c.tokens < TILE_TOKENS, work.pair_heads(c)
    read = work.weights_read_bytes(c, c.tokens)
    return {
        **_both("token_params", work.token_params(c)),
        **_both("layers", work.layers(c)),
        **_both("read_bytes", read),
        **_both("heads", heads),
        **_both("attention", work.pair_width(c)),
        **_both("token_width", work.token_width(c)),
        "hop_token_width": c.is_split * c.tokens * c.hidden_size,
        "hop": c.is_split,
        "constant": np.ones_like(c.tokens),
        **_both("leftover_read_bytes", work.Sides(leftover * read.device, leftover * read.host)),
        **_both("short_heads", work.Sides(is_short * heads.device, is_short * heads.host)),
    }


def _load(c: PlacedConfigurations) -> Features:
    """A load: bytes brought to each side, work per layer, buffers for all KV. Units: bytes, layers."""
    weights = work.weights_held_bytes(c)
    return {
        "weight_bytes_device": weights.device,
        "constant": np.ones_like(c.layers),
        "weight_bytes_host": weights.host,
        "layers": c.layers,
        **_both("kv_reserved_bytes", work.kv_reserved_bytes(c)),
    }


def _unload(c: PlacedConfigurations) -> Features:
    """An unload: memory given back, page by page, and work per layer. Units: bytes, layers."""
    return {
        "constant": np.ones_like(c.layers),
        **_both("weight_bytes", work.weights_held_bytes(c)),
        "layers": c.layers,
        **_both("kv_reserved_bytes", work.kv_reserved_bytes(c)),
    }


def _kv(c: PlacedConfigurations) -> Features:
    """One request's KV copied to or from the host: bytes on each side, a tensor or two per layer."""
    copied = work.kv_copied_bytes(c)
    return {
        "kv_bytes_device": copied.device,
        "constant": np.ones_like(c.tokens),
        "kv_bytes_host": copied.host,
        **_both("layers", work.layers(c)),
    }


def _memory(c: PlacedConfigurations) -> Features:
    """A resident's footprint: its weights on each side, the KV reserved there, buffers. Units: bytes."""
    weights = work.weights_kept_bytes(c)
    return {
        "weight_bytes_device": weights.device,
        "constant": np.ones_like(c.layers),
        "weight_bytes_host": weights.host,
        **_both("kv_reserved_bytes", work.kv_reserved_bytes(c)),
        "batch_width": c.reserved_tokens * c.hidden_size,
    }


@dataclass(frozen=True)
class Target:
    """What is predicted.

    Attributes:
        name: Name of the target, its unit included.
        operation: The dataset's operation that it is about.
        features: Physical features of the target, from placed configurations.
        measured: The observed value, from a dataset frame.
        smallest: Below it, errors count relative to it: a clock's or an allocator's grain, per row.
        by_page_cache: Whether warm and cold files are fitted apart.
    """

    name: str
    operation: str
    features: Callable[[PlacedConfigurations], Features]
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
    empty = PlacedConfigurations(**{f.name: nothing for f in fields(PlacedConfigurations)})
    return frozenset(TARGETS[target].features(empty))


def feature_frame(target: Target, frame: pd.DataFrame) -> pd.DataFrame:
    """Computes a target's features.

    Args:
        target: One of ``TARGETS``.
        frame: Configurations with ``FACT_COLUMNS`` and ``CONFIGURATION_COLUMNS``; shape (n_configurations,
            any).

    Returns:
        Shape (n_configurations, n_features), most physical first.
    """
    return pd.DataFrame(target.features(placed_configurations(frame)), index=frame.index)
