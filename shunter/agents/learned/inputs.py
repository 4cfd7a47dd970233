"""What learned scores are computed from: features squashed at a few scales, and the kind of a candidate.

x / (1 + x) is bounded, monotone and cheap; a feature without a natural bound is seen at several scales, so
that hundredths of a time scale and hundreds of them both tell.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.agents.base import is_
from shunter.envs.observation.features import CONTEXT_TABLE, FEATURE_TABLE, Feature

__all__ = [
    "CANDIDATE_FEATURE",
    "CANDIDATE_SCALE",
    "CONTEXT_FEATURE",
    "CONTEXT_SCALE",
    "INPUTS",
    "KINDS",
    "input_names",
]

KINDS = ("run", "load", "evict", "wait")
"""What a candidate does; each kind has linear weights of its own."""

SCALES = (1.0, 0.05)
"""Scales of features without a natural bound."""

Array = NDArray[np.float64]


def _inputs(table: tuple[Feature, ...]) -> tuple[NDArray[np.int64], Array]:
    """Which feature each input reads, and its scale; 0: as it is."""
    pairs = [(i, s) for i, f in enumerate(table) for s in ((0.0,) if f.high == 1 else SCALES)]
    return np.array([i for i, _ in pairs], np.int64), np.array([s for _, s in pairs], np.float64)


CANDIDATE_FEATURE, CANDIDATE_SCALE = _inputs(FEATURE_TABLE)
CONTEXT_FEATURE, CONTEXT_SCALE = _inputs(CONTEXT_TABLE)

INPUTS = len(CANDIDATE_FEATURE) + len(CONTEXT_FEATURE) + 1
"""Number of inputs of the linear part: those of the candidate, those of the context, and 1."""


def _squashed(features: NDArray[Any], feature: NDArray[np.int64], scale: Array) -> Array:
    x = features[..., feature].astype(np.float64)
    scaled = scale * x
    return np.where(scale == 0, x, scaled / (1.0 + scaled))


def candidate_inputs(candidates: NDArray[Any]) -> Array:
    """What is seen of candidates, (..., F) to (..., inputs)."""
    return _squashed(candidates, CANDIDATE_FEATURE, CANDIDATE_SCALE)


def context_inputs(context: NDArray[Any]) -> Array:
    """What is seen of the context, (..., G) to (..., inputs)."""
    return _squashed(context, CONTEXT_FEATURE, CONTEXT_SCALE)


def kind_of(candidates: NDArray[Any]) -> NDArray[np.int64]:
    """Index into ``KINDS`` of each candidate, (..., F) to (...,)."""
    return np.asarray(np.argmax([is_(candidates, kind) for kind in KINDS], axis=0))


def input_names() -> list[str]:
    """Names of the linear part's inputs, in order."""

    def named(table: tuple[Feature, ...], feature: NDArray[np.int64], scale: Array, prefix: str) -> list[str]:
        return [
            f"{prefix}{table[i].name}" + ("" if s in (0.0, 1.0) else f" × {s:g}")
            for i, s in zip(feature.tolist(), scale.tolist(), strict=True)
        ]

    own = named(FEATURE_TABLE, CANDIDATE_FEATURE, CANDIDATE_SCALE, "")
    return [*own, *named(CONTEXT_TABLE, CONTEXT_FEATURE, CONTEXT_SCALE, "all: "), "1"]
