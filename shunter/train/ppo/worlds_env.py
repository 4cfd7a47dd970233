"""Several worlds as one Stable-Baselines3 ``VecEnv``: a generalist sees them all in every rollout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from shunter.agents.learned.prior import SHORTLIST, Prior, greedy_prior, listed
from shunter.envs.gym.scheduling import Observation, make_spaces
from shunter.train.ppo.courses import Course
from shunter.train.ppo.twins import Trace, play_twin
from shunter.train.ppo.vec_env import SchedulingVecEnv, UniformVecEnv

__all__ = ["WorldsVecEnv"]


class WorldsVecEnv(UniformVecEnv):
    """Environments of several worlds side by side, each showing what is on a learned policy's shortlist.

    They are in order of actions and padded to as many for all. Padding is masked, so it is never chosen, and
    networks that pool over legal candidates do not see it.
    Rewards are what a twin has accrued in the same time on the same requests, less what was accrued, in units
    of a course's cost, over ``time_constant``: returns are about 0 under the twin's policy, whatever the
    world, the load and the luck of arrivals. What a twin sees is in observations as ``twin``, for critics
    alone.

    Args:
        courses: The worlds.
        envs_each: Environments of each.
        seed: As ``SchedulingVecEnv``'s; each course has random numbers of its own.
        time_constant: In time scales of each world.
        noise: Whether durations differ from the predicted ones, by luck drawn for each episode and model.
        anywhere: Whether ``reset`` goes on to somewhere in the episodes, deciding as untrained logits would.
            Where few decisions are made until the next reset, all is learned at their beginning otherwise.

    Attributes:
        prior: Of the policy whose shortlists are shown.
    """

    def __init__(
        self,
        courses: Sequence[Course],
        envs_each: int,
        *,
        seed: int = 0,
        time_constant: float,
        noise: bool = False,
        anywhere: bool = False,
    ) -> None:
        self.courses, self.noise, self.anywhere = courses, noise, anywhere
        self.parts = [
            SchedulingVecEnv(course.world, envs_each, seed=seed * len(courses) + i, noise=noise)
            for i, course in enumerate(courses)
        ]
        self.prior = Prior()
        self._rng = np.random.default_rng(seed)
        self.envs_each, self.time_constant = envs_each, time_constant
        unit = np.repeat([course.cost for course in courses], envs_each)
        self.scale = (1.0 / (unit * time_constant)).astype(np.float32)
        actions = max(course.world.actions for course in courses)
        shown, choices = make_spaces(min(actions, SHORTLIST))
        seen = spaces.Dict({**shown.spaces, "twin": shown["context"]})
        super().__init__(envs_each * len(courses), seen, choices)
        self._all = _empty(self.num_envs, make_spaces(actions)[0])
        # sb3 stores an observation after the step that follows it, so the last one must stay as it was.
        self._observation, self._last = (_empty(self.num_envs, self.observation_space) for _ in range(2))
        self._shown = np.zeros(self._observation["action_mask"].shape, np.int64)
        self._twins: list[Trace] = []
        self._time = np.zeros(self.num_envs)  # of each episode, in time scales

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
        self._twins = [self._twin(e) for e in range(self.num_envs)]
        self._time[:] = 0.0
        seen = self._padded(parts)
        if self.anywhere:
            for _ in range(self._rng.integers(max(len(twin.times) for twin in self._twins))):
                prior = greedy_prior(seen["candidates"], self.prior)
                self.step_async(np.where(seen["action_mask"] > 0, prior, -np.inf).argmax(axis=1))
                seen = self.step_wait()[0]
        return seen

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Remembers the actions for ``step_wait``."""
        self._actions = self._shown[np.arange(self.num_envs), actions]

    def step_wait(self) -> tuple[Observation, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Carries out the actions; each info has ``elapsed``, in its world's time scales."""
        for i, part in enumerate(self.parts):
            part.step_async(self._actions[i * self.envs_each : (i + 1) * self.envs_each])
        stepped = [part.step_wait() for part in self.parts]
        infos = [info for step in stepped for info in step[3]]
        done = np.concatenate([step[2] for step in stepped])
        costs = np.concatenate([step[1] for step in stepped]) + self._twins_costs(infos, done)
        for e in np.flatnonzero(done).tolist():
            last = infos[e]["terminal_observation"]
            infos[e]["terminal_observation"] = self._show_one(last, self._twins[e].context(self._time[e]))
            self._twins[e], self._time[e] = self._twin(e), 0.0
        return self._padded([step[0] for step in stepped]), costs * self.scale, done, infos

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions are legal now, shape (num_envs, A)."""
        return self._observation["action_mask"].view(np.bool_)

    def close(self) -> None:
        """Ends all threads."""
        for part in self.parts:
            part.close()

    def _twin(self, e: int) -> Trace:
        """Of the episode that an environment is in."""
        part, row = divmod(e, self.envs_each)
        clock = self.parts[part].batch.state.clock[row, 0]
        return play_twin(self.courses[part].world, int(clock["key"]), int(clock["episode"]), noise=self.noise)

    def _twins_costs(self, infos: list[dict[str, Any]], done: NDArray[np.bool_]) -> NDArray[np.float32]:
        """What the twins accrued during a step, (n,); at an episode's end, all that they still will."""
        before, self._time = self._time, self._time + [info["elapsed"] for info in infos]
        until = np.where(done, np.inf, self._time)
        steps = zip(self._twins, before, until, strict=True)
        return np.array([twin.cost(end) - twin.cost(start) for twin, start, end in steps], np.float32)

    def _padded(self, parts: list[Observation]) -> Observation:
        for i, part in enumerate(parts):
            rows = slice(i * self.envs_each, (i + 1) * self.envs_each)
            for key, array in part.items():
                self._all[key][(rows, *map(slice, array.shape[1:]))] = array
        self._observation, self._last = self._last, self._observation
        self._shown = _show(self._all, self._observation, self.prior)
        for e, (twin, time) in enumerate(zip(self._twins, self._time, strict=True)):
            self._observation["twin"][e] = twin.context(time)
        return self._observation

    def _show_one(self, one: Observation, twin: NDArray[np.float32]) -> Observation:
        out = _empty(1, self.observation_space)
        _show({key: array[None] for key, array in one.items()}, out, self.prior)
        out["twin"][0] = twin
        return {key: array[0] for key, array in out.items()}


def _empty(count: int, space: spaces.Dict) -> Observation:
    return {key: np.zeros((count, *(part.shape or ())), part.dtype) for key, part in space.spaces.items()}


def _show(seen: Observation, out: Observation, rest: Prior) -> NDArray[np.int64]:
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
