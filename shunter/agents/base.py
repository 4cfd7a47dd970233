"""The Policy boundary, and the base of policies that score candidates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol, TypeGuard, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from shunter.envs.gym.checks import check_action
from shunter.envs.observation.features import feature
from shunter.envs.state.state import State
from shunter.envs.world.world import World
from shunter.errors import InputError

__all__ = [
    "Policy",
    "Scores",
    "ScoringPolicy",
    "StatePolicy",
    "choose",
    "decides_on_state",
    "is_",
    "is_oracle",
    "value",
]

Scores = NDArray[np.float64]


@runtime_checkable
class Policy(Protocol):
    """Chooses a candidate from an observation (see ``shunter.envs.gym.scheduling.Observation``)."""

    @property
    def name(self) -> str:
        """Name in tables and logs."""
        ...

    @property
    def oracle(self) -> bool:
        """Whether observations tell it true remaining lengths, which no server knows: only a bound."""
        ...

    def act(self, observation: dict[str, NDArray[Any]]) -> int:
        """Returns the index of a legal candidate."""
        ...

    def act_batch(self, observations: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
        """The same for observations with a leading batch axis."""
        ...


@runtime_checkable
class StatePolicy(Policy, Protocol):
    """A policy that decides on copies of the state: simulation and reality keep the same one.

    It must not read what a server cannot know of it: decode lengths, requests on their way, and the ends of
    operations under way (unless it is marked oracle).
    """

    def act_on(self, world: World, state: State, device: int, observation: dict[str, NDArray[Any]]) -> int:
        """Returns the index of a legal candidate of the asking device; changes nothing."""
        ...


def is_oracle(policy: Policy) -> bool:
    """Whether a policy sees true remaining lengths; one that does not say so does not."""
    return bool(getattr(policy, "oracle", False))


def decides_on_state(policy: Policy) -> TypeGuard[StatePolicy]:
    """Whether a policy decides on copies of the state: it has ``act_on``."""
    return callable(getattr(policy, "act_on", None))


def choose(
    policy: Policy, world: World, state: State, device: int, observation: dict[str, NDArray[Any]]
) -> int:
    """What a policy chooses for the asking device: a candidate, legal or not.

    Raises:
        InputError: It chooses what is no candidate's index; names the policy.
        Exception: Whatever the policy raises.
    """
    if decides_on_state(policy):
        choice: Any = policy.act_on(world, state, device, observation)
    else:
        choice = policy.act(observation)
    try:
        return check_action(choice, world.actions)
    except InputError:
        pass
    return check_action(choice, world.actions, f"--policy: what {policy.name!r} chooses")


class ScoringPolicy(ABC):
    """A policy that takes the legal candidate of highest score; ties go to the lowest index."""

    name: str
    oracle: bool = False

    @abstractmethod
    def scores(self, candidates: NDArray[Any], context: NDArray[Any], mask: NDArray[np.bool_]) -> Scores:
        """Scores every candidate.

        Args:
            candidates: (..., A, F) features of the candidates.
            context: (..., G) features of the context.
            mask: (..., A) which candidates are legal.

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
