"""The Gymnasium face of the simulated world."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from shunter.envs.candidates import legal_action
from shunter.envs.observation import CONTEXT_FEATURES, FEATURE_MAX, FEATURES, observe
from shunter.envs.simulation import advance, take
from shunter.envs.state import COUNTS, Requests, State, new_state
from shunter.envs.world import World, make_world

__all__ = ["Observation", "SchedulingEnv", "empty_observation"]

Observation = dict[str, NDArray[Any]]
"""``candidates`` (A, F) float32, ``context`` (G,) float32, ``action_mask`` (A,) int8."""


def empty_observation(actions: int) -> Observation:
    """An observation of the right shapes, all zero."""
    return {
        "candidates": np.zeros((actions, len(FEATURES)), np.float32),
        "context": np.zeros(len(CONTEXT_FEATURES), np.float32),
        "action_mask": np.zeros(actions, np.int8),
    }


class SchedulingEnv(gymnasium.Env[Observation, np.int64]):
    """Several LLMs on shared, unequal devices: which runs where, how much of it, and what makes room.

    ## Description
    A device that becomes free asks: run a quantum of a resident model, load a model at some gpu_layers,
    evict one, or wait. Durations come from a fitted ``PerformanceModel``. The rules are those of the real
    executor, which runs the same functions.

    ## Action Space
    ``Discrete(M * L + M + 1)`` for M models and L levels: action ``m * L + l`` runs model m if it is
    resident at level l and loads it otherwise, ``M * L + m`` evicts m, the last waits for the next event.
    A load that lacks room makes the device ask again, with only evictions legal, until it fits.

    **Illegal actions.** ``action_masks()`` and ``info["action_mask"]`` say what is legal. An illegal action
    (plain DQN, A2C) is not an error: it is executed as "wait", or as the legal action of lowest index where
    waiting is illegal, and counted in ``info["illegal_actions"]``. It costs nothing extra: a wasted wait is
    its own punishment.

    ## Observation Space
    ``Dict``: ``candidates`` (A, F) float32 with a row of ``shunter.envs.observation.FEATURES`` per action,
    ``context`` (G,) float32 of ``CONTEXT_FEATURES``, ``action_mask`` (A,) int8. All features are at least 0;
    times are in units of the scenario's time scale (mean load plus mean service time), bytes in shares of
    the device. Nothing in it reveals a request's decode length.

    ## Rewards
    Minus the request-seconds accrued since the last decision (requests in the system times real time), in
    time scales. The undiscounted return is minus the sum of all response times. Steps last unequally long:
    ``info["elapsed"]`` gives the duration in time scales, for discounting per second.

    ## Starting State
    Nothing resident, nothing queued; the first request is on its way. Requests are drawn anew at each reset.

    ## Episode End
    Terminated when all requests have been served; truncated at ``limits.max_time_s``.

    ## Arguments
    ``scenario``: path of a scenario file, or a ``Scenario``. ``performance``: path of a fitted performance
    model, or a ``PerformanceModel``. ``world``: both at once, compiled (``shunter.envs.world.World``).
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012 - Gymnasium declares it so

    def __init__(
        self,
        scenario: Any = None,
        performance: Any = None,
        *,
        world: World | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.world = world if world is not None else make_world(scenario, performance)
        self.render_mode = render_mode
        actions = self.world.actions
        self.action_space = spaces.Discrete(actions)
        self.observation_space: spaces.Space[Observation] = spaces.Dict(  # type: ignore[assignment]
            {
                "candidates": spaces.Box(0.0, FEATURE_MAX, (actions, len(FEATURES)), np.float32),
                "context": spaces.Box(0.0, FEATURE_MAX, (len(CONTEXT_FEATURES),), np.float32),
                "action_mask": spaces.MultiBinary(actions),
            }
        )
        self.state: State
        self.requests: Requests
        self.device = -1
        self._mask = np.zeros(actions, np.bool_)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: Seeds all episodes from here on.
            options: ``{"workload_seed": int}`` names the requests of this episode, for paired comparisons.
        """
        super().reset(seed=seed)
        workload_seed = (options or {}).get("workload_seed", self.np_random.integers(2**32))
        self.requests = self.world.draw(int(workload_seed))
        self.state = new_state(
            len(self.requests.arrival_ns), self.world.devices, self.world.models, self.world.max_batch
        )
        self.device = int(advance(self.state, self.requests))
        return self._observation(), self._info(0, 0)

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Carries out the asking device's action and advances to the next decision."""
        state = self.state
        cost_ns, now_ns = int(state.cost_ns[0]), int(state.now_ns[0])
        legal = legal_action(state, int(action), self._mask)
        self.device = int(take(self.world.tables, state, self.requests, self.device, legal))
        cost_ns, elapsed_ns = int(state.cost_ns[0]) - cost_ns, int(state.now_ns[0]) - now_ns
        terminated = self.device < 0
        truncated = not terminated and int(state.now_ns[0]) > self.world.max_time_ns
        reward = -cost_ns * 1e-9 / self.world.time_scale_s
        return self._observation(), reward, terminated, truncated, self._info(cost_ns, elapsed_ns)

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions are legal now, shape (A,), as sb3-contrib's MaskablePPO asks for it."""
        return self._mask.copy()

    def render(self) -> str | None:
        """One line per device: what is resident and what it does."""
        if self.render_mode != "ansi":
            return None
        return self.world.describe(self.state)

    def _observation(self) -> Observation:
        observation = empty_observation(self.world.actions)
        self._mask[:] = False
        if self.device < 0:
            self._mask[-1] = True
        else:
            observe(
                self.world.tables,
                self.state,
                self.requests,
                self.device,
                observation["candidates"],
                observation["context"],
                self._mask,
            )
        observation["action_mask"][:] = self._mask
        return observation

    def _info(self, cost_ns: int, elapsed_ns: int) -> dict[str, Any]:
        info: dict[str, Any] = {
            "device": self.device,
            "now_s": int(self.state.now_ns[0]) * 1e-9,
            "elapsed": elapsed_ns * 1e-9 / self.world.time_scale_s,
            "cost_request_s": cost_ns * 1e-9,
            "action_mask": self.action_masks(),
        }
        info.update(zip(COUNTS, self.state.counts.tolist(), strict=True))
        return info
