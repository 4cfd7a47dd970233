"""Look-ahead over the environments of a batch: costs of candidates for a network to learn from."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from shunter.agents.lookahead.policy import CandidateSearch, LookaheadSettings, Tried
from shunter.envs.sim.batch import Batch
from shunter.envs.world.world import World

Floats = NDArray[np.float64]


class Teacher:
    """Looks ahead from every environment of a batch; threads share the environments.

    Args:
        world: The batch's.
        settings: How far and how often. Without ``race`` every candidate's cost is known equally well.
        threads: Number of threads that share the work; results are the same for any number.
    """

    def __init__(self, world: World, settings: LookaheadSettings, *, threads: int = 1) -> None:
        self.world, self.settings = world, settings
        self._searches = [CandidateSearch(world, settings) for _ in range(threads)]
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def close(self) -> None:
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def lookahead_scores(self, batch: Batch) -> tuple[Floats, Floats]:
        """Costs of every environment's candidates, at its present decision.

        Returns:
            Means and standard errors of their differences from cost-greedy's choice, two of shape (E, A), in
            request-seconds from now on; NaN for candidates that were not tried.
        """
        shape = (batch.environments, self.world.actions)
        means, errors = np.full(shape, np.nan), np.full(shape, np.nan)
        for e, tried in enumerate(self._try_all(batch)):
            means[e], errors[e] = tried.scores(self.world.actions)
        return means, errors

    def act(self, batch: Batch) -> NDArray[np.int64]:
        """What look-ahead would do in every environment, shape (E,)."""
        return np.array([tried.best(self.settings.confidence) for tried in self._try_all(batch)])

    def _try_all(self, batch: Batch) -> list[Tried]:
        share = len(self._searches)
        if self._pool is None:
            return self._part(batch, 0)
        parts = list(self._pool.map(lambda k: self._part(batch, k), range(share)))
        return [parts[e % share][e // share] for e in range(batch.environments)]

    def _part(self, batch: Batch, k: int) -> list[Tried]:
        """Every environment that is k modulo the number of threads."""
        search, out = self._searches[k], batch.out
        devices = batch.state.clock["asking"][:, 0]
        return [
            search.try_all(batch.state.of(e), int(devices[e]), out.candidates[e], out.context[e], out.mask[e])
            for e in range(k, batch.environments, len(self._searches))
        ]
