"""Requests drawn for an episode, and what a server may know of their lengths."""

from __future__ import annotations

import csv
import gzip
import io
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from shunter.envs.scenario import Limits, Workload
from shunter.envs.state import Requests

__all__ = ["draw_requests", "length_pairs", "popularity", "remaining_tokens"]


@cache
def _trace(name: str) -> NDArray[np.int64]:
    packed = files("shunter.data").joinpath(f"{name}.csv.gz").read_bytes()
    with gzip.open(io.BytesIO(packed), "rt", encoding="utf-8", newline="") as text:
        rows = [(int(r["num_prefill_tokens"]), int(r["num_decode_tokens"])) for r in csv.DictReader(text)]
    return np.array(rows, dtype=np.int64)


def length_pairs(workload: Workload, limits: Limits) -> NDArray[np.int64]:
    """All (prompt, decode) pairs of the workload's trace, scaled and cut to the context limit.

    Returns:
        Shape (rows, 2), tokens; every entry at least 1, every sum at most ``limits.context_tokens``. A pair
        that is too long keeps at least half of the context for its prompt.

    Source:
        Azure LLM inference trace 2023, conversation service (CC-BY 4.0); kept as pairs, since prompt and
        decode lengths are not independent.
    """
    scaled = _trace(workload.lengths) * np.array([workload.prompt_scale, workload.decode_scale])
    pairs = np.maximum(1, np.rint(scaled)).astype(np.int64)
    pairs[:, 1] = np.minimum(pairs[:, 1], limits.context_tokens // 2)
    pairs[:, 0] = np.minimum(pairs[:, 0], limits.context_tokens - pairs[:, 1])
    return np.asarray(pairs)


def popularity(models: int, zipf: float) -> NDArray[np.float64]:
    """Share of requests of each model, shape (models,): the k-th in proportion to k to the minus zipf."""
    weights = np.arange(1, models + 1, dtype=np.float64) ** -zipf
    return np.asarray(weights / weights.sum())


def remaining_tokens(pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Expected further tokens of a request that has generated g, by the workload's length distribution.

    Returns:
        Shape (longest decode + 1,): entry g is E[L - g | L > g], the mean residual life.
    """
    lengths = np.sort(pairs[:, 1]).astype(np.float64)
    generated = np.arange(int(lengths[-1]) + 1)
    first_longer = np.searchsorted(lengths, generated, side="right")
    tail_sums = np.concatenate([np.cumsum(lengths[::-1])[::-1], [0.0]])[first_longer]
    tail_counts = lengths.size - first_longer
    return np.where(tail_counts > 0, tail_sums / np.maximum(1, tail_counts) - generated, 1.0)


def draw_requests(workload: Workload, limits: Limits, models: int, rate_per_s: float, seed: int) -> Requests:
    """Draws the requests of one episode; the same seed gives the same requests everywhere."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    pairs = length_pairs(workload, limits)
    gaps_s = rng.exponential(1.0 / rate_per_s, workload.requests)
    chosen = pairs[rng.integers(0, len(pairs), workload.requests)]
    return Requests(
        arrival_ns=np.rint(np.cumsum(gaps_s) * 1e9).astype(np.int64),
        model=rng.choice(models, workload.requests, p=popularity(models, workload.popularity_zipf)),
        prompt_tokens=chosen[:, 0].copy(),
        decode_tokens=chosen[:, 1].copy(),
    )
