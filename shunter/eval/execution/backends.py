"""Backends: what carries operations out - predicted durations, or engines."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from shunter.envs.rules.candidates import used_bytes
from shunter.envs.rules.durations import fill_times
from shunter.envs.rules.dynamics import admit, complete, next_idle, wake_waiting
from shunter.envs.rules.expiry import next_expiry_ns
from shunter.envs.rules.faults import fail
from shunter.envs.sim.simulation import advance, predict
from shunter.envs.state.queues import finished, next_arrival_ns, overdue
from shunter.envs.state.records import FAR_NS
from shunter.envs.state.state import (
    EVICT,
    KV_LIVE,
    KV_SAVED,
    KV_SAVING,
    LOAD,
    RUN,
    WAIT,
    Records,
    Requests,
    State,
    in_use,
)
from shunter.envs.state.tables import Tables
from shunter.envs.world.world import World
from shunter.eval.execution.clocks import Clock
from shunter.eval.execution.device_executor import DeviceExecutor
from shunter.eval.execution.faults.failures import Failure, Fault
from shunter.eval.execution.follow import Expected, Follower, expected_of
from shunter.eval.execution.operations import Eviction, Join, Operation, Outcome
from shunter.eval.execution.slowdowns import Slowdowns

__all__ = ["SimulatedBackend"]


class OnEnd(Protocol):
    """Called when an operation's times are filled in."""

    def __call__(
        self, state: State, device: int, device_bytes: float, failure: Failure | None = None
    ) -> None:
        """Gets the state, the device, its memory in bytes, and how the operation failed if it did."""


class Backend(ABC):
    """Carries operations out and lets time pass; the loop above it is the same for all.

    Attributes:
        waited_s: Seconds of wall clock spent waiting for engines and arrivals.
    """

    waited_s: float = 0.0

    def __init__(self, world: World, requests: Requests, on_end: OnEnd) -> None:
        self.world = world
        self.requests = requests
        self.on_end = on_end

    def open(self, state: State) -> None:  # noqa: B027 - predictions need nothing
        """Brings about what is resident when the episode begins, before its clock starts."""

    @abstractmethod
    def start(self, state: State, device: int) -> None:
        """Begins the operation that was just applied to the device."""

    @abstractmethod
    def advance(self, state: State) -> int:
        """Lets time pass until a device asks; returns it, or -1 once every request is served."""

    def close(self, state: State) -> None:  # noqa: B027 - predictions hold nothing
        """Lets operations under way end, and frees residents and KV."""


def predicted(tables: Tables, state: State, device: int) -> Expected:
    """A device's new operation as the simulator predicts it; nothing of that stays in the state."""
    operation, entries = state.device[device].copy(), state.entry[device].copy()
    fill_times(tables, state, device)
    expected = expected_of(state, device, int(operation["op_batch"]))
    state.device[device], state.entry[device] = operation, entries
    return expected


class SimulatedBackend(Backend):
    """Durations from the world's tables.

    Args:
        world: The compiled scenario.
        requests: The episode's requests.
        on_end: See ``OnEnd``.
        slowdowns: How much longer operations take than the tables say; None: as they say.
        follower: Told of every operation when it has ended; None: nobody follows.
    """

    def __init__(
        self,
        world: World,
        requests: Requests,
        on_end: OnEnd,
        slowdowns: Slowdowns | None = None,
        follower: Follower | None = None,
    ) -> None:
        super().__init__(world, requests, on_end)
        self.slowdowns, self.follower = slowdowns, follower
        worlds = [world] if slowdowns is None else slowdowns.worlds(world)
        self._played = [one.tables for one in worlds]
        self._under_way: dict[int, tuple[Expected, int, int, float]] = {}

    def start(self, state: State, device: int) -> None:
        """Predicts the operation; its outcome is known at once."""
        start_ns = int(state.device["op_start_ns"][device])
        expected = None if self.follower is None else predicted(self.world.tables, state, device)
        predict(self._tables(start_ns), state, device)
        now = state.device[device]
        if expected is not None:
            end_ns = int(now["op_end_ns"])
            took_s = (end_ns - start_ns) * 1e-9
            self._under_way[device] = (expected, end_ns, int(now["op_steps"]), took_s)
        device_bytes = float(used_bytes(self.world.tables, state, device))
        if now["op_kind"] == LOAD:
            at = (device, int(now["op_model"]), int(now["op_level"]))
            device_bytes += float(self.world.tables.footprint_bytes[at])
        self.on_end(state, device, device_bytes)

    def advance(self, state: State) -> int:
        """Jumps from event to event."""
        device = int(advance(self._tables(int(state.clock["now_ns"][0])), state))
        if self.follower is not None:
            for d, (expected, end_ns, steps, took_s) in list(self._under_way.items()):
                if end_ns <= state.clock["now_ns"][0]:
                    del self._under_way[d]
                    expected.tell(self.follower, d, steps, took_s)
        return device

    def _tables(self, at_ns: int) -> Tables:
        return self._played[0 if self.slowdowns is None else self.slowdowns.at(at_ns * 1e-9)]


