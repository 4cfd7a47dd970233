"""Several scenarios as one environment: each episode is one of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from shunter.envs.gym.checks import check_action, check_seed, check_world
from shunter.envs.gym.options import WORKLOAD_SEED, checked_options
from shunter.envs.gym.scheduling import Observation, SchedulingEnv, empty_observation, make_spaces
from shunter.envs.gym.snapshots import EnvState
from shunter.envs.sim.batch import Noise
from shunter.envs.world.world import World, make_world
from shunter.errors import InputError, UnknownNameError

SCENARIO = "scenario"
_CHANGING = ("_np_random", "_np_random_seed")


@dataclass(frozen=True)
class MultiState:
    """All that changes in a ``MultiSchedulingEnv``; it can be pickled, and used as often as one likes.

    Attributes:
        scenario: Name of what is played.
        env: State of its environment: the others begin anew when they are drawn.
        own: Random numbers that draw scenarios and seeds, by attribute.
    """

    scenario: str
    env: EnvState
    own: dict[str, Any]


def _list(field: str, given: Any) -> list[Any]:
    found = list(given) if isinstance(given, list | tuple | np.ndarray) else []
    if not found:
        raise InputError(field, "be a list of at least one", given)
    return found


class MultiSchedulingEnv(gymnasium.Env[Observation, np.int64]):
    """Several ``SchedulingEnv``: every reset draws which scenario is played, or is told.

    Observations have as many candidates as the scenario with most; those that another lacks come last, are
    all 0 and never legal. ``info["scenario"]`` is the name of what is played, all else as in
    ``SchedulingEnv``.

    Args:
        scenarios: Paths, names of the library, or ``Scenario``.
        performance: Path of a fitted performance model, or a ``PerformanceModel``, for all.
        worlds: Compiled scenarios in place of both.
        oracle: See ``SchedulingEnv``.
        noise: See ``SchedulingEnv``.
        cut_off_s: See ``SchedulingEnv``.
        render_mode: ``ansi`` or None.
    """

    metadata: dict[str, Any] = SchedulingEnv.metadata

    def __init__(
        self,
        scenarios: Sequence[Any] = (),
        performance: Any = None,
        *,
        worlds: Sequence[World] | None = None,
        oracle: bool = False,
        noise: Noise = False,
        cut_off_s: float | None = None,
        render_mode: str | None = None,
    ) -> None:
        if worlds is None:
            worlds = [
                make_world(one, performance, field="scenarios") for one in _list("scenarios", scenarios)
            ]
        elif len(scenarios) or performance is not None:
            raise InputError("worlds", "be given alone, without scenarios and performance", len(worlds))
        worlds = [check_world(world, None, None) for world in _list("worlds", worlds)]
        self.envs = [
            SchedulingEnv(
                world=world, oracle=oracle, noise=noise, cut_off_s=cut_off_s, render_mode=render_mode
            )
            for world in worlds
        ]
        self.names = [world.scenario.name for world in worlds]
        if len(set(self.names)) < len(self.names):
            raise InputError("scenarios", "have names of their own", self.names)
        self.render_mode = render_mode
        self.actions = max(world.actions for world in worlds)
        observation, action = make_spaces(self.actions)
        self.observation_space: Any = observation
        self.action_space = action
        self.env = self.envs[0]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: Seeds which scenarios are drawn and all episodes from here on.
            options: ``{"scenario": name}`` says which is played, ``{"workload_seed": int}`` on which
                requests.

        Raises:
            InputError: An option has no such value.
            UnknownNameError: There is no such scenario, or an option of another name.
        """
        asked = dict(checked_options(options, (WORKLOAD_SEED, SCENARIO)))
        name = asked.pop(SCENARIO, None)
        if name is not None and not (isinstance(name, str) and name in self.names):
            raise UnknownNameError("options['scenario']", str(name), self.names)
        super().reset(seed=None if seed is None else check_seed(seed))
        drawn = int(self.np_random.integers(len(self.envs)))
        self.env = self.envs[drawn if name is None else self.names.index(name)]
        seen, info = self.env.reset(seed=int(self.np_random.integers(2**31)), options=asked)
        return self._padded(seen), self._named(info)

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Carries out the asking device's action; a candidate that the scenario lacks is illegal.

        Raises:
            gymnasium.error.ResetNeeded: The episode has ended: reset first.
            InputError: The action is no candidate's index.
        """
        seen, reward, terminated, truncated, info = self.env.carry_out(check_action(action, self.actions))
        return self._padded(seen), reward, terminated, truncated, self._named(info)

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions are legal now, shape (A,)."""
        return self._padded_mask(self.env.action_masks())

    def render(self) -> str | None:
        """The clock, the last decision, devices with residents and levels, and queues."""
        return self.env.render()

    def close(self) -> None:
        """Frees what the environments hold."""
        for env in self.envs:
            env.close()

    def get_state(self) -> MultiState:
        """All that changes, copied: see ``SchedulingEnv.get_state``."""
        own = {name: copy.deepcopy(getattr(self, name)) for name in _CHANGING}
        return MultiState(self.env.world.scenario.name, self.env.get_state(), own)

    def set_state(self, state: MultiState) -> None:
        """Goes on from where ``get_state`` was called; what follows is the same, bit for bit.

        Raises:
            InputError: It is no state of an environment of this class with the scenario that was played.
        """
        if not isinstance(state, MultiState) or state.scenario not in self.names:
            got = state.scenario if isinstance(state, MultiState) else type(state).__name__
            raise InputError("state", "be from get_state of an environment of the same scenarios", got)
        env = self.envs[self.names.index(state.scenario)]
        env.set_state(state.env)
        self.env = env
        for name, value in state.own.items():
            setattr(self, name, copy.deepcopy(value))

    def _padded(self, seen: Observation) -> Observation:
        padded = empty_observation(self.actions)
        for key, array in seen.items():
            padded[key][: len(array)] = array
        return padded

    def _padded_mask(self, mask: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([mask, np.zeros(self.actions - len(mask), mask.dtype)])

    def _named(self, info: dict[str, Any]) -> dict[str, Any]:
        mask = self._padded_mask(info["action_mask"])
        return {**info, "action_mask": mask, SCENARIO: self.env.world.scenario.name}
