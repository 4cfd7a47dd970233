"""Asks policies what a device is to do, and says why in words."""

from __future__ import annotations

import time

import numpy as np

from shunter.agents.base import Policy, StatePolicy
from shunter.agents.registry import make_policy
from shunter.envs.gym.scheduling import empty_observation
from shunter.envs.observation.features import feature
from shunter.envs.observation.observe import observe
from shunter.envs.rules.candidates import legal_action
from shunter.envs.state.state import State
from shunter.envs.state.tables import Tables
from shunter.envs.world.world import World
from shunter.serve.core.effects import Decision

FALLBACK = "cost-greedy"
"""Decides where another policy does not."""

_REQUESTS, _OLDEST, _SWAP = feature("requests"), feature("oldest_age"), feature("swap_time")


class Chooser:
    """Asks policies about one state.

    Args:
        world: The compiled scenario.
        tables: The state's.
        state: What is decided about.

    Attributes:
        mask: Which choices were legal, of those that were looked at last.
    """

    def __init__(self, world: World, tables: Tables, state: State) -> None:
        self._world, self._tables, self._state = world, tables, state
        self._fallback = make_policy(FALLBACK)
        self._observation = empty_observation(world.actions)
        self.mask = self._observation["action_mask"].view(np.bool_)

    def choose(self, policy: Policy, shadow: Policy | None, device: int) -> tuple[Decision, int, float]:
        """What a device is to do: in words, as a legal action, and the seconds that the policy took."""
        begun_s = time.perf_counter()
        seen = self._observation
        observe(self._tables, self._state, device, seen["candidates"], seen["context"], self.mask)
        action, is_fallback = self._legal(policy, device)
        took_s = time.perf_counter() - begun_s
        decision = Decision(
            time_s=int(self._state.clock["now_ns"][0]) * 1e-9,
            device=self._world.scenario.devices[device].name,
            choice=self._named(device, action),
            why=self._why(action),
            took_ms=took_s * 1e3,
            shadow=None if shadow is None else self._named(device, self._legal(shadow, device)[0]),
            fallback=is_fallback,
        )
        return decision, action, took_s

    def _legal(self, policy: Policy, device: int) -> tuple[int, bool]:
        """What a policy chooses, made legal; what the fallback does, and True, where it fails."""
        wanted, is_fallback = self._wanted(policy, device)
        return int(legal_action(self._tables, self._state, device, wanted)), is_fallback

    def _wanted(self, policy: Policy, device: int) -> tuple[int, bool]:
        """What a policy chooses; what the fallback does, and True, where it fails."""
        try:
            if isinstance(policy, StatePolicy):
                return int(policy.act_on(self._world, self._state, device, self._observation)), False
            return int(policy.act(self._observation)), False
        except Exception:  # a third party's policy may raise anything; requests must not suffer for it
            return int(self._fallback.act(self._observation)), True

    def _named(self, device: int, action: int) -> str:
        """A choice in words: to run a resident is to keep it here."""
        name = self._world.action_name(action)
        model, level = divmod(action, self._world.levels[2])
        if model >= self._world.models:  # evictions, and to wait
            return name
        is_here = self._state.place["resident"][device, model] == level
        return f"{'keep' if is_here else 'load'} {name}"

    def _why(self, choice: int) -> str:
        """What a choice's features say, in words."""
        row, scale_s = self._observation["candidates"][choice], self._world.time_scale_s
        if choice == self._world.actions - 1:
            return "nothing that is worth it"
        words = [f"{row[_REQUESTS]:.2g} waiting or expected"]
        if row[_OLDEST] > 0:
            words.append(f"oldest for {row[_OLDEST] * scale_s:.1f} s")
        if row[_SWAP] > 0:
            words.append(f"ready in {row[_SWAP] * scale_s:.1f} s")
        return ", ".join(words)
