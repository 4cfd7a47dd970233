"""The rule of the guard once more, slowly and from the requests: what the compiled one must say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.agents.base import Policy
from shunter.envs.rules.candidates import is_legal
from shunter.envs.rules.guard import forced_model
from shunter.envs.state.records import FAR_NS
from shunter.envs.state.state import LOAD, RUN, Records, State, in_use
from shunter.envs.world.world import World


@dataclass
class Watched:
    """A policy whose every decision is checked against the rule.

    Attributes:
        inner: Decides.
        promised: For each device what it was promoted to, and when.
        forced: How many decisions the guard made.
        begun: How many promotions there were.
    """

    inner: Policy
    promised: dict[int, tuple[int, int]] = field(default_factory=dict)
    forced: int = 0
    begun: int = 0

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def oracle(self) -> bool:
        return self.inner.oracle

    def act(self, observation: dict[str, NDArray[Any]]) -> int:
        raise NotImplementedError

    def act_batch(self, observations: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
        raise NotImplementedError

    def act_on(self, world: World, state: State, device: int, observation: dict[str, NDArray[Any]]) -> int:
        """Checks what is legal, then lets the policy choose."""
        check_progress(state)
        mask = observation["action_mask"].astype(bool)
        forced = self._forced(world, state, device)
        assert forced_model(world.tables, state, device) == forced
        assert [is_legal(world.tables, state, device, a) for a in range(len(mask))] == mask.tolist()
        if forced >= 0:
            assert mask.tolist() == only(world, state, device, forced).tolist()
        else:
            pending = state.device["pending_model"][device] >= 0
            assert mask[-1] != pending
        self.forced += forced >= 0
        action = self.inner.act(observation)
        assert mask[action]
        return action

    def _forced(self, world: World, state: State, device: int) -> int:
        if state.device["pending_model"][device] >= 0:
            return -1
        if device in self.promised:
            model, since_ns = self.promised[device]
            here = claimable(state, device)
            if ((here["model"] == model) & (here["arrival_ns"] <= since_ns)).any():
                return model
            del self.promised[device]
        model = self._overdue(world, state, device)
        if model >= 0:
            self.promised[device] = model, int(state.clock["now_ns"][0])
            self.begun += 1
        return model

    def _overdue(self, world: World, state: State, device: int) -> int:
        guard_ns, now_ns = int(world.tables.guard_ns[0]), int(state.clock["now_ns"][0])
        if guard_ns == FAR_NS:
            return -1
        busy = {m for d, (m, _) in self.promised.items() if d != device}
        for d, other in enumerate(state.device):
            if d != device:
                busy |= {int(other["op_model"])} if other["op_kind"] in (RUN, LOAD) else set()
                busy |= {int(other["pending_model"])}
        here = claimable(state, device)
        waited_ns = now_ns - here["progress_ns"]
        is_free = ~np.isin(here["model"], list(busy)) | (here["home"] == device) | (waited_ns > 2 * guard_ns)
        fits = world.tables.level_ok[device].any(axis=-1)[here["model"]]
        left = here[(waited_ns > guard_ns) & is_free & fits]
        first = np.lexsort((left["id"], left["progress_ns"]))
        return int(left["model"][first[0]]) if len(left) else -1


def claimable(state: State, device: int) -> Records:
    """The requests that a device could run now."""
    here = state.slot[in_use(state)]
    return here[(here["owner"] < 0) & np.isin(here["home"], [-1, device])]


def check_progress(state: State) -> None:
    """Who has no token waits since arrival, who has some since a later time."""
    here = state.slot[in_use(state)]
    fresh = here["generated"] == 0
    assert (here["progress_ns"][fresh] == here["arrival_ns"][fresh]).all()
    assert (here["progress_ns"] <= state.clock["now_ns"][0]).all()
    begun = here[~fresh & (here["owner"] < 0)]
    assert (begun["progress_ns"] >= begun["first_token_ns"]).all()


def only(world: World, state: State, device: int, model: int) -> NDArray[np.bool_]:
    """The mask where a device must serve a model."""
    mask = np.zeros(world.actions, np.bool_)
    levels, resident = world.levels[2], int(state.place["resident"][device, model])
    for level in range(levels):
        fits = bool(world.tables.level_ok[device, model, level])
        mask[model * levels + level] = fits and resident in (-1, level)
    return mask
