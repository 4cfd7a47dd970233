"""Random numbers without a state: a function of who asks for which, whatever the order and batch size."""

from __future__ import annotations

from typing import Any

import numpy as np

from shunter.envs.sim.compiled import inlined, internal, jit

__all__ = ["GOLDEN", "inlined_spread", "key_of", "spread", "uniform"]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST = np.uint64(0xBF58476D1CE4E5B9)
SECOND = np.uint64(0x94D049BB133111EB)


def spread(bits: Any) -> Any:
    """Spreads every bit of a uint64, or of an array of them, over all.

    Source:
        The finaliser of SplitMix64: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
        generators", doi 10.1145/2714064.2660195.
    """
    bits = (bits ^ (bits >> np.uint64(30))) * FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * SECOND
    return bits ^ (bits >> np.uint64(31))


inlined_spread = inlined(spread)
"""``spread`` for compiled code."""


@internal
def mix(x: int | np.uint64) -> np.uint64:
    """Scrambles 64 bits so that neighbouring inputs give unrelated outputs: SplitMix64."""
    return inlined_spread(np.uint64(x) + GOLDEN)  # type: ignore[no-any-return]


@jit
def key_of(key: int, index: int) -> int:
    """A key derived from another one and an index, at least 0."""
    return np.int64(mix(mix(key) ^ np.uint64(index)) >> np.uint64(1))  # type: ignore[return-value]


@jit
def uniform(key: int, index: int) -> float:
    """The index-th number of a key, uniform in (0, 1)."""
    bits = np.uint64(key_of(key, index)) >> np.uint64(11)
    return (np.float64(bits) + 0.5) * 2.0**-52


@internal
def normal(key: int, index: int) -> float:
    """The index-th number of a key, standard normal (Box and Muller)."""
    radius = np.sqrt(-2.0 * np.log(uniform(key, 2 * index)))
    return float(radius * np.cos(2.0 * np.pi * uniform(key, 2 * index + 1)))
