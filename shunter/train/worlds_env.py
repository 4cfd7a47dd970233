"""Several worlds as one Stable-Baselines3 ``VecEnv``: a generalist sees them all in every rollout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.envs.scheduling import Observation, make_spaces
from shunter.train.courses import Course
from shunter.train.vec_env import SchedulingVecEnv, UniformVecEnv

__all__ = ["WorldsVecEnv"]


class WorldsVecEnv(UniformVecEnv):
    """Environments of several worlds side by side, padded to the most actions.

    Padding is masked, so it is never chosen, and networks that pool over legal candidates do not see it.
    Rewards are in units of the reference policy's number in system, over ``time_constant``: returns are
    about -1 under the reference policy, whatever the world and the load.

    Args:
        courses: The worlds.
        envs_each: Environments of each.
        seed: As ``SchedulingVecEnv``'s; each course has random numbers of its own.
        time_constant: In time scales of each world.
        noise: Whether durations differ from the predicted ones, by luck drawn for each episode and model.
    """

    def __init__(
        self,
        courses: Sequence[Course],
        envs_each: int,
        *,
        seed: int = 0,
        time_constant: float,
        noise: bool = False,
    ) -> None:
        self.parts = [
            SchedulingVecEnv(course.world, envs_each, seed=seed * len(courses) + i, noise=noise)
            for i, course in enumerate(courses)
        ]
        self.envs_each = envs_each
        unit = np.repeat([course.in_system for course in courses], envs_each)
        self.scale = (1.0 / (unit * time_constant)).astype(np.float32)
        super().__init__(
            envs_each * len(courses), *make_spaces(max(course.world.actions for course in courses))
        )
        self._observation: Observation = {
            key: np.zeros((self.num_envs, *space.shape), space.dtype)
            for key, space in self.observation_space.spaces.items()
        }
        self._actions = np.zeros(self.num_envs, np.int64)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seeds all environments from the next reset on; each world has random numbers of its own."""
        if seed is not None:
            for i, part in enumerate(self.parts):
                part.seed(seed * len(self.parts) + i)
        return [seed] * self.num_envs

    def reset(self) -> Observation:
        """Starts an episode in every environment."""
        return self._padded([part.reset() for part in self.parts])

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Remembers the actions for ``step_wait``."""
        self._actions[:] = actions

    def step_wait(self) -> tuple[Observation, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Carries out the actions; each info has ``elapsed``, in its world's time scales."""
        for i, part in enumerate(self.parts):
            part.step_async(self._actions[i * self.envs_each : (i + 1) * self.envs_each])
        stepped = [part.step_wait() for part in self.parts]
        infos = [info for step in stepped for info in step[3]]
        rewards = np.concatenate([step[1] for step in stepped]) * self.scale
        done = np.concatenate([step[2] for step in stepped])
        for e in np.flatnonzero(done):
            infos[e]["terminal_observation"] = self._pad_one(infos[e]["terminal_observation"])
        return self._padded([step[0] for step in stepped]), rewards, done, infos

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions are legal now, shape (num_envs, A)."""
        return self._observation["action_mask"].view(np.bool_)

    def close(self) -> None:
        """Ends all threads."""
        for part in self.parts:
            part.close()

    def _padded(self, parts: list[Observation]) -> Observation:
        for i, part in enumerate(parts):
            rows = slice(i * self.envs_each, (i + 1) * self.envs_each)
            for key, array in part.items():
                self._observation[key][(rows, *(slice(n) for n in array.shape[1:]))] = array
        return self._observation

    def _pad_one(self, one: Observation) -> Observation:
        out: Observation = {
            key: np.zeros(space.shape, space.dtype) for key, space in self.observation_space.spaces.items()
        }
        for key, array in one.items():
            out[key][tuple(slice(n) for n in array.shape)] = array
        return out
