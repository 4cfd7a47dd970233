"""States of environments, to go back to: what ``get_state`` gives and ``set_state`` takes."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from shunter.envs.sim.batch import Batch, BatchState
from shunter.errors import InputError


@dataclass(frozen=True)
class EnvState:
    """All that changes in an environment; it can be pickled, and used as often as one likes.

    Attributes:
        batch: Of the simulation.
        own: Of the environment's face, by attribute.
    """

    batch: BatchState
    own: dict[str, Any]


class Restorable:
    """What the environments' faces share: their states can be taken and gone back to."""

    batch: Batch
    _changing: tuple[str, ...]
    """Attributes that change, besides the batch."""

    def get_state(self) -> EnvState:
        """All that changes, copied: requests to come and random numbers included, not the spaces' own.

        A search that tries actions on it knows the future, as no policy does. Wrappers are not part of it:
        ``copy.deepcopy`` copies them too.
        """
        own = {name: copy.deepcopy(getattr(self, name)) for name in self._changing}
        return EnvState(self.batch.get_state(), own)

    def set_state(self, state: EnvState) -> None:
        """Goes on from where ``get_state`` was called; what follows is the same, bit for bit.

        Args:
            state: From ``get_state`` of this environment, or of one like it in any process.

        Raises:
            InputError: It is none, or one of another world, another number of environments, or simulated
                otherwise.
        """
        if not isinstance(state, EnvState) or set(state.own) != set(self._changing):
            raise InputError(
                "state", "be from get_state of an environment of this class", type(state).__name__
            )
        self.batch.set_state(state.batch)
        for name, value in state.own.items():
            setattr(self, name, copy.deepcopy(value))
