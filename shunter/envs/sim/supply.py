"""Feeds environments with requests: a ring each, filled as it runs dry, whatever the length of an episode."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from shunter.envs.sim.randomness import key_of
from shunter.envs.state.state import Requests, State
from shunter.envs.world.world import World

__all__ = ["environment_key"]

_NOTHING = Requests(*(np.zeros(0, np.int64) for _ in Requests._fields))


def environment_key(seed: int, environment: int) -> int:
    """Key of all random numbers of one environment of a batch."""
    return int(key_of(seed % 2**63, environment))


class Supply:
    """Draws the requests of one environment, episode after episode.

    Args:
        world: The compiled world that draws them.
        key: Key of the environment; the requests of each of its episodes depend on it and the episode's
            number.
        episode: Number of the episode to begin with.
        workload_seed: Seed of the requests of that episode instead, for comparisons on the same requests.
    """

    def __init__(self, world: World, key: int, episode: int = 0, workload_seed: int | None = None) -> None:
        self.world = world
        self.key = key
        self.named = {episode: workload_seed}
        self._restart(episode)

    def _restart(self, episode: int) -> None:
        self.episode = episode
        self._number = 0  # pieces of the episode that were taken
        self._pieces: Iterator[Requests] | None = None
        self._left = _NOTHING

    def _next(self) -> Requests:
        """The next piece of the requests of all episodes, never across an episode's end."""
        while True:
            if self._pieces is None:
                named = self.named.get(self.episode)
                seed = int(key_of(self.key, self.episode)) if named is None else named
                self._pieces = islice(self.world.chunks(seed), self._number, None)
            piece = next(self._pieces, None)
            if piece is not None:
                self._number += 1
                return piece
            self.episode, self._number, self._pieces = self.episode + 1, 0, None

    def __getstate__(self) -> dict[str, Any]:
        # Where drawing stands goes into no file; from the number of pieces it is found again when needed.
        return {**self.__dict__, "_pieces": None}

    def at_present(self) -> Supply:
        """One that goes on as this will, whatever becomes of this; what was drawn is shared."""
        twin = object.__new__(Supply)
        twin.__dict__.update(self.__getstate__())
        return twin

    def fill(self, state: State, e: int) -> None:
        """Fills the ring of environment e of a batch; at least one request that it has not taken is there."""
        clock, ring = state.clock[e, 0], state.ring[e]
        if clock["filled"] < clock["taken"]:
            # An episode was cut off: nobody wants the rest of its requests.
            self._restart(int(clock["episode"]))
            clock["filled"] = clock["taken"]
        while (room := len(ring) - int(clock["filled"] - clock["taken"])) > 0:
            if not len(self._left.arrival_ns):
                self._left = self._next()
            at = int(clock["filled"]) % len(ring)
            count = min(room, len(ring) - at, len(self._left.arrival_ns))
            for name, values in zip(Requests._fields, self._left, strict=True):
                ring[name][at : at + count] = values[:count]
            self._left = Requests(*(values[count:] for values in self._left))
            clock["filled"] += count
