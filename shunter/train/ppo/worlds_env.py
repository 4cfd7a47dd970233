"""Several worlds as one Stable-Baselines3 ``VecEnv``: a generalist sees them all in every rollout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from shunter.agents.learned.base_policy import MOST_CANDIDATES, BasePolicy, base_scores, listed
from shunter.envs.gym.checks import check_actions
from shunter.envs.gym.scheduling import Observation, make_spaces
from shunter.envs.sim.batch import Noise
from shunter.train.ppo.tasks import TrainingTask
from shunter.train.ppo.vec_env import SchedulingVecEnv, UniformVecEnv


class WorldsVecEnv(UniformVecEnv):
    """Environments of several worlds side by side, each showing what is on a learned policy's pruned.

    They are in order of actions and padded to as many for all. Padding is masked, so it is never chosen, and
    networks that pool over legal candidates do not see it.
    Rewards are what the reference policy accrues on average in the same time, less what was accrued, in units
    of a task's cost, over ``time_constant``: returns are about 0 under that policy, whatever the world and
    the load.

    Args:
        tasks: The worlds.
        envs_each: Number of environments of each world.
        seed: Seed of all environments; each task has random numbers of its own.
        time_constant: Time constant of discounting, in time scales of each world.
        noise: Whether durations differ from the predicted ones, by luck drawn for each episode and model;
            ``drift``: devices are slower for stretches of time besides.
        anywhere: Whether ``reset`` goes on to somewhere in the episodes, deciding as untrained logits would.
            Where few decisions are made until the next reset, all is learned at their beginning otherwise.

    Attributes:
        prior: Base policy whose shortlists are shown.
    """

    def __init__(
        self,
        tasks: Sequence[TrainingTask],
        envs_each: int,
        *,
        seed: int = 0,
        time_constant: float,
        noise: Noise = False,
        anywhere: bool = False,
    ) -> None:
        self.tasks, self.anywhere = tasks, anywhere
        self.parts = [
            SchedulingVecEnv(task.world, envs_each, seed=seed * len(tasks) + i, noise=noise)
            for i, task in enumerate(tasks)
        ]
        self.prior = BasePolicy()
        self._rng = np.random.default_rng(seed)
        self.envs_each, self.time_constant = envs_each, time_constant
        self.cost = np.repeat([task.cost for task in tasks], envs_each)
        self.scale = (1.0 / (self.cost * time_constant)).astype(np.float32)
        actions = max(task.world.actions for task in tasks)
        shown, choices = make_spaces(min(actions, MOST_CANDIDATES))
        super().__init__(envs_each * len(tasks), shown, choices)
        self._all = _empty(self.num_envs, make_spaces(actions)[0])
        # sb3 stores an observation after the step that follows it, so the last one must stay as it was.
        self._observation, self._last = (_empty(self.num_envs, self.observation_space) for _ in range(2))
        self._shown = np.zeros(self._observation["action_mask"].shape, np.int64)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seeds all environments from the next reset on; each world has random numbers of its own."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
            for i, part in enumerate(self.parts):
                part.seed(seed * len(self.parts) + i)
        return [seed] * self.num_envs

    def reset(self) -> Observation:
        """Starts an episode in every environment."""
        parts = [part.reset() for part in self.parts]
        seen = self._padded(parts)
        if self.anywhere:
            for _ in range(self._rng.integers(max(task.decisions for task in self.tasks))):
                prior = base_scores(seen["candidates"], self.prior)
                self.step_async(np.where(seen["action_mask"] > 0, prior, -np.inf).argmax(axis=1))
                seen = self.step_wait()[0]
        return seen

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Remembers the actions for ``step_wait``.

        Raises:
            gymnasium.error.ResetNeeded: It was never reset.
            gymnasium.error.ClosedEnvironmentError: It was closed.
            InputError: The actions are not one shown candidate's index for each environment.
        """
        chosen = check_actions(actions, (self.num_envs,), int(self.action_space.n))
        wanted = self._shown[np.arange(self.num_envs), chosen]
        for i, part in enumerate(self.parts):
            part.put(wanted[i * self.envs_each : (i + 1) * self.envs_each])

    def step_wait(self) -> tuple[Observation, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Carries out the actions; each info has ``elapsed``, in its world's time scales."""
        stepped = [part.step_wait() for part in self.parts]
        infos = [info for step in stepped for info in step[3]]
        done = np.concatenate([step[2] for step in stepped])
        accrued = np.concatenate([step[1] for step in stepped])
        rewards = (accrued + self.cost * [info["elapsed"] for info in infos]) * self.scale
        for e in np.flatnonzero(done).tolist():
            infos[e]["terminal_observation"] = self._show_one(infos[e]["terminal_observation"])
        return self._padded([step[0] for step in stepped]), rewards.astype(np.float32), done, infos

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
                self._all[key][(rows, *map(slice, array.shape[1:]))] = array
        self._observation, self._last = self._last, self._observation
        self._shown = _show(self._all, self._observation, self.prior)
        return self._observation

    def _show_one(self, one: Observation) -> Observation:
        out = _empty(1, self.observation_space)
        _show({key: array[None] for key, array in one.items()}, out, self.prior)
        return {key: array[0] for key, array in out.items()}


def _empty(count: int, space: spaces.Dict) -> Observation:
    return {key: np.zeros((count, *(part.shape or ())), part.dtype) for key, part in space.spaces.items()}


def _show(seen: Observation, out: Observation, rest: BasePolicy) -> NDArray[np.int64]:
    """Writes the shortlists of ``seen`` into ``out`` and returns the actions meant, (n, shown)."""
    legal = seen["action_mask"] > 0
    kept, prior = listed(seen["candidates"], seen["context"], legal, rest)
    count = min(out["action_mask"].shape[1], legal.shape[1])
    first = np.argpartition(np.where(kept, -prior, np.inf), count - 1, axis=1)[:, :count]
    shown = np.sort(first, axis=1)
    out["candidates"][:, :count] = np.take_along_axis(seen["candidates"], shown[..., None], axis=1)
    out["action_mask"][:, :count] = np.take_along_axis(kept, shown, axis=1)
    out["context"][:] = seen["context"]
    return shown
