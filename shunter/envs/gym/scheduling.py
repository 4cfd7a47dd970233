"""The Gymnasium face of simulation."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from shunter.envs.gym.checks import (
    check_action,
    check_begun,
    check_cut_off,
    check_flag,
    check_noise,
    check_seed,
    check_world,
)
from shunter.envs.gym.info import single_info
from shunter.envs.gym.options import WORKLOAD_SEED, checked_options
from shunter.envs.gym.rendering import describe
from shunter.envs.gym.snapshots import Restorable
from shunter.envs.observation.features import (
    CONTEXT_FEATURES,
    CONTEXT_TABLE,
    FEATURE_TABLE,
    FEATURES,
    feature_bounds,
)
from shunter.envs.sim.batch import Batch, Noise
from shunter.envs.sim.kernel import Outputs
from shunter.envs.sim.supply import environment_key
from shunter.envs.world.world import World

__all__ = ["Observation", "SchedulingEnv", "empty_observation", "make_spaces"]

Observation = dict[str, NDArray[Any]]
"""``candidates`` (A, F) float32, ``context`` (G,) float32, ``action_mask`` (A,) int8."""


def empty_observation(actions: int) -> Observation:
    """An observation of the right shapes, all zero."""
    return {
        "candidates": np.zeros((actions, len(FEATURES)), np.float32),
        "context": np.zeros(len(CONTEXT_FEATURES), np.float32),
        "action_mask": np.zeros(actions, np.int8),
    }


def make_spaces(actions: int) -> tuple[spaces.Dict, spaces.Discrete]:
    """Spaces of the observations and actions of one environment with so many candidates."""
    high = np.tile(feature_bounds(FEATURE_TABLE), (actions, 1))
    observation = spaces.Dict(
        {
            "candidates": spaces.Box(np.zeros_like(high), high),
            "context": spaces.Box(np.float32(0.0), feature_bounds(CONTEXT_TABLE)),
            "action_mask": spaces.MultiBinary(actions),
        }
    )
    return observation, spaces.Discrete(actions)


def new_key(rng: np.random.Generator) -> int:
    """A key for whoever gave no seed."""
    return int(rng.integers(2**63))


class SchedulingEnv(Restorable, gymnasium.Env[Observation, np.int64]):
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
    (plain DQN, A2C) is not an error, as long as it is one of the A: it is executed as "wait", or as the legal
    action of lowest index where waiting is illegal, and counted in ``info["illegal_actions"]``. It costs
    nothing extra: a wasted wait is its own punishment.

    **Asleep.** Where ``limits.sleep`` has evicted models sleep, evicting a sleeper ends it. At the layers
    that it sleeps with, ``swap_time`` is what waking takes, and ``cached`` is 1 at level 1. ``preempt_time``
    of a resident is falling asleep and waking. The row that ends a sleeper has ``resident_here`` 0, as
    ``footprint`` what it keeps, and as ``preempt_time`` unloading and what a load from nothing takes longer.
    Sleepers cannot be ended for a load for which a resident must go in any case.

    ## Observation Space
    ``Dict``: ``candidates`` (A, F) float32 with a row per action, ``context`` (G,) float32, ``action_mask``
    (A,) int8. All features are at least 0; times are in units of the scenario's time scale (mean load plus
    mean service time), bytes in shares of the device. Nothing in it reveals a request's decode length, unless
    ``oracle`` is set: then the expected remaining lengths behind ``first_time`` and ``batch_time`` are the
    true ones.

    Features of a candidate, version 4 (``shunter.envs.observation.features.FEATURES_VERSION``):

    | # | name | unit | at most | meaning |
    |---|---|---|---|---|
    | 0 | is_run | flag | 1 | runs a quantum of a resident model |
    | 1 | is_load | flag | 1 | loads a model, or changes its level |
    | 2 | is_evict | flag | 1 | unloads a resident, or sends it to sleep; ends a sleeper |
    | 3 | is_wait | flag | 1 | waits for the next event |
    | 4 | gpu_share | share | 1 | of the model's layers on the device at this level |
    | 5 | requests | count | 1e6 | that this device could run now |
    | 6 | batch | count | 1e6 | of these, as many as fit a batch |
    | 7 | started | count | 1e6 | of these, with generated tokens |
    | 8 | oldest_age | scales | 1e6 | since the oldest of them arrived |
    | 9 | swap_time | scales | 1e6 | predicted load, and unload when changing level; 0 if resident |
    | 10 | join_time | scales | 1e6 | predicted restores, prefills and recomputes of the batch |
    | 11 | step_time | scales | 1e6 | predicted decode step of the batch |
    | 12 | first_time | scales | 1e6 | predicted decode time until the first of the batch is done |
    | 13 | batch_time | scales | 1e6 | predicted decode time of its mean remaining length |
    | 14 | step_halfwidth | relative | 1e6 | half width of the 90 % interval of step_time |
    | 15 | footprint | device | 1e6 | bytes at this level |
    | 16 | shortage | device | 1e6 | bytes that others must give up first |
    | 17 | resident_here | flag | 1 | resident on this device at any level |
    | 18 | resident_elsewhere | share | 1 | largest gpu_share at which another device holds the model |
    | 19 | running_elsewhere | flag | 1 | another device runs or loads the model now |
    | 20 | unused_time | scales | 1e6 | since its last use on this device |
    | 21 | preempt_time | scales | 1e6 | predicted cost of evicting it and bringing it back |
    | 22 | offload_sensitivity | relative | 1e6 | how much slower a step is with most layers on the host |
    | 23 | arrivals | 1/scales | 1e6 | estimated arrival rate |
    | 24 | turned_to_last | flag | 1 | the device ran or loaded this model last |
    | 25 | cached | flag | 1 | the host's memory holds the weights: a load need not read the disk |
    | 26 | held | count | 1e6 | of requests, those whose KV is on this device: no other can run them |
    | 27 | elsewhere | flag | 1 | another device holds the model at any level, or loads it now |
    | 28 | startup_elsewhere | scales | 1e6 | predicted time until another device could run it |
    | 29 | serve_elsewhere | scales | 1e6 | and decoded a request of mean remaining length alone |
    | 30 | top_level | flag | 1 | the highest level that fits this device |
    | 31 | queue_time | scales | 1e6 | predicted time to serve all requests, a batch after the other |
    | 32 | load_halfwidth | relative | 1e6 | half width of the 90 % interval of a load |
    | 33 | slo_used | share | 1e6 | of the TTFT limit, that the oldest without a token waited; 0 without SLO |
    | 34 | guard_used | share | 1e6 | of the guard, that its longest waiting request waits; 0 without guard |

    Features of the context:

    | # | name | unit | at most | meaning |
    |---|---|---|---|---|
    | 0 | pending | flag | 1 | room must be made for a load |
    | 1 | in_system | count | 1e6 | requests in the system |
    | 2 | claimable | count | 1e6 | requests that this device could run now |
    | 3 | free | device | 1 | free bytes |
    | 4 | others_busy | share | 1 | of the other devices that run or load |
    | 5 | next_completion | scales | 1e6 | predicted time until one of them is done |
    | 6 | pending_shortage | device | 1e6 | bytes that must still be given up for the pending load |
    | 7 | oldest_age | scales | 1e6 | largest of all candidates |

    ## Rewards
    Minus what the scenario's objective accrued since the last decision, over the real time that passed:

    - ``mean-response``: requests in the system times seconds, in time scales; summed over an episode, all
      response times.
    - ``slowdown``: every request in the system at the rate of one over its response alone on the best device,
      loaded and idle; summed, all slowdowns.
    - ``slo``: 1 for each request that misses the SLO, when that is certain; at an episode's cut-off, for each
      that is still there. A running quantum counts when it ends.
    - ``money`` and ``energy``: dollars or joules of the devices, busy and idle, and the stated price of every
      second that a request spends in the system.

    Who finishes within a quantum is counted until it ends, and then what was too much is given back: where
    several devices run, a single reward may lie above 0. Steps last unequally long: ``info["elapsed"]`` gives
    the duration in time scales, for discounting per second, and ``info["cost_request_s"]`` the
    request-seconds, whatever the objective.

    ## Starting State
    Nothing resident, nothing queued; the first request is on its way, or in a closed loop each user's first.
    Requests are drawn anew at each reset.

    ## Episode End
    Terminated when all requests have been served; truncated at ``cut_off_s``, by default at ten times what an
    episode should take (``World.late_s``), or at ``limits.max_time_s`` if that is earlier: whoever only waits
    comes to an end. There the value of what follows is to be bootstrapped; under an SLO objective the last
    reward has charged for who is still there, which stands for it.

    ## Arguments
    ``scenario``: path of a scenario file, or a ``Scenario``. ``performance``: path of a fitted performance
    model, or a ``PerformanceModel``. ``world``: both at once, compiled (``shunter.envs.world.world.World``).
    ``oracle``: see above. ``noise``: durations differ from the predicted ones, lognormally with the widths of
    the performance model's intervals, by luck drawn once for each episode and model; the features stay
    nominal; ``"drift"``: besides, each device is for half of the time slower than that, by up to 2.5 times,
    for stretches of 50 time scales. For training (domain randomisation), not for evaluation. ``cut_off_s``:
    see above; ``math.inf``: only the scenario's limit counts.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012 - Gymnasium declares it so

    _changing = ("_np_random", "_np_random_seed", "_keyed", "_going", "_last", "device")

    def __init__(
        self,
        scenario: Any = None,
        performance: Any = None,
        *,
        world: World | None = None,
        oracle: bool = False,
        noise: Noise = False,
        cut_off_s: float | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.world = check_world(world, scenario, performance)
        oracle, noise = check_flag("oracle", oracle), check_noise(noise)
        self.render_mode = render_mode
        observation, action = make_spaces(self.world.actions)
        self.observation_space: spaces.Space[Observation] = observation  # type: ignore[assignment]
        self.action_space = action
        late_s = check_cut_off(cut_off_s, self.world.late_s)
        self.batch = Batch(self.world, 1, autoreset=False, oracle=oracle, noise=noise, cut_off_s=late_s)
        self.device = -1
        self._action = np.zeros(1, np.int64)
        self._keyed = self._going = False
        self._last: tuple[int, int] | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: Seeds all episodes from here on.
            options: ``{"workload_seed": int}`` names the requests of this episode, for paired comparisons.

        Raises:
            InputError: The seed, or the workload's, is no integer of at least 0.
            UnknownNameError: There is an option of another name.
        """
        workload_seed = checked_options(options).get(WORKLOAD_SEED)
        seed = None if seed is None else check_seed(seed)
        super().reset(seed=seed)
        self._last = None
        key = None
        if seed is not None or not self._keyed:
            key = environment_key(seed, 0) if seed is not None else new_key(self.np_random)
            self._keyed = True
        out = self.batch.reset([key], workload_seed)
        clock = self.batch.state.clock[0, 0]
        self.device, self._going = int(clock["asking"]), True
        result = (0.0, 0.0, 0.0, False, False, self.device, int(clock["now_ns"]), 0, 0, 0.0, 0, 0.0, 0, 0)
        return self._told(out, result)

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Carries out the asking device's action and advances to the next decision.

        Raises:
            gymnasium.error.ResetNeeded: It was never reset, or the episode has ended: reset first.
            InputError: The action is no candidate's index.
        """
        return self.carry_out(check_action(action, self.world.actions))

    def carry_out(self, action: int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """As ``step``, for an action that was checked; beyond the candidates is illegal."""
        if not self._going:
            check_begun(self._going)
        self._last = (self.device, action)
        self._action[0] = action
        out = self.batch.step(self._action)
        result: Any = out.result.item()
        reward, _, _, terminated, truncated, self.device, *_ = result
        self._going = not (terminated or truncated)
        seen, info = self._told(out, result)
        return seen, reward, terminated, truncated, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions are legal now, shape (A,), as sb3-contrib's MaskablePPO asks for it."""
        mask: NDArray[np.bool_] = self.batch.out.mask[0].copy()
        return mask

    def render(self) -> str | None:
        """The clock, the last decision, devices with residents and levels, and queues."""
        if self.render_mode != "ansi":
            return None
        return describe(self.world, self.batch.state.of(0), self._last)

    def close(self) -> None:
        """Frees what the environment holds."""
        self.batch.close()

    def _told(self, out: Outputs, result: tuple[Any, ...]) -> tuple[Observation, dict[str, Any]]:
        mask = out.mask[0].copy().view(np.int8)
        return self._observation(out, mask), single_info(self.batch, result, mask)

    def _observation(self, out: Outputs, mask: NDArray[np.int8]) -> Observation:
        return {
            "candidates": out.candidates[0].copy(),
            "context": out.context[0].copy(),
            "action_mask": mask,
        }