class EngineBackend(Backend):
    """Engines at device_executors, one per device, on a clock.

    Args:
        world: The compiled scenario; its models name checkpoints.
        requests: The episode's requests.
        on_end: See ``OnEnd``.
        device_executors: One per device.
        clock: ``WallClock`` for real engines.
        vocab_sizes: One per model; prompts are random tokens below it.
        seed: Seed of the prompts.
        follower: Follows the machine; None: ends are predicted as the world's tables say.
    """

    def __init__(
        self,
        world: World,
        requests: Requests,
        on_end: OnEnd,
        device_executors: Sequence[DeviceExecutor],
        clock: Clock,
        vocab_sizes: Sequence[int],
        seed: int,
        follower: Follower | None = None,
    ) -> None:
        super().__init__(world, requests, on_end)
        self.follower = follower
        self._expected: dict[int, Expected] = {}
        self.device_executors = device_executors
        self.clock = clock
        self.tokens = [
            np.random.Generator(np.random.Philox(key=[seed, i])).integers(0, vocab_sizes[m], n).tolist()
            for i, (m, n) in enumerate(zip(requests.model, requests.prompt_tokens, strict=True))
        ]
        self._names = [m.name for m in world.scenario.models]

    def open(self, state: State) -> None:
        """Loads what is resident from the start; the clock starts when all of it is there."""
        scenario = self.world.scenario
        for device, m in np.argwhere(state.place["resident"] >= 0):
            model, level = scenario.models[m], state.place["resident"][device, m]
            self.device_executors[device].load(
                model.name,
                str(model.checkpoint),
                self.world.gpu_layers[m][level],
                context_tokens=scenario.context_of(model),
                max_batch=scenario.batch_of(model),
            )
        self.clock.restart()

    def start(self, state: State, device: int) -> None:
        """Hands the operation to the device's device_executor; its predicted end is what others see of it."""
        operation = self._operation(state, device)
        device_executor, start_ns = self.device_executors[device], int(state.device["op_start_ns"][device])
        expected = predicted(self.world.tables, state, device)
        end_ns = expected.end_ns
        if self.follower is not None:
            self._expected[device] = expected
            end_ns = predicted(self.follower.tables, state, device).end_ns
        state.device["op_end_ns"][device] = end_ns
        predicted_s = (end_ns - start_ns) * 1e-9
        self.clock.start(device, start_ns, lambda: device_executor.run(operation, predicted_s))

    def advance(self, state: State) -> int:
        """Waits for completions, arrivals and the end of waits, in real or virtual time."""
        done: list[tuple[int, Outcome]] = []
        while True:
            for device, outcome in done:
                self._fill(state, device, outcome)
            arrived = admit(self.world.tables, state, max(self.clock.now_ns(), int(state.clock["now_ns"][0])))
            for device, outcome in done:
                self._end(state, device, outcome)
            waits = state.device[state.device["op_kind"] == WAIT]
            now_ns = state.clock["now_ns"][0]
            is_over = bool((waits["op_end_ns"] <= now_ns).any())
            # Like any event, an idle model's end comes when nobody is left to be asked.
            if next_idle(state) < 0 and next_expiry_ns(self.world.tables, state) <= now_ns:
                is_over = True
            if done or arrived or is_over:
                wake_waiting(state)
            done = []
            if overdue(state):
                continue
            if finished(state):
                return -1
            device = int(next_idle(state))
            if device >= 0:
                return device
            begun_s = time.perf_counter()
            done = self.clock.wait(self._next_event_ns(state))
            self.waited_s += time.perf_counter() - begun_s

    def close(self, state: State) -> None:
        """Leaves the engines empty for the next run."""
        while (state.device["op_kind"] >= RUN).any():
            for device, outcome in self.clock.wait(FAR_NS):
                self._fill(state, device, outcome)
                self._end(state, device, outcome)
        for device, device_executor in enumerate(self.device_executors):
            place = state.place[device]
            here = np.flatnonzero((place["resident"] >= 0) | (place["asleep"] >= 0))
            residents = [self._names[m] for m in here]
            saved = [(self._names[r["model"]], str(r["id"])) for r in self._held(state, device, KV_SAVED)]
            device_executor.clear(residents, saved)

    def _end(self, state: State, device: int, outcome: Outcome) -> None:
        """Commits an operation whose times are filled in, or what its failure makes of it."""
        device_bytes = float(outcome.memory.device_bytes)
        if outcome.fault is None:
            self.on_end(state, device, device_bytes)
            complete(state, device)
        else:
            self.on_end(state, device, device_bytes, self._fail(state, device, outcome.fault))

    def _fail(self, state: State, device: int, fault: Fault) -> Failure:
        operation, attempts = state.device[device].copy(), self.world.scenario.limits.attempts
        lost = np.array([name in fault.lost for name in self._names])
        before = state.outcome["attempts"].copy()
        fail(self.world.tables, state, device, lost, attempts)
        struck = np.flatnonzero(state.outcome["attempts"] > before)
        worn = state.outcome["attempts"][struck] >= attempts
        return Failure(
            time_s=int(state.clock["now_ns"][0]) * 1e-9,
            device=self.world.scenario.devices[device].name,
            operation={RUN: "run", LOAD: "load", EVICT: "evict"}[int(operation["op_kind"])],
            model=self._names[operation["op_model"]],
            fault=fault,
            requeued=tuple(struck[~worn].tolist()),
            failed=tuple(struck[worn].tolist()),
        )

    def _next_event_ns(self, state: State) -> int:
        waits = state.device["op_end_ns"][state.device["op_kind"] == WAIT]
        others = int(next_arrival_ns(state)), int(next_expiry_ns(self.world.tables, state))
        return min(int(waits.min()) if waits.size else FAR_NS, *others)

    def _operation(self, state: State, device: int) -> Operation:
        now = state.device[device]
        kind, model = int(now["op_kind"]), int(now["op_model"])
        scenario = self.world.scenario
        limits, asked = scenario.limits, scenario.models[model]
        load = None
        if kind == LOAD:
            load = (str(asked.checkpoint), self.world.gpu_layers[model][now["op_level"]])
        return Operation(
            model=self._names[model],
            evictions=self._evictions(state, device) if kind in (LOAD, EVICT) else (),
            load=load,
            joins=self._joins(state, device) if kind == RUN else (),
            max_steps=limits.quantum_steps,
            max_s=limits.quantum_s,
            context_tokens=scenario.context_of(asked),
            max_batch=scenario.batch_of(asked),
        )

    def _evictions(self, state: State, device: int) -> tuple[Eviction, ...]:
        evictions = []
        for m in np.flatnonzero(state.place["evicting"][device] >= 0):
            saving = self._held(state, device, KV_SAVING)
            saving = np.sort(saving[saving["model"] == m], order="id")
            sleep_level = self.world.scenario.limits.sleep if state.place["asleep"][device, m] >= 0 else 0
            evictions.append(Eviction(self._names[m], tuple(str(i) for i in saving["id"]), sleep_level))
        return tuple(evictions)

    def _held(self, state: State, device: int, kv: int) -> Records:
        """Requests in the system whose KV is on, or was saved from, a device, and is in this condition."""
        here = state.slot[in_use(state)]
        return np.asarray(here[(here["home"] == device) & (here["kv"] == kv)])

    def _joins(self, state: State, device: int) -> tuple[Join, ...]:
        joins = []
        for r in state.slot[state.entry["slot"][device, : state.device["op_batch"][device]]]:
            how = {KV_LIVE: "live", KV_SAVED: "restore"}.get(int(r["kv"]), "prefill")
            limit = int(r["decode_tokens"] - r["generated"])
            joins.append(Join(str(r["id"]), how, self.tokens[r["id"]] if how == "prefill" else [], limit))
        return tuple(joins)

    def _fill(self, state: State, device: int, outcome: Outcome) -> None:
        """Writes what the engine did where the simulator would have written its prediction."""
        now = state.device[device]
        now["op_start_ns"] = self.clock.to_ns(outcome.start_s)
        now["op_end_ns"] = self.clock.to_ns(outcome.end_s)
        now["op_steps"] = outcome.steps
        if outcome.fault is not None:
            return
        if self.follower is not None:
            measured_s = outcome.end_s - outcome.start_s
            self._expected[device].tell(self.follower, device, outcome.steps, measured_s)
        for entry in state.entry[device, : now["op_batch"]]:
            r = state.slot[entry["slot"]]
            i = int(r["id"])
            name = str(i)
            self.tokens[i] = self.tokens[i] + outcome.tokens[name]
            entry["tokens"] = len(outcome.tokens[name])
            if name in outcome.first_s and r["first_token_ns"] < 0:
                entry["first_ns"] = self.clock.to_ns(outcome.first_s[name])
            if name in outcome.finish_s:
                entry["finish_ns"] = self.clock.to_ns(outcome.finish_s[name])
