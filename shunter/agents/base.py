"""The Policy boundary, and the base of policies that score candidates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from shunter.envs.features import feature

__all__ = ["Policy", "ScoringPolicy", "is_", "value"]

Scores = NDArray[np.float64]


@runtime_checkable
class Policy(Protocol):
    """Chooses a candidate from an observation (see ``shunter.envs.scheduling.Observation``)."""

    name: str

    def act(self, observation: dict[str, NDArray[Any]]) -> int:
        """Returns the index of a legal candidate."""
        ...

    def act_batch(self, observations: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
        """The same for observations with a leading batch axis."""
        ...


class ScoringPolicy(ABC):
    """A policy that takes the legal candidate of highest score; ties go to the lowest index."""

    name: str

    @abstractmethod
    def scores(self, candidates: NDArray[Any], context: NDArray[Any], mask: NDArray[np.bool_]) -> Scores:
        """Scores every candidate.

        Args:
            candidates: (..., A, F).
            context: (..., G).
            mask: (..., A).

        Returns:
            (..., A); entries of illegal candidates do not matter.
        """

    def act_batch(self, observations: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
        """Chooses for a batch of observations; returns shape (batch,)."""
        mask = observations["action_mask"].astype(np.bool_)
        scores = self.scores(observations["candidates"], observations["context"], mask)
        return np.asarray(np.where(mask, scores, -np.inf).argmax(axis=-1))

    def act(self, observation: dict[str, NDArray[Any]]) -> int:
        """Chooses for one observation."""
        return int(self.act_batch(observation))


def value(candidates: NDArray[Any], name: str) -> Scores:
    """One feature of all candidates, as float64, shape (..., A)."""
    return candidates[..., feature(name)].astype(np.float64)


def is_(candidates: NDArray[Any], kind: str) -> NDArray[np.bool_]:
    """Which candidates are of a kind: ``run``, ``load``, ``evict`` or ``wait``; shape (..., A)."""
    return np.asarray(candidates[..., feature(f"is_{kind}")] > 0)
