"""What a version of an engine says of when it was released and of how it was told to work.

Dates and builds are llama.cpp's; another engine's version, or none, is taken as of today: what is predicted
is what someone would run now.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

__all__ = ["NVIDIA", "release_of"]

Array = npt.NDArray[np.float64]

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_BUILDS = ((1786, 2024.05), (6123, 2025.62), (7948, 2026.1), (10549, 2026.65))
"""Builds of llama.cpp by when they were made. Source: the dates of published rows that name them."""

NOW = 2026.65
"""The newest release that published rows are of."""

GRAPHS_SINCE = {"Volta": 2026.5, "Turing": 2026.5, "Pascal": np.inf}
"""CUDA graphs, by generation where later than 2024.3. Source: llama.cpp pull requests 6766, 25749, 27721."""

GRAPHS_FROM = 2024.3
INT8_FROM = 2024.45
"""Prefill with int8 matrix units, Volta and later. Source: llama.cpp pull requests 7676, 7860, 7921."""

FLASH_FROM = 2025.67
"""Flash attention by default. Source: llama.cpp pull request 15434."""

DOT8 = {"Pascal": 1024.0, "GCN 5.1": 512.0, "RDNA 2.0": 512.0}
"""Generations without matrix units whose lanes multiply four bytes at a time (DP4A), with operations a clock
and multiprocessor: 128 lanes or 64, 8 each. Source: NVIDIA, Pascal Tuning Guide; AMD, ISA guides (V_DOT4)."""

NVIDIA = frozenset(
    (
        *("Pascal", "Volta", "Turing", "Ampere", "Ampere GA100"),
        *("Ada", "Hopper", "Blackwell", "Blackwell 2.0"),
    )
)
"""Generations that CUDA drives."""


@dataclass(frozen=True)
class Release:
    """What a version's text says.

    Attributes:
        year: When it was released, a decimal year; ``NOW`` where the text says nothing.
        is_known: Whether the text says when.
        flash_attention: Whether attention is computed tile by tile.
        ubatch_tokens: Tokens of one pass of a prefill; None: the default.
    """

    year: float
    is_known: bool
    flash_attention: bool
    ubatch_tokens: float | None


@cache
def release_of(version: str) -> Release:
    """Reads a version: ``llama.cpp llama-bench b6123 (2025-08), -fa 1, -ub 2048``."""
    year = _year(version)
    flash = re.search(r"-fa ([01])\b", version)
    passes = re.search(r"-ub (\d+)\b", version)
    return Release(
        year=NOW if year is None else year,
        is_known=year is not None,
        flash_attention=flash[1] == "1" if flash else (NOW if year is None else year) >= FLASH_FROM,
        ubatch_tokens=float(passes[1]) if passes else None,
    )


def is_release_known(version: str) -> bool:
    """Whether a version's text says when it was released."""
    return release_of(version).is_known


def _year(text: str) -> float | None:
    if dated := re.search(r"\b(20\d\d)-(\d\d)\b", text):
        return int(dated[1]) + (int(dated[2]) - 0.5) / 12
    if (named := re.search(r"\b([A-Z][a-z]{2})[a-z]* (20\d\d)\b", text)) and named[1] in _MONTHS:
        return int(named[2]) + (_MONTHS.index(named[1]) + 0.5) / 12
    if build := re.search(r"\bb(?:uild )?(\d{4,5})\b", text):
        builds, years = zip(*_BUILDS, strict=True)
        return float(np.interp(float(build[1]), np.array(builds), np.array(years)))
    middle = re.search(r"\b(20\d\d)\b", text)
    return int(middle[1]) + 0.5 if middle else None


def base_version(version: str) -> str:
    """A version without how it was told to work."""
    return re.sub(r", -(?:fa|ub) \d+", "", version)


def has_graphs(years: Array, generations: npt.NDArray[np.object_]) -> Array:
    """1 where a decode step is launched as one CUDA graph; shape (n_configurations,)."""
    since = [GRAPHS_SINCE.get(g, GRAPHS_FROM) if g in NVIDIA else np.inf for g in generations]
    return (years >= np.array(since)).astype(np.float64)


def has_int8(years: Array, generations: npt.NDArray[np.object_]) -> Array:
    """1 where prefill multiplies quantised weights in int8 matrix units; shape (n_configurations,)."""
    able = np.array([g in NVIDIA and g != "Pascal" for g in generations], dtype=bool)
    return (able & (years >= INT8_FROM)).astype(np.float64)


def has_library(generations: npt.NDArray[np.object_], quantised: Array) -> Array:
    """1 where rocBLAS or hipBLASLt multiply, 0 where kernels are llama.cpp's own or cuBLAS's.

    Quantised weights are its own kernels' on generations without matrix units.
    Which of them a build uses, and how well it knows the card, changes a prefill by a factor of two and more.
    Source: kyuz0, amd-strix-halo-toolboxes, docs/benchmarks.md (hipBLASLt: 2.55 times as fast).
    """
    of_vendor = np.array([str(g).startswith(("GCN", "RDNA", "CDNA")) for g in generations], dtype=np.float64)
    return of_vendor * (1 - quantised * np.isin(generations.astype(str), list(DOT8)))
