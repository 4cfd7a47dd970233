"""The vectorised Gymnasium face: all environments in one compiled call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from shunter.envs.gym.checks import (
    check_actions,
    check_begun,
    check_count,
    check_cut_off,
    check_flag,
    check_noise,
    check_seed,
    check_seeds,
    check_world,
    integer,
)
from shunter.envs.gym.info import batch_info, final_info
from shunter.envs.gym.options import RESET_MASK, WORKLOAD_SEED, checked_options, reset_mask
from shunter.envs.gym.rendering import describe
from shunter.envs.gym.scheduling import Observation, SchedulingEnv, make_spaces, new_key
from shunter.envs.gym.snapshots import Restorable
from shunter.envs.sim.batch import Batch, Noise
from shunter.envs.sim.kernel import Outputs
from shunter.envs.sim.supply import environment_key
from shunter.envs.world.world import World
from shunter.errors import InputError, UnknownNameError

__all__ = ["SchedulingVectorEnv", "final_observation", "observation"]

Bools = NDArray[np.bool_]


class SchedulingVectorEnv(Restorable, VectorEnv[Observation, NDArray[np.int64], NDArray[Any]]):
    """Many ``SchedulingEnv`` at once; see there for actions, observations and rewards.

    Environment e of a batch seeded with s has random numbers of its own, a function of s and e alone: they do
    not depend on the number of environments or of threads. With a list of seeds, environment e is what
    ``SchedulingEnv`` seeded with the e-th is.

    An episode that ends starts the next in the same step (``AutoresetMode.SAME_STEP``): the observation is
    the new episode's first, ``info["final_obs"]`` and ``info["final_info"]`` are the old one's last. With
    ``NEXT_STEP`` the next step resets it, whatever the action, and gives 0; with ``DISABLED`` it must be
    reset with ``options={"reset_mask": …}`` before the next step. ``info`` has the keys of ``SchedulingEnv``,
    each an array over the environments, and a mask for each.

    Args:
        num_envs: Number of environments.
        scenario: Path of a scenario file, or a ``Scenario``.
        performance: Path of a fitted performance model, or a ``PerformanceModel``.
        world: Scenario and performance model at once, compiled.
        oracle: Whether observations tell true remaining lengths instead of expected ones.
        noise: Whether durations differ from the predicted ones, by luck drawn for each episode and model;
            ``drift``: devices are slower for stretches of time besides.
        threads: Number of threads that share the work.
        cut_off_s: When an episode is cut off, see ``SchedulingEnv``.
        copy: Whether to return copies. Without, arrays are overwritten by the step after the next.
        autoreset_mode: An ``AutoresetMode``, or its value.
        max_episode_steps: Decisions after which an episode is truncated; None or -1: the scenario's limit
            alone.
        render_mode: ``ansi``: ``render()`` gives a text for each environment.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - Gymnasium declares it so
        **SchedulingEnv.metadata,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    _changing = ("_np_random", "_np_random_seed", "_keyed", "_begun")

    def __init__(
        self,
        num_envs: int = 1,
        scenario: Any = None,
        performance: Any = None,
        *,
        world: World | None = None,
        oracle: bool = False,
        noise: Noise = False,
        threads: int = 1,
        cut_off_s: float | None = None,
        copy: bool = True,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        num_envs, threads = check_count("num_envs", num_envs), check_count("threads", threads)
        self.world = check_world(world, scenario, performance)
        oracle, noise = check_flag("oracle", oracle), check_noise(noise)
        self.num_envs = num_envs
        self.copy = check_flag("copy", copy)
        self.single_observation_space, self.single_action_space = make_spaces(self.world.actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.render_mode = render_mode
        self.autoreset_mode = _mode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.batch = Batch(
            self.world,
            num_envs,
            autoreset=self.autoreset_mode is AutoresetMode.SAME_STEP,
            oracle=oracle,
            noise=noise,
            threads=threads,
            cut_off_s=check_cut_off(cut_off_s, self.world.late_s),
            max_decisions=_most(max_episode_steps),
        )
        self._keyed: Bools = np.zeros(num_envs, np.bool_)
        self._begun = False
        self._shape = (num_envs,)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts an episode in every environment, or in some.

        Args:
            seed: Seed of all environments, or one for each; None: the old random numbers go on.
            options: ``{"workload_seed": int}`` names the requests of this episode, the same in all;
                ``{"reset_mask": array of bool}`` says in which environments.

        Raises:
            gymnasium.error.ClosedEnvironmentError: It was closed.
            InputError: A seed is no integer of at least 0, they are not one for each environment, or an
                option has no such value.
            UnknownNameError: There is an option of another name.
        """
        check_begun(True, self.closed)
        options = dict(checked_options(options, (WORKLOAD_SEED, RESET_MASK)))
        chosen = reset_mask(options, self.num_envs)
        is_one = isinstance(seed, str) or not getattr(seed, "ndim", isinstance(seed, Sequence))
        whole = check_seed(seed) if is_one and seed is not None else None
        each = None if is_one else check_seeds(seed, self.num_envs)  # type: ignore[arg-type]
        super().reset(seed=whole)
        keys: list[int | None] = [None] * self.num_envs
        if each is not None:
            keys = [new_key(self.np_random) if one is None else environment_key(one, 0) for one in each]
        elif whole is not None:
            keys = [environment_key(whole, e) for e in range(self.num_envs)]
        elif not self._begun:
            base = new_key(self.np_random)
            keys = [None if self._keyed[e] else environment_key(base, e) for e in range(self.num_envs)]
        self._keyed |= True if chosen is None else chosen
        self._begun = bool(self._keyed.all())
        out = self.batch.reset(keys, options.get(WORKLOAD_SEED), chosen=chosen)
        return self._told(out)

    def _told(self, out: Outputs) -> tuple[Observation, dict[str, Any]]:
        seen = observation(out, self.copy)
        return seen, batch_info(self.batch, seen["action_mask"])

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[Observation, NDArray[Any], Bools, Bools, dict[str, Any]]:
        """Carries out one action in every environment.

        Raises:
            gymnasium.error.ResetNeeded: It was never reset or not all of it, or an episode has ended and
                nothing but ``reset`` starts the next.
            gymnasium.error.ClosedEnvironmentError: It was closed.
            InputError: The actions are not one candidate's index for each environment.
        """
        check_begun(self._begun or bool(self._keyed.any()), self.closed)
        if not self._begun:
            raise _needed(~self._keyed)
        chosen = check_actions(actions, self._shape, self.world.actions)
        ended = self._ended()
        out = self.batch.step(chosen)
        if ended is not None:
            self.batch.reset([None] * self.num_envs, chosen=ended)
        result = out.result
        seen, info = self._told(out)
        terminated, truncated = result["terminated"].copy(), result["truncated"].copy()
        over = terminated | truncated
        if self.autoreset_mode is AutoresetMode.SAME_STEP and over.any():
            info["final_obs"], info["final_info"] = self._final(out), final_info(self.batch, over)
            info["_final_obs"] = info["_final_info"] = over
        return seen, result["reward"].copy(), terminated, truncated, info

    def _ended(self) -> Bools | None:
        """Which episodes are over before a step that is to reset them; None: none.

        Raises:
            gymnasium.error.ResetNeeded: There are some, and steps do not reset them.
        """
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            return None
        ended: Bools = self.batch.state.clock["asking"][:, 0] < 0
        if not ended.any():
            return None
        if self.autoreset_mode is AutoresetMode.DISABLED:
            raise _needed(ended)
        return ended

    def _final(self, out: Outputs) -> Observation:
        return final_observation(out)

    def render(self) -> tuple[str, ...] | None:
        """For each environment the clock, devices with residents and levels, and queues."""
        if self.render_mode != "ansi":
            return None
        return tuple(describe(self.world, self.batch.state.of(e)) for e in range(self.num_envs))

    def action_masks(self) -> Bools:
        """Which actions are legal now, shape (num_envs, A)."""
        mask = self.batch.out.mask
        return mask.copy() if self.copy else mask

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the threads."""
        self.batch.close()


def _needed(environments: Bools) -> gymnasium.error.ResetNeeded:
    which = ", ".join(map(str, np.flatnonzero(environments)))
    return gymnasium.error.ResetNeeded(
        f"no episode is under way in environments {which}: reset them (options['reset_mask'])"
    )


def _mode(given: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(given)
    except ValueError:
        known = [mode.value for mode in AutoresetMode]
        raise UnknownNameError("autoreset_mode", str(given), known) from None


def _most(max_episode_steps: int | None) -> int | None:
    if max_episode_steps is None or max_episode_steps == -1:
        return None
    most = integer(max_episode_steps)
    if most is None or not 1 <= most < 2**63:
        raise InputError(
            "max_episode_steps", "be an integer of at least 1, or -1 for none", max_episode_steps
        )
    return most


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
