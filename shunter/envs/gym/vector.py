"""The vectorised Gymnasium face: all environments in one compiled call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from shunter.envs.gym.checks import (
    check_actions,
    check_begun,
    check_count,
    check_cut_off,
    check_seed,
    check_seeds,
)
from shunter.envs.gym.scheduling import Observation, make_spaces, new_key
from shunter.envs.gym.snapshots import Restorable
from shunter.envs.sim.batch import Batch
from shunter.envs.sim.kernel import Outputs
from shunter.envs.sim.supply import environment_key
from shunter.envs.world.world import World, make_world

__all__ = ["final_observation", "observation"]

Bools = NDArray[np.bool_]


class SchedulingVectorEnv(Restorable, VectorEnv[Observation, NDArray[np.int64], NDArray[Any]]):
    """Many ``SchedulingEnv`` at once; see there for actions, observations and rewards.

    Environment e of a batch seeded with s has random numbers of its own, a function of s and e alone: they do
    not depend on the number of environments or of threads. With a list of seeds, environment e is what
    ``SchedulingEnv`` seeded with the e-th is.

    An episode that ends starts the next in the same step (``AutoresetMode.SAME_STEP``): the observation is
    the new episode's first, and ``info["final_obs"]`` the old one's last.

    Args:
        num_envs: Number of environments.
        scenario: Path of a scenario file, or a ``Scenario``.
        performance: Path of a fitted performance model, or a ``PerformanceModel``.
        world: Scenario and performance model at once, compiled.
        oracle: Whether observations tell true remaining lengths instead of expected ones.
        noise: Whether durations differ from the predicted ones, by luck drawn for each episode and model.
        threads: Number of threads that share the work.
        cut_off_s: When an episode is cut off, see ``SchedulingEnv``.
        copy: Whether to return copies. Without, arrays are overwritten by the step after the next.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 - Gymnasium declares it so

    _changing = ("_np_random", "_np_random_seed", "_keyed")

    def __init__(
        self,
        num_envs: int = 1,
        scenario: Any = None,
        performance: Any = None,
        *,
        world: World | None = None,
        oracle: bool = False,
        noise: bool = False,
        threads: int = 1,
        cut_off_s: float | None = None,
        copy: bool = True,
    ) -> None:
        num_envs, threads = check_count("num_envs", num_envs), check_count("threads", threads)
        self.world = world if world is not None else make_world(scenario, performance)
        self.num_envs = num_envs
        self.copy = copy
        self.single_observation_space, self.single_action_space = make_spaces(self.world.actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.batch = Batch(
            self.world,
            num_envs,
            autoreset=True,
            oracle=oracle,
            noise=noise,
            threads=threads,
            cut_off_s=check_cut_off(cut_off_s, self.world.late_s),
        )
        self._keyed = False
        self._shape = (num_envs,)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts an episode in every environment.

        Args:
            seed: Seed of all environments, or one for each; None: the old random numbers go on.
            options: ``{"workload_seed": int}`` names the requests of this episode, the same in all.

        Raises:
            gymnasium.error.ClosedEnvironmentError: It was closed.
            InputError: A seed is no integer of at least 0, or they are not one for each environment.
        """
        check_begun(True, self.closed)
        is_one = seed is None or np.ndim(seed) == 0  # type: ignore[arg-type]
        whole = check_seed(seed) if is_one and seed is not None else None
        each = None if is_one else check_seeds(seed, self.num_envs)  # type: ignore[arg-type]
        super().reset(seed=whole)
        keys: list[int | None] = [None] * self.num_envs
        if each is not None:
            keys = [new_key(self.np_random) if one is None else environment_key(one, 0) for one in each]
        elif whole is not None or not self._keyed:
            base = whole if whole is not None else new_key(self.np_random)
            keys = [environment_key(base, e) for e in range(self.num_envs)]
        self._keyed = True
        out = self.batch.reset(keys, (options or {}).get("workload_seed"))
        return observation(out, self.copy), {}

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[Observation, NDArray[Any], Bools, Bools, dict[str, Any]]:
        """Carries out one action in every environment.

        Raises:
            gymnasium.error.ResetNeeded: It was never reset.
            gymnasium.error.ClosedEnvironmentError: It was closed.
            InputError: The actions are not one candidate's index for each environment.
        """
        check_begun(self._keyed, self.closed)
        out = self.batch.step(check_actions(actions, self._shape, self.world.actions))
        result = out.result
        info: dict[str, Any] = {"elapsed": result["elapsed"].copy()}
        terminated, truncated = result["terminated"].copy(), result["truncated"].copy()
        over = terminated | truncated
        if over.any():
            info["final_obs"] = final_observation(out)
            info["_final_obs"] = over
            info["final_info"] = {name: result[name].copy() for name in ("served", "response_ns", "now_ns")}
            info["_final_info"] = over
        return observation(out, self.copy), result["reward"].copy(), terminated, truncated, info

    def action_masks(self) -> Bools:
        """Which actions are legal now, shape (num_envs, A)."""
        mask = self.batch.out.mask
        return mask.copy() if self.copy else mask

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the threads."""
        self.batch.close()


def observation(out: Outputs, copy: bool) -> Observation:
    """A batch's observations; without copying the very arrays that the kernel writes."""
    arrays: Observation = {
        "candidates": out.candidates,
        "context": out.context,
        "action_mask": out.mask.view(np.int8),
    }
    return {key: array.copy() for key, array in arrays.items()} if copy else arrays


def final_observation(out: Outputs) -> Observation:
    """The observations that ended episodes, with rows for all environments; copied."""
    return {
        "candidates": out.final_candidates.copy(),
        "context": out.final_context.copy(),
        "action_mask": out.final_mask.view(np.int8).copy(),
    }
