"""The simulator as a Stable-Baselines3 ``VecEnv``: all environments in one compiled call, nothing copied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from shunter.envs.gym.checks import (
    check_actions,
    check_begun,
    check_count,
    check_cut_off,
    check_flag,
    check_noise,
    check_seed,
    check_world,
)
from shunter.envs.gym.scheduling import Observation, make_spaces
from shunter.envs.gym.vector import final_observation, observation
from shunter.envs.sim.batch import Batch, Noise
from shunter.envs.sim.kernel import Outputs
from shunter.envs.sim.supply import environment_key
from shunter.envs.world.world import World

__all__ = ["SchedulingVecEnv"]


class UniformVecEnv(VecEnv):
    """What our ``VecEnv`` faces share: all environments are one object, which answers for each of them."""

    render_mode = None

    def has_attr(self, attr_name: str) -> bool:
        """Whether environments have an attribute; sb3-contrib asks for ``action_masks``."""
        return hasattr(self, attr_name)

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute, the same for all environments."""
        return [getattr(self, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Sets an attribute of all environments; there are none of single ones."""
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """What a method gives for each environment; only ``action_masks`` is there."""
        values = getattr(self, method_name)(*args, **kwargs)
        return [values[i] for i in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """No environment is."""
        return [False] * len(list(self._get_indices(indices)))


class SchedulingVecEnv(UniformVecEnv):
    """Many ``SchedulingEnv`` at once for Stable-Baselines3.

    Where an episode is cut off, the reward does not charge for requests that are still there, as that of
    ``SchedulingEnv`` does under an SLO objective: SB3 bootstraps what follows.

    Observations are the arrays that the simulator writes; the step after the next overwrites them, by when
    SB3's buffers have copied what they keep.

    Args:
        world: The compiled scenario.
        num_envs: Number of environments.
        seed: Seed of all environments, see ``SchedulingVectorEnv``; ``seed()`` changes it from the next reset
            on.
        reward_scale: Factor that rewards are multiplied by.
        oracle: Whether observations tell true remaining lengths instead of expected ones.
        noise: Whether durations differ from the predicted ones, by luck drawn for each episode and model;
            ``drift``: devices are slower for stretches of time besides.
        threads: Number of threads that share the work.
        cut_off_s: When an episode is cut off, see ``SchedulingEnv``.
    """

    def __init__(
        self,
        world: World,
        num_envs: int,
        *,
        seed: int = 0,
        reward_scale: float = 1.0,
        oracle: bool = False,
        noise: Noise = False,
        threads: int = 1,
        cut_off_s: float | None = None,
    ) -> None:
        num_envs, threads = check_count("num_envs", num_envs), check_count("threads", threads)
        world = check_world(world, None, None)
        oracle, noise = check_flag("oracle", oracle), check_noise(noise)
        super().__init__(num_envs, *make_spaces(world.actions))
        self.batch = Batch(
            world,
            num_envs,
            autoreset=True,
            oracle=oracle,
            noise=noise,
            threads=threads,
            cut_off_s=check_cut_off(cut_off_s, world.late_s),
        )
        self.reward_scale = reward_scale
        self._actions: NDArray[np.int64] | None = None
        self._begun = self._keyed = self._closed = False
        self.seed(seed)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seeds all environments from the next reset on.

        Raises:
            InputError: The seed is no integer of at least 0.
        """
        if seed is not None:
            self._base, self._keyed = check_seed(seed), False
        return [seed] * self.num_envs

    def reset(self) -> Observation:
        """Starts an episode in every environment; actions that wait to be carried out are forgotten.

        Raises:
            gymnasium.error.ClosedEnvironmentError: It was closed.
        """
        check_begun(True, self._closed)
        keys: list[int | None] = [None] * self.num_envs
        if not self._keyed:
            keys = [environment_key(self._base, e) for e in range(self.num_envs)]
        self._keyed = self._begun = True
        self._actions = None
        return observation(self.batch.reset(keys), copy=False)

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Remembers a copy of the actions for ``step_wait``.

        Raises:
            gymnasium.error.ResetNeeded: It was never reset.
            gymnasium.error.ClosedEnvironmentError: It was closed.
            InputError: The actions are not one candidate's index for each environment.
        """
        self.put(check_actions(actions, (self.num_envs,), int(self.action_space.n)))

    def put(self, actions: NDArray[np.int64]) -> None:
        """As ``step_async``, for what was checked: (num_envs,) int64; beyond the candidates is illegal."""
        check_begun(self._begun, self._closed)
        self._actions = actions.copy()

    def step_wait(self) -> tuple[Observation, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Carries out the actions; each info has ``elapsed``, the step's duration in time scales.

        Raises:
            gymnasium.error.NoAsyncCallError: There were none since the last step.
        """
        if self._actions is None:
            raise gymnasium.error.NoAsyncCallError("call step_async before step_wait", "step")
        out, self._actions = self.batch.step(self._actions), None
        result = out.result
        done = result["terminated"] | result["truncated"]
        infos: list[dict[str, Any]] = [{"elapsed": elapsed} for elapsed in result["elapsed"].tolist()]
        if done.any():
            self._add_ends(out, done, infos)
        # Where an episode is cut off SB3 adds the value of what follows: no charge stands for that.
        rewards = ((result["reward"] + result["charged"]) * self.reward_scale).astype(np.float32)
        return observation(out, copy=False), rewards, done, infos

    def _add_ends(self, out: Outputs, done: NDArray[np.bool_], infos: list[dict[str, Any]]) -> None:
        last = final_observation(out)
        for e in np.flatnonzero(done):
            infos[e]["terminal_observation"] = {key: array[e] for key, array in last.items()}
            infos[e]["TimeLimit.truncated"] = bool(out.result["truncated"][e])

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions are legal now, shape (num_envs, A)."""
        return self.batch.out.mask

    def close(self) -> None:
        """Ends the threads."""
        self._closed = True
        self.batch.close()
