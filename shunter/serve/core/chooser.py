"""Asks policies what a device is to do, and says why in words."""

from __future__ import annotations

import time

import numpy as np

from shunter.agents.base import Policy, choose
from shunter.agents.registry import make_policy
from shunter.envs.gym.scheduling import empty_observation
from shunter.envs.observation.features import feature
from shunter.envs.observation.observe import observe
from shunter.envs.rules.candidates import legal_action
from shunter.envs.rules.guard import forced_model
from shunter.envs.state.records import FAR_NS
from shunter.envs.state.state import State
from shunter.envs.state.tables import Tables
from shunter.envs.world.world import World
from shunter.serve.core.effects import Decision

FALLBACK = "cost-greedy"
"""Decides where another policy does not."""

_WISHED = {
    "preload": "it is to be there from the start",
    "pinned": "it is always to be there",
    "unload": "POST /unload asked for it",
    "reload": "the scenario was read again",
}

_REQUESTS, _OLDEST, _SWAP = feature("requests"), feature("oldest_age"), feature("swap_time")


class Chooser:
    """Asks policies about one state.

    Args:
        world: The compiled scenario.
        tables: The state's.
        state: What is decided about.

    Attributes:
        mask: Which choices were legal, of those that were looked at last; of a wish itself alone.
    """

    def __init__(self, world: World, tables: Tables, state: State) -> None:
        self._world, self._tables, self._state = world, tables, state
        self._fallback = make_policy(FALLBACK)
        self._observation = empty_observation(world.actions)
        self.mask = self._observation["action_mask"].view(np.bool_)
        self._causes: dict[int, str] = {}
        self._stamp: tuple[int, int, bytes] | None = None
        self._known: set[tuple[int, int, int | None]] = set()

    def choose(self, policy: Policy, shadow: Policy | None, device: int) -> Decision:
        """What a device is to do, by the policy."""
        begun_s = time.perf_counter()
        seen = self._observation
        observe(self._tables, self._state, device, seen["candidates"], seen["context"], self.mask)
        action, is_fallback = self._legal(policy, device)
        took_s = time.perf_counter() - begun_s
        other = None if shadow is None else self._legal(shadow, device)[0]
        return Decision(
            time_s=int(self._state.clock["now_ns"][0]) * 1e-9,
            device=self._world.scenario.devices[device].name,
            choice=self._named(device, action),
            why=self._why(action),
            took_ms=took_s * 1e3,
            action=action,
            cause=self._cause(device, action, fallback=is_fallback),
            shadow=None if other is None else self._named(device, other),
            shadow_action=other,
            fallback=is_fallback,
            repeats=self._repeats(device, action, other),
        )

    def wished(self, device: int, action: int, cause: str) -> Decision:
        """What a device is to do whatever its policy would say."""
        self.mask[:] = False
        self.mask[action] = True
        self._causes[device] = cause
        return Decision(
            time_s=int(self._state.clock["now_ns"][0]) * 1e-9,
            device=self._world.scenario.devices[device].name,
            choice=self._named(device, action),
            why=_WISHED[cause],
            took_ms=0.0,
            action=action,
            cause=cause,
        )

    def _cause(self, device: int, action: int, *, fallback: bool) -> str:
        """Why a device does it; who makes room for a load does so for the load's cause."""
        if self._state.device["pending_model"][device] < 0 or device not in self._causes:
            cause = "fallback" if fallback else "policy"
            if forced_model(self._tables, self._state, device) >= 0:
                cause = "guard"
            elif self._is_expiry(device, action):
                cause = "ttl"
            self._causes[device] = cause
        return self._causes[device]

    def _is_expiry(self, device: int, action: int) -> bool:
        """Whether nothing is legal but to evict a model that lay idle for its time."""
        model = action - self._world.models * self._world.levels[2]
        if not 0 <= model < self._world.models or self.mask.sum() != 1:
            return False
        ttl_ns = int(self._tables.model["ttl_ns"][model])
        idle_ns = int(self._state.clock["now_ns"][0]) - int(self._state.place["last_used_ns"][device, model])
        return ttl_ns != FAR_NS and idle_ns >= ttl_ns

    def _repeats(self, device: int, action: int, other: int | None) -> bool:
        """Whether a device has led to nothing by that already since a request, a load or an unload came."""
        clock, place = self._state.clock[0], self._state.place
        held = place["resident"].tobytes() + place["evicting"].tobytes()
        stamp = int(clock["arrived"]), int(clock["in_system"]), held
        if stamp != self._stamp:
            self._stamp = stamp
            self._known.clear()
        key = device, action, other
        is_known = key in self._known
        if action == self._world.actions - 1 or self._is_here(device, action):
            self._known.add(key)
        return is_known

    def _legal(self, policy: Policy, device: int) -> tuple[int, bool]:
        """What a policy chooses, made legal; what the fallback does, and True, where it fails."""
        wanted, is_fallback = self._wanted(policy, device)
        return int(legal_action(self._tables, self._state, device, wanted)), is_fallback

    def _wanted(self, policy: Policy, device: int) -> tuple[int, bool]:
        """What a policy chooses; what the fallback does, and True, where it fails."""
        try:
            return choose(policy, self._world, self._state, device, self._observation), False
        except Exception:  # a third party's policy may raise anything; requests must not suffer for it
            return int(self._fallback.act(self._observation)), True

    def _named(self, device: int, action: int) -> str:
        """A choice in words: to run a resident is to keep it here."""
        name = self._world.action_name(action)
        if action >= self._world.models * self._world.levels[2]:  # evictions, and to wait
            return name
        return f"{'keep' if self._is_here(device, action) else 'load'} {name}"

    def _is_here(self, device: int, action: int) -> bool:
        """Whether an action is to keep a resident."""
        model, level = divmod(action, self._world.levels[2])
        return model < self._world.models and bool(self._state.place["resident"][device, model] == level)

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
