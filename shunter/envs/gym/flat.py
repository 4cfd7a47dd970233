"""The environments with flat, normalised observations, for what reads a vector and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from shunter.envs.gym.scheduling import Observation, SchedulingEnv
from shunter.envs.gym.vector import SchedulingVectorEnv, final_observation
from shunter.envs.observation.features import CONTEXT_TABLE, FEATURE_TABLE, feature_bounds
from shunter.envs.sim.kernel import Outputs

__all__ = ["flat", "flat_space"]

Flat = NDArray[np.float32]


def flat(observation: Observation, share_left: NDArray[np.float64]) -> Flat:
    """Observations as rows of numbers from 0 to 1.

    In order: the features of all candidates, those of the context, the mask, and the share of the episode's
    requests that are not yet served. A feature x whose bound is not 1 becomes x / (1 + x).

    Args:
        observation: ``candidates`` (E, A, F), ``context`` (E, G), ``action_mask`` (E, A).
        share_left: (E,).

    Returns:
        (E, A * F + G + A + 1) float32.
    """
    rows = len(observation["context"])
    parts = [
        _squeezed(observation["candidates"], FEATURE_TABLE).reshape(rows, -1),
        _squeezed(observation["context"], CONTEXT_TABLE),
        observation["action_mask"],
        share_left[:, None],
    ]
    return np.concatenate(parts, axis=1, dtype=np.float32)


def _squeezed(values: NDArray[Any], table: Any) -> NDArray[Any]:
    return np.where(feature_bounds(table) == 1, values, values / (1 + values))


def flat_space(actions: int) -> spaces.Box:
    """The space of ``flat`` observations of one environment with so many candidates."""
    width = actions * (len(FEATURE_TABLE) + 1) + len(CONTEXT_TABLE) + 1
    return spaces.Box(np.float32(0), np.float32(1), (width,))


class FlatSchedulingEnv(SchedulingEnv):
    """``SchedulingEnv`` with ``flat`` observations; arguments, actions, rewards and ``info`` are the same."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.observation_space: spaces.Space[Any] = flat_space(self.world.actions)

    def _observation(self, out: Outputs, mask: NDArray[np.int8]) -> Any:
        seen = {key: value[None] for key, value in super()._observation(out, mask).items()}
        return flat(seen, _share_left(self.batch.state.clock["served"][:, 0], self.batch.length))[0]


class FlatSchedulingVectorEnv(SchedulingVectorEnv):
    """``SchedulingVectorEnv`` with ``flat`` observations."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.single_observation_space: spaces.Space[Any] = flat_space(self.world.actions)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    def _told(self, out: Outputs) -> tuple[Any, dict[str, Any]]:
        seen, info = super()._told(out)
        info["action_mask"] = info["action_mask"].copy()
        return flat(seen, _share_left(info["served"], self.batch.length)), info

    def _final(self, out: Outputs) -> Any:
        return flat(final_observation(out), _share_left(out.result["served"], self.batch.length))


def _share_left(served: NDArray[np.int64], length: int) -> NDArray[np.float64]:
    return 1.0 - served / length
