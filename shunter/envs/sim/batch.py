"""A batch of simulated environments: their states, the rings that feed them, and where steps write."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from hashlib import sha256
from itertools import count
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shunter.envs.sim.compiled import bound
from shunter.envs.sim.kernel import Outputs, begin_batch, make_outputs, nothing_finished, step_batch
from shunter.envs.sim.simulation import STALLED
from shunter.envs.sim.supply import Supply
from shunter.envs.state.records import FAR_NS
from shunter.envs.state.state import State, empty_state, grow_slots
from shunter.envs.world.world import World
from shunter.errors import InputError

__all__ = ["Batch", "Noise"]

Noise = bool | Literal["drift"]
"""Whether durations differ from the predicted ones, and how; see ``Batch``."""

SLOTS, RING = 32, 512
"""Sizes to begin with; nothing depends on them but memory and speed."""

CHUNKS = 2
"""In how many parts a step is cut for each thread: more share work better but cost a call each."""


class BatchState(NamedTuple):
    """All that changes in a batch, in arrays of its own: from ``Batch.get_state``, for ``Batch.set_state``.

    Attributes:
        of: What the batch is of: digest of its world, number of environments, and how they are simulated.
        state: States with a leading axis over environments.
        buffers: What the last two steps wrote.
        turn: Which of the two is the last step's.
        supplies: Where drawing requests stands, for each environment.
    """

    of: tuple[Any, ...]
    state: State
    buffers: tuple[Outputs, ...]
    turn: int
    supplies: tuple[Supply | None, ...]


class Batch:
    """Environments of one world that are stepped together.

    Args:
        world: The compiled scenario.
        environments: Number of environments.
        autoreset: Whether an episode's end starts the next at once.
        oracle: Whether observations tell true remaining lengths instead of expected ones.
        noise: Whether durations differ from the predicted ones by luck drawn for each episode and model;
            ``drift``: devices are slower for stretches of time besides.
        threads: Number of threads that share the work; results are the same for any number.
        cut_off_s: When an episode is cut off, if the scenario does not do so earlier.
        max_decisions: Decisions after which an episode is cut off; None: none but the scenario's limit.

    Attributes:
        state: States with a leading axis over environments.
        length: Requests of an episode.
        out: What the last step or reset wrote; overwritten by the one after the next.
    """

    def __init__(
        self,
        world: World,
        environments: int,
        *,
        autoreset: bool,
        oracle: bool = False,
        noise: Noise = False,
        threads: int = 1,
        cut_off_s: float = math.inf,
        max_decisions: int | None = None,
    ) -> None:
        max_time_ns = min(int(world.tables.max_time_ns[0]), round(min(cut_off_s, FAR_NS * 1e-9) * 1e9))
        self.tables = world.tables.changed(oracle=int(oracle), max_time_ns=max_time_ns)
        self.world = world
        self.autoreset, self.noise, self.threads = autoreset, bool(noise), threads
        self.environments = environments
        self.state: State = empty_state(
            (environments,),
            world.levels,
            world.entries,
            slots=SLOTS,
            ring=RING,
            outcomes=0,
            done=world.devices * world.entries,
            first_sends_ns=world.scenario.workload.first_sends_ns(),
        )
        self.length = world.scenario.workload.requests
        self.state.clock["length"] = self.length
        self.state.clock["most"] = self._most = max_decisions or 0
        self.state.clock["drift"] = self._drift = int(noise == "drift")
        # Between two decisions every device ends one operation at most.
        sizes = (environments, world.actions, world.devices * world.entries)
        self._buffers: tuple[Outputs, ...] = (make_outputs(*sizes), make_outputs(*sizes))
        self.out = self._buffers[0]
        self._supplies: list[Supply | None] = [None] * environments
        self._no_actions = np.zeros(environments, np.int64)
        self._prepare()

    def _prepare(self) -> None:
        """Makes what goes into no file: the compiled step, and threads."""
        arguments = (self.tables, self.state, self._no_actions, self.out)
        self._step_batch = bound(step_batch, *arguments, False, self.autoreset, self.noise, 0, 0)
        self._pool = ThreadPoolExecutor(self.threads - 1) if self.threads > 1 else None

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_step_batch", "_pool")}

    def __setstate__(self, found: dict[str, Any]) -> None:
        self.__dict__.update(found)
        # Compiled code takes arrays that lie in memory as ours do: what was unpickled may be read-only.
        turn = self._turn
        self.state = self.state.copy()
        self._buffers = _copied(self._buffers)
        self.out = self._buffers[turn]
        self._prepare()

    @property
    def _turn(self) -> int:
        return int(self.out is self._buffers[1])

    @cached_property
    def _of(self) -> tuple[Any, ...]:
        """What its states are of."""
        digest = sha256(self.world.content()).hexdigest()
        limits = int(self.tables.oracle[0]), int(self.tables.max_time_ns[0]), self._most
        return digest, self.environments, self.autoreset, self.noise, self._drift, *limits

    def get_state(self) -> BatchState:
        """All that changes, copied; simulation from it is the same, bit for bit."""
        supplies = tuple(None if one is None else one.at_present() for one in self._supplies)
        return BatchState(self._of, self.state.copy(), _copied(self._buffers), self._turn, supplies)

    def set_state(self, state: BatchState) -> None:
        """Goes on from where ``get_state`` was called, of this batch or of one like it.

        Args:
            state: From ``get_state``; it is not changed and may be used again.

        Raises:
            InputError: It is none, or one of another world, another number of environments, or simulated
                otherwise.
        """
        if not isinstance(state, BatchState) or state.of != self._of:
            got = state.of if isinstance(state, BatchState) else type(state).__name__
            raise InputError(
                "state", "be from get_state of an environment of the same world, made alike", got
            )
        if any(a.shape != b.shape for a, b in zip(self.state, state.state, strict=True)):
            self.state = state.state.copy()
        else:
            _copy_into(self.state, state.state)
        for mine, theirs in zip(self._buffers, state.buffers, strict=True):
            _copy_into(mine, theirs)
        self.out = self._buffers[state.turn]
        self._supplies = [None if one is None else one.at_present() for one in state.supplies]

    def reset(
        self,
        keys: Sequence[int | None],
        workload_seed: int | None = None,
        *,
        episode: int = 0,
        chosen: NDArray[np.bool_] | None = None,
    ) -> Outputs:
        """Starts the next episode.

        Args:
            keys: One per environment: a new key of its random numbers, or None: go on with the old one.
            workload_seed: Seed of the requests of this episode, in place of what the key gives.
            episode: Number of the first episode of a new key.
            chosen: (E,) in which environments; None: in all. What was written of the others stays.
        """
        clock = self.state.clock[:, 0]
        if chosen is None:
            chosen = np.ones(self.environments, np.bool_)
        for e, key in enumerate(keys):
            if not chosen[e]:
                continue
            if key is not None:
                clock["key"][e], clock["episode"][e] = key, episode - 1
            if key is not None or workload_seed is not None:
                following = int(clock["episode"][e]) + 1
                self._supplies[e] = Supply(self.world, int(clock["key"][e]), following, workload_seed)
                clock["filled"][e] = clock["last"][e]
        begin_batch(self.tables, self.state, chosen, self.noise)
        for name in ("reward", "elapsed", "request_s", "terminated", "truncated", "served", "response_ns"):
            self.out.result[name][chosen] = 0
        self.out.finished[chosen] = nothing_finished(self.out.finished.shape[1:])
        self.go_on()
        return self.out

    def step(self, actions: NDArray[np.int64]) -> Outputs:
        """Carries out one action in each environment; every environment must have been reset.

        Args:
            actions: (E,) int64, contiguous.

        Returns:
            Arrays that the step after the next overwrites.
        """
        self.out = self._buffers[0] if self.out is self._buffers[1] else self._buffers[1]
        if self._run(actions, again=False):
            self.go_on()
        return self.out

    def close(self) -> None:
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def go_on(self) -> None:
        """Gives environments that stalled what they lack, until none does."""
        while True:
            clock = self.state.clock[:, 0]
            stalled = np.flatnonzero(clock["asking"] == STALLED)
            if stalled.size == 0:
                return
            for e in stalled[clock["filled"][stalled] <= clock["taken"][stalled]]:
                supply = self._supplies[e]
                if supply is not None:
                    supply.fill(self.state, int(e))
            if (clock["free"][stalled] < 0).any():
                self.state = grow_slots(self.state)
            self._run(self._no_actions, again=True)

    def _run(self, actions: NDArray[np.int64], *, again: bool) -> int:
        if self._pool is None or again:
            return self._part(actions, again, 0, self.environments)
        return self._shared(self._pool, lambda first, end: self._part(actions, again, first, end))

    def _part(self, actions: NDArray[np.int64], again: bool, first: int, end: int) -> int:
        return self._step_batch(
            self.tables, self.state, actions, self.out, again, self.autoreset, self.noise, first, end
        )

    def _shared(self, pool: ThreadPoolExecutor, part: Callable[[int, int], int]) -> int:
        """Threads take chunks until none is left: a busy one takes fewer."""
        size = -(-self.environments // (CHUNKS * self.threads))
        starts = count(0, size)

        def work() -> int:
            stalled = 0
            while (first := next(starts)) < self.environments:
                stalled += part(first, min(first + size, self.environments))
            return stalled

        others = [pool.submit(work) for _ in range(self.threads - 1)]
        mine = work()
        # Whoever has not even begun by now is not waited for: nothing is left.
        return mine + sum(other.result() for other in others if not other.cancel())


def _copied(buffers: Sequence[Outputs]) -> tuple[Outputs, ...]:
    return tuple(Outputs._make(array.copy() for array in buffer) for buffer in buffers)


def _copy_into(mine: tuple[NDArray[Any], ...], theirs: tuple[NDArray[Any], ...]) -> None:
    for target, source in zip(mine, theirs, strict=True):
        target[...] = source
