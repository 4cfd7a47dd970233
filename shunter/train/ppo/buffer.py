"""Discounting per second: decisions last unequally long, and sb3's buffers know one scalar gamma."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback

Array = NDArray[np.float32]


def generalized_advantages(
    rewards: Array, values: Array, last_values: Array, continues: Array, discounts: Array, traces: Array
) -> Array:
    """Generalised advantage estimates of a semi-Markov process.

    A_t = sum over k of (product over j < k of d_j c_j l_j) delta_k, with
    delta_t = r_t + d_t c_t V_{t+1} - V_t, and d_t the discount and l_t the lambda over the real duration of
    step t.

    Args:
        rewards: (T, n) rewards of each step.
        values: (T, n) values of the states before each step.
        last_values: (n,) values after the last.
        continues: (T, n) 0 where the episode ended with the step, else 1.
        discounts: (T, n) discount of each step.
        traces: (T, n) lambda of each step.

    Returns:
        (T, n).

    Source:
        Schulman et al. 2016, https://arxiv.org/abs/1506.02438, with a discount and a lambda for each step.
    """
    advantages = np.zeros_like(rewards)
    following, following_values = np.zeros_like(last_values), last_values
    for t in reversed(range(len(rewards))):
        keep = discounts[t] * continues[t]
        following = rewards[t] + keep * following_values - values[t] + keep * traces[t] * following
        advantages[t] = following
        following_values = values[t]
    return advantages


class DurationBuffer(MaskableDictRolloutBuffer):
    """A rollout buffer whose discount and lambda of each step depend on how long the step lasted.

    ``discounts`` and ``traces`` (T, n) are filled by ``RecordDurations`` while a rollout is collected: until
    then they are 1 and the base class's ``gae_lambda``. Advantages are normalised for each world by itself,
    so that those of a heavy load do not drown those of a light one.

    Args:
        *args: Positional arguments of the base class.
        worlds: Number of worlds; environments are in order of worlds, equally many of each.
        **kwargs: Keyword arguments of the base class.
    """

    discounts: Array
    traces: Array

    def __init__(self, *args: Any, worlds: int = 1, **kwargs: Any) -> None:
        self.worlds = worlds
        super().__init__(*args, **kwargs)

    def reset(self) -> None:
        """Empties the buffer."""
        self.discounts = np.ones((self.buffer_size, self.n_envs), np.float32)
        self.traces = np.full_like(self.discounts, self.gae_lambda)
        super().reset()

    def compute_returns_and_advantage(self, last_values: torch.Tensor, dones: NDArray[Any]) -> None:
        """As the base class, with ``discounts`` in place of gamma."""
        ends = np.concatenate([self.episode_starts[1:], dones[None].astype(np.float32)])
        advantages = generalized_advantages(
            self.rewards,
            self.values,
            last_values.clone().cpu().numpy().flatten(),
            (1.0 - ends).astype(np.float32),
            self.discounts,
            self.traces,
        )
        self.returns = advantages + self.values
        of_world = advantages.reshape(self.buffer_size, self.worlds, -1)
        centred = of_world - of_world.mean(axis=(0, 2), keepdims=True)
        spread = of_world.std(axis=(0, 2), keepdims=True)
        self.advantages = (centred / (spread + 1e-8)).reshape(advantages.shape)


class RecordDurations(BaseCallback):
    """Writes each step's discount and lambda, which fall with its duration, into a ``DurationBuffer``.

    A lambda per decision alone would let credit reach as many decisions back whatever they are: over seconds
    where one device decides, over a fraction of one where eight do.

    Args:
        time_constant: Time scales of the scenario in which the discount falls to 1 / e.
        credit_constant: Time scales of the scenario in which lambda falls to 1 / e.
    """

    def __init__(self, time_constant: float, credit_constant: float) -> None:
        super().__init__()
        self.time_constant, self.credit_constant = time_constant, credit_constant

    def _on_step(self) -> bool:
        buffer = self.model.rollout_buffer
        elapsed = np.array([info["elapsed"] for info in self.locals["infos"]])
        buffer.discounts[buffer.pos] = np.exp(-elapsed / self.time_constant)
        buffer.traces[buffer.pos] = np.exp(-elapsed / self.credit_constant)
        for e, info in enumerate(self.locals["infos"]):
            if info.get("TimeLimit.truncated"):
                self._bootstrap(e, info, float(buffer.discounts[buffer.pos, e]))
        return True

    def _bootstrap(self, e: int, info: dict[str, Any], discount: float) -> None:
        """Adds the value of what follows an episode that was cut off; sb3 would not discount it."""
        policy = self.model.policy
        seen = policy.obs_to_tensor(info["terminal_observation"])[0]
        with torch.no_grad():
            self.locals["rewards"][e] += discount * float(policy.predict_values(seen)[0])
        info["TimeLimit.truncated"] = False
