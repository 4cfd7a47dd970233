"""Which models' weights the host holds: what was loaded once stays there while the node's memory lasts.

The real executor keeps the same books: it believes that the page cache holds what these rules say.
"""

from __future__ import annotations

from shunter.envs.sim.compiled import inlined, internal, jit
from shunter.envs.state.state import State
from shunter.envs.state.tables import Tables


@internal
def cached_bytes(t: Tables, s: State) -> float:
    """What the weights in the host's memory take."""
    total = 0.0
    for m in range(s.model.shape[0]):
        if s.model[m].cached != 0:
            total += t.weight_bytes[m]
    return total


@jit
def fill_cache(t: Tables, s: State) -> None:
    """How an episode begins: models are in the host's memory in the order listed, as far as it goes."""
    total = 0.0
    for m in range(s.model.shape[0]):
        model = s.model[m]
        total += t.weight_bytes[m]
        model.cached = 1 if total <= t.limits[0].host_bytes else 0
        model.cached_at = 0


@inlined
def cache(s: State, m: int, cached: int) -> None:
    """Notes whether the host's memory holds model m: what its candidates show changes everywhere."""
    s.model[m].cached = cached
    for d in range(s.place.shape[0]):
        s.place[d, m].changed = 1


@internal
def fetch_weights(t: Tables, s: State, m: int) -> int:
    """Brings a model's weights into the host's memory; the least recently used ones make room.

    Returns:
        1 if they had to be read from disk, else 0. One that is larger than the memory never stays.
    """
    cold = 1 - s.model[m].cached
    cache(s, m, 1)
    s.model[m].cached_at = s.counts[0].swaps
    while cached_bytes(t, s) > t.limits[0].host_bytes:
        oldest = m
        for other in range(s.model.shape[0]):
            model = s.model[other]
            if other == m or model.cached == 0:
                continue
            if oldest == m or model.cached_at < s.model[oldest].cached_at:
                oldest = other
        cache(s, oldest, 0)
    return int(cold)
