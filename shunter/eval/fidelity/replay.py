"""Replay of a recorded run: with its own durations, and with predicted ones.

The first reproduces every event, which shows that the log holds all that happened. The second keeps the
decisions and changes only the durations, so that what it gets wrong is the performance model's error; what
the free simulation gets wrong beyond that comes from deciding differently.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shunter.agents.base import Policy
from shunter.agents.registry import make_policy
from shunter.envs.observation.features import context_feature, feature
from shunter.envs.rules.dynamics import admit, complete, next_idle, wake_waiting
from shunter.envs.rules.faults import fail
from shunter.envs.state.queues import finished, overdue
from shunter.envs.state.state import IDLE, RUN, WAIT, Requests, State
from shunter.envs.world.world import World
from shunter.errors import InputError
from shunter.eval.execution.backends import Backend, OnEnd, SimulatedBackend
from shunter.eval.execution.failures import Failure, Fault
from shunter.eval.execution.runs import Run, run_policy

__all__ = ["replay_predicted"]


@dataclass(frozen=True)
class Replayed:
    """A run with the decisions of another.

    Attributes:
        run: The run that came of those decisions.
        infeasible: Logged decisions that were passed over.
        missing: Decisions asked for after a device's log had ended; cost-greedy took them.
    """

    run: Run
    infeasible: int
    missing: int


def replay_exactly(world: World, requests: Requests, rows: pd.DataFrame) -> Run:
    """Runs logged decisions with logged durations.

    Args:
        world: That of the logged run, with the same guard; with it off all is the same but the masks, since
            a guard only takes choices away.
        requests: Requests of the logged run.
        rows: Its event log, one run's.

    Returns:
        The run; every event time is that of the log.

    Raises:
        InputError: The log does not fit the world: another device asked, or a decision was not legal.
    """
    return _run(world, requests, rows, _Script(rows), lambda end: _LogBackend(world, requests, end, rows))


def replay_predicted(world: World, requests: Requests, rows: pd.DataFrame) -> Replayed:
    """Runs each device's logged decisions with predicted durations.

    The guard is off: its say is in the decisions already, and at other times it would force others.

    Args:
        world: That of the logged run, with any performance model.
        requests: Requests of the logged run.
        rows: Its event log, one run's.
    """
    world = world.with_guard(None)
    script = _LooseScript(world, rows[rows["fault"].isna()])  # predictions never fail
    run = _run(world, requests, rows, script, lambda end: _PredictingBackend(world, requests, end, script))
    return Replayed(run, script.infeasible, script.missing)


def _run(
    world: World,
    requests: Requests,
    rows: pd.DataFrame,
    script: Policy,
    make_backend: Callable[[OnEnd], Backend],
) -> Run:
    seed = int(rows["seed"].iloc[0])
    return run_policy(world, requests, script, seed=seed, make_backend=make_backend, mode="replayed")


class _Script:
    """A policy that takes logged decisions in turn; the backend says which device asks."""

    oracle = False

    def __init__(self, rows: pd.DataFrame) -> None:
        self.name = str(rows["policy"].iloc[0])
        self._choices = deque(rows["choice"].tolist())

    def act(self, observation: dict[str, NDArray[Any]]) -> int:
        """The next logged choice."""
        choice = int(self._choices.popleft())
        if not observation["action_mask"][choice]:
            raise InputError("event log", "hold legal decisions only", f"choice {choice}")
        return choice

    def act_batch(self, observations: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
        """A log belongs to one episode."""
        raise NotImplementedError


@dataclass(frozen=True)
class _Step:
    """A logged decision, and the requests it was for: those of the device's next quantum of that model."""

    choice: int
    requests: tuple[int, ...]


