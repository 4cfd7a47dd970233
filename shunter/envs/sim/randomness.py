"""Random numbers without a state: a function of who asks for which, whatever the order and batch size."""

from __future__ import annotations

import numpy as np

from shunter.envs.sim.compiled import internal, jit

__all__ = ["key_of", "uniform"]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST = np.uint64(0xBF58476D1CE4E5B9)
SECOND = np.uint64(0x94D049BB133111EB)


@internal
def mix(x: int | np.uint64) -> np.uint64:
    """Scrambles 64 bits so that neighbouring inputs give unrelated outputs.

    Source:
        Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators": SplitMix64.
    """
    z = np.uint64(x) + GOLDEN
    z = (z ^ (z >> np.uint64(30))) * FIRST
    z = (z ^ (z >> np.uint64(27))) * SECOND
    return z ^ (z >> np.uint64(31))


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
