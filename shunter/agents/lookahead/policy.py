"""Look-ahead: tries the promising candidates on copies of the state, in the same drawn futures.

Source:
    Rollout as one step of policy iteration: Bertsekas, Tsitsiklis and Wu 1997, "Rollout algorithms for
    combinatorial optimization", Journal of Heuristics 3. Common random numbers and the rule to leave the
    base policy only where the paired difference is clear: Glasserman and Yao 1992, Management Science 38.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shunter.agents.lookahead.futures import estimate_rates, keep_future
from shunter.agents.lookahead.kernel import choose_candidates, rollout_costs
from shunter.agents.lookahead.rollout_state import RolloutScratch, compact, make_scratch
from shunter.envs.observation.features import CONTEXT_FEATURES, FEATURES, context_feature
from shunter.envs.sim.randomness import key_of
from shunter.envs.state.state import State
from shunter.envs.workload.lengths import pairs_by_model, stacked_pairs
from shunter.envs.world.world import World
from shunter.errors import InputError

PENDING = context_feature("pending")


@dataclass(frozen=True)
class LookaheadSettings:
    """How far and how often to look.

    Attributes:
        horizon: How long requests go on to arrive in a drawn future, in the scenario's time scales. What is
            then in the system is served to the end: that is the terminal value.
        samples: Number of drawn futures.
        candidates: Most candidates to try, the base policy's own choice and waiting included.
        confidence: The base policy's choice is left only for one whose paired mean difference lies below
            zero by so many standard errors.
        race: Whether candidates that on average cost more than the base policy's are given up early: faster,
            but their costs are then known less well.
        seed: Seed of the drawn futures.
    """

    horizon: float = 1.0
    samples: int = 32
    candidates: int = 5
    confidence: float = 3.0
    race: bool = True
    seed: int = 0


class Tried(NamedTuple):
    """What came of looking ahead from one state.

    Attributes:
        actions: (K,) candidates that were tried; the base policy's choice comes first.
        costs: (samples, K) request-seconds from now on; a row is one future. NaN where a candidate had been
            given up.
    """

    actions: NDArray[np.int64]
    costs: NDArray[np.float64]

    def best(self, confidence: float) -> int:
        """The candidate to take: see ``LookaheadSettings.confidence``."""
        mean, error = self._excess()
        mean[~np.isfinite(self.costs[-1])] = np.inf
        mean[0] = 0.0
        return int(self.actions[(mean + confidence * error).argmin()])

    def scores(self, actions: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean costs of all candidates and standard errors of their differences from the base choice's.

        Args:
            actions: Number of candidates, A.

        Returns:
            Two of shape (A,), request-seconds; NaN for candidates that were not tried.
        """
        mean, error = np.full(actions, np.nan), np.full(actions, np.nan)
        excess, errors = self._excess()
        mean[self.actions] = np.nanmean(self.costs[:, 0]) + excess
        error[self.actions] = errors
        return mean, error

    def _excess(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean paired differences from the base choice's cost and their standard errors, (K,)."""
        excess = self.costs - self.costs[:, :1]
        played = np.isfinite(excess)
        count = np.maximum(1, played.sum(axis=0))
        mean = np.where(played, excess, 0.0).sum(axis=0) / count
        squares = np.where(played, (excess - mean) ** 2, 0.0).sum(axis=0)
        return mean, np.sqrt(squares / np.maximum(1, count - 1) / count)


class CandidateSearch:
    """Memory and data for looking ahead in one world; for one thread.

    Args:
        world: The compiled scenario.
        settings: How far and how often.
        oracle: Whether futures are the true ones instead of drawn ones.
    """

    def __init__(self, world: World, settings: LookaheadSettings, *, oracle: bool = False) -> None:
        self.world, self.settings, self.oracle = world, settings, oracle
        self.tables = world.tables.changed(oracle=int(oracle))
        scenario = world.scenario
        self.pairs = stacked_pairs(pairs_by_model(scenario.workload, scenario.limits, scenario.models))
        self.lengths = np.sort(self.pairs[..., 1])
        self.horizon_s = settings.horizon * world.time_scale_s
        self._actions = np.zeros(settings.candidates, np.int64)
        self._alive = np.zeros(settings.candidates, np.bool_)
        self._rates = np.zeros(world.models)
        self._candidates = np.zeros((world.actions, len(FEATURES)), np.float32)
        self._context = np.zeros(len(CONTEXT_FEATURES), np.float32)
        self._mask = np.zeros(world.actions, np.bool_)
        self._place_of = np.zeros(0, np.int64)
        self._make_room(32, 32)

    def try_all(
        self, state: State, device: int, candidates: NDArray[Any], context: NDArray[Any], mask: NDArray[Any]
    ) -> Tried:
        """Tries the promising candidates of the asking device.

        Args:
            state: Read only; its hidden lengths, arrivals and durations are not read unless for an oracle.
            device: The asking device.
            candidates: (A, F) candidates that the device sees.
            context: (G,) context that the device sees.
            mask: (A,) bool or int8.
        """
        legal = mask.view(np.bool_)
        count = choose_candidates(candidates, legal, bool(context[PENDING] > 0), self._actions)
        samples = 1 if self.oracle else self.settings.samples
        costs = np.full((samples, self.settings.candidates), np.nan)
        if count > 1:
            self._roll(state, device, count, costs)
        else:
            costs[:, 0] = 0.0
        return Tried(self._actions[:count].copy(), costs[:, :count])

    def _roll(self, state: State, device: int, count: int, costs: NDArray[np.float64]) -> None:
        clock = state.clock[0]
        total = estimate_rates(state, self._rates)
        expected = self._expected(state, total)
        self._make_room(int(clock["in_system"]) + expected, expected)
        if len(self._place_of) < len(state.slot):
            self._place_of = np.zeros(len(state.slot), np.int64)
        root, work = self._root, self._work
        compact(state, root.state, self._place_of)
        if self.oracle:
            keep_future(state, root.state, self.horizon_s)
        key = key_of(self.settings.seed, int(clock["now_ns"]))
        rollout_costs(
            self.tables,
            root.state,
            root.words,
            work.state,
            work.words,
            device,
            self._actions,
            count,
            self._rates,
            total,
            self.lengths,
            self.pairs,
            self.horizon_s,
            not self.oracle,
            self.settings.race,
            key,
            self._candidates,
            self._context,
            self._mask,
            self._alive,
            costs,
        )

    def _expected(self, state: State, total_rate: float) -> int:
        """More arrivals than this are not to be expected within the horizon."""
        if self.oracle:
            return int(state.clock["last"][0] - state.clock["taken"][0])
        mean = total_rate * self.horizon_s
        return int(mean + 6.0 * math.sqrt(mean) + 8)

    def _make_room(self, slots: int, ring: int) -> None:
        have = getattr(self, "_root", None)
        if have is not None and len(have.state.slot) >= slots and len(have.state.ring) >= ring:
            return
        levels, max_batch = self.world.levels, self.world.entries
        self._root: RolloutScratch = make_scratch(levels, max_batch, slots=2 * slots, ring=2 * ring)
        self._work: RolloutScratch = make_scratch(levels, max_batch, slots=2 * slots, ring=2 * ring)


class Lookahead:
    """Takes the candidate whose mean cost over drawn futures is least, cost-greedy deciding afterwards.

    Args:
        settings: How far and how often; None: the defaults.
        oracle: Whether it sees the true futures: a bound for what looking ahead can do.
        changes: Settings to change, by name.
    """

    def __init__(
        self, settings: LookaheadSettings | None = None, *, oracle: bool = False, **changes: Any
    ) -> None:
        self.settings = replace(settings or LookaheadSettings(), **changes)
        self.oracle = oracle
        self.name = "lookahead-oracle" if oracle else "lookahead"
        self._search: CandidateSearch | None = None

    def act_on(self, world: World, state: State, device: int, observation: dict[str, NDArray[Any]]) -> int:
        """Chooses for the asking device; the state is only read."""
        return self.try_on(world, state, device, observation).best(self.settings.confidence)

    def try_on(self, world: World, state: State, device: int, observation: dict[str, NDArray[Any]]) -> Tried:
        """What ``act_on`` bases its choice on."""
        if self._search is None or self._search.world is not world:
            self._search = CandidateSearch(world, self.settings, oracle=self.oracle)
        seen = (observation["candidates"], observation["context"], observation["action_mask"])
        return self._search.try_all(state, device, *seen)

    def act(self, observation: dict[str, NDArray[Any]]) -> int:
        """Refused: looking ahead needs the state.

        Raises:
            InputError: Always.
        """
        raise InputError("--policy", "decide from observations alone here", self.name)

    def act_batch(self, observations: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
        """Refused: looking ahead needs the state.

        Raises:
            InputError: Always.
        """
        raise InputError("--policy", "decide from observations alone here", self.name)