class _LooseScript:
    """Takes each device's logged decisions in turn, as far as they still make sense.

    A decision waits until one of its requests is there. It is passed over as infeasible if they were all
    served meanwhile, or if it is illegal while the device has work and nothing else goes on. After a device's
    last logged decision, cost-greedy decides.
    """

    oracle = False

    def __init__(self, world: World, rows: pd.DataFrame) -> None:
        self.name = str(rows["policy"].iloc[0])
        self.infeasible = self.missing = 0
        self.device = -1
        self.state: State | None = None
        self._wait = world.actions - 1
        self._rest = make_policy("cost-greedy")
        self._steps = [deque(_steps(rows[rows["device"] == d.name])) for d in world.scenario.devices]

    def act(self, observation: dict[str, NDArray[Any]]) -> int:
        """The asking device's next logged choice that makes sense, or a wait for it."""
        mask, steps = observation["action_mask"], self._steps[self.device]
        claimable, others_busy = (observation["context"][context_feature(n)] for n in _CONTEXT)
        is_stuck = claimable > 0 and others_busy == 0 and not self._others_ask()
        while steps:
            step = steps[0]
            if step.choice == self._wait and not is_stuck and mask[self._wait]:
                return steps.popleft().choice
            if self._is_ready(step, observation):
                return steps.popleft().choice
            if mask[self._wait] and not is_stuck and self._is_wanted(step):
                return self._wait
            steps.popleft()
            self.infeasible += step.choice != self._wait
        self.missing += 1
        return self._rest.act(observation)

    def act_batch(self, observations: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
        """A log belongs to one episode."""
        raise NotImplementedError

    def _is_ready(self, step: _Step, observation: dict[str, NDArray[Any]]) -> bool:
        if step.choice == self._wait or not observation["action_mask"][step.choice]:
            return False
        has_work = observation["candidates"][step.choice, feature("requests")] > 0
        return bool(has_work or not step.requests)

    def _others_ask(self) -> bool:
        """Whether another device is asked next, before time goes on."""
        return self.state is not None and bool((self.state.device["op_kind"] == IDLE).sum() > 1)

    def _is_wanted(self, step: _Step) -> bool:
        if self.state is None or not step.requests:
            return False
        return bool((self.state.outcome["finish_ns"][list(step.requests)] < 0).any())


_CONTEXT = ("claimable", "others_busy")


def _steps(rows: pd.DataFrame) -> list[_Step]:
    """One device's decisions, each with the requests of the next quantum of its model."""
    steps: list[_Step] = []
    coming: dict[str, tuple[int, ...]] = {}
    for row in reversed(rows.to_dict("records")):
        model = str(row["choice_name"]).partition("@")[0]
        if row["operation"] == "run":
            coming[model] = tuple(row["request_ids"])
        steps.append(_Step(int(row["choice"]), coming.get(model, ())))
    return steps[::-1]


class _PredictingBackend(SimulatedBackend):
    """Predicted durations; tells the script which device asks."""

    def __init__(self, world: World, requests: Requests, on_end: OnEnd, script: _LooseScript) -> None:
        super().__init__(world, requests, on_end)
        self._script = script

    def advance(self, state: State) -> int:
        """As in simulation."""
        self._script.state, self._script.device = state, super().advance(state)
        return self._script.device


class _LogBackend(Backend):
    """Logged durations, and decisions at the logged times."""

    def __init__(self, world: World, requests: Requests, on_end: OnEnd, rows: pd.DataFrame) -> None:
        super().__init__(world, requests, on_end)
        self._rows: list[dict[str, Any]] = rows.to_dict("records")  # type: ignore[assignment]
        self._next = 0
        self._faults: dict[int, Failure] = {}
        self._index = {d.name: i for i, d in enumerate(world.scenario.devices)}

    def start(self, state: State, device: int) -> None:
        """Fills in what the log says that the operation became; what was cut off ends at its start."""
        row, now = self._rows[self._next - 1], state.device[device]
        if pd.isna(row["end_s"]):
            return
        now["op_start_ns"], now["op_end_ns"] = _ns(row["start_s"]), _ns(row["end_s"])
        now["op_steps"] = row["steps"]
        entries = state.entry[device, : now["op_batch"]]
        entries["tokens"] = row["tokens"]
        entries["first_ns"] = [_ns(value) for value in row["first_s"]]
        entries["finish_ns"] = [_ns(value) for value in row["finish_s"]]
        failure = _failure(row)
        self.on_end(state, device, float(row["device_bytes"]), failure)
        if failure is not None:
            self._faults[device] = failure

    def advance(self, state: State) -> int:
        """Goes to the next logged decision."""
        if self._next == len(self._rows):
            self._pass(state, int(state.device["op_end_ns"][_under_way(state)].max(initial=0)))
            return -1
        row = self._rows[self._next]
        self._next += 1
        self._pass(state, _ns(row["decided_s"]))
        device = -1 if finished(state) else int(next_idle(state))
        if device != self._index[row["device"]]:
            asks = "nobody" if device < 0 else self.world.scenario.devices[device].name
            rule = f"be this world's: at decision {self._next - 1}, {asks} asks"
            raise InputError("event log", rule, row["device"])
        return device

    def _pass(self, state: State, now_ns: int) -> None:
        """Lets time pass: whatever happens ends waits, and so does their own time."""
        waits = state.device[state.device["op_kind"] == WAIT]
        happened = bool((waits["op_end_ns"] <= now_ns).any())
        happened |= bool(admit(self.world.tables, state, max(now_ns, int(state.clock["now_ns"][0]))))
        for device in np.flatnonzero(_under_way(state) & (state.device["op_end_ns"] <= now_ns)):
            self._end(state, int(device))
            happened = True
        if overdue(state):
            admit(self.world.tables, state, int(state.clock["now_ns"][0]))
        if happened:
            wake_waiting(state)

    def _end(self, state: State, device: int) -> None:
        failure = self._faults.pop(device, None)
        if failure is None:
            complete(state, device)
            return
        lost = np.array([m.name in failure.fault.lost for m in self.world.scenario.models])
        fail(self.world.tables, state, device, lost, self.world.scenario.limits.attempts)


def _failure(row: dict[str, Any]) -> Failure | None:
    if not isinstance(row["fault"], str):
        return None
    fault = Fault(row["fault"], row["fault_reason"], tuple(row["lost"]), float(row["restart_s"]))
    ids = (tuple(map(int, row[name])) for name in ("requeued_ids", "failed_ids"))
    return Failure(row["end_s"], row["device"], row["operation"], row["model"], fault, *ids)


def _under_way(state: State) -> NDArray[np.bool_]:
    return np.asarray(state.device["op_kind"] >= RUN)


def _ns(seconds: float | None) -> int:
    return -1 if seconds is None or np.isnan(seconds) else round(seconds * 1e9)
