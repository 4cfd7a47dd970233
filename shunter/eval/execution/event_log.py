"""The event log: one row per decision and its operation, the same schema for both modes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from shunter.envs.observation.features import FEATURES_VERSION
from shunter.envs.state.state import EVICT, LOAD, RUN, WAIT, State
from shunter.envs.world.world import World
from shunter.errors import BrokenFileError
from shunter.eval.execution.faults.failures import Failure
from shunter.eval.possible import check_given, check_lengths, check_order, check_range
from shunter.files import replaced
from shunter.parquet import write_table
from shunter.profiling.dataset.versioned_parquet import FileKind, read_versioned_parquet, stamped

__all__ = ["EVENT_COLUMNS", "EventLog", "read_event_log", "write_event_logs"]

EVENT_LOG_VERSION = 6

KINDS = {WAIT: "wait", RUN: "run", LOAD: "load", EVICT: "evict"}

EVENT_COLUMNS: dict[str, pa.DataType] = {
    "run_id": pa.string(),  # one policy on one workload seed in one mode
    "policy": pa.string(),
    "seed": pa.int64(),  # of the workload
    "mode": pa.string(),  # simulated or real
    "decision_id": pa.int64(),
    "features_version": pa.int64(),
    "device": pa.string(),
    "decided_s": pa.float64(),  # since the start of the episode, like all times here
    "decision_s": pa.float64(),  # what the policy took to decide, wall clock
    "in_system": pa.int64(),  # requests at that time
    "arrived_ids": pa.list_(pa.int64()),  # requests that arrived since the decision before this one
    "arrived_models": pa.list_(pa.string()),
    "arrived_s": pa.list_(pa.float64()),
    "mask": pa.list_(pa.bool_()),
    "choice": pa.int64(),  # index of the candidate
    "choice_name": pa.string(),
    # run, load, evict or wait; make-room if room must still be made; keep where servers drain and a resident
    # stays; lose where a server ended by itself: nobody chose that
    "operation": pa.string(),
    "model": pa.string(),
    "gpu_layers": pa.int64(),
    "evicted": pa.list_(pa.string()),  # models unloaded, or sent to sleep, by this operation
    "request_ids": pa.list_(pa.int64()),  # batch of a quantum
    "tokens": pa.list_(pa.int64()),  # that each request gained
    "first_s": pa.list_(pa.float64()),  # when each of them got its first token in it; missing otherwise
    "finish_s": pa.list_(pa.float64()),  # when each finished in it
    "steps": pa.int64(),
    "start_s": pa.float64(),
    "end_s": pa.float64(),  # missing for waits and for what was cut off
    "device_bytes": pa.float64(),  # after the operation: measured, or predicted
    "fault": pa.string(),  # kind of failure; then its tokens are lost, and end_s is when the engine is back
    "fault_reason": pa.string(),  # the engine's own words
    "restart_s": pa.float64(),  # how long starting the engine again took
    "lost": pa.list_(pa.string()),  # models whose engine was started again
    "requeued_ids": pa.list_(pa.int64()),  # requests that it was for, back in the queue
    "failed_ids": pa.list_(pa.int64()),  # and those given up
    "cause": pa.string(),  # of a gateway's loads and unloads: ``shunter.serve.core.effects.CAUSES``
    "shadow": pa.string(),  # policy that was asked too, and not obeyed; missing without one
    "shadow_choice_name": pa.string(),  # what it would have chosen
    # what servers, or engines that can sleep, did in it: start, wake, sleep or end, as in "wake small"
    "servers": pa.list_(pa.string()),
}

_KIND = FileKind(
    "event log",
    "the event log schema",
    "event_log_version",
    EVENT_LOG_VERSION,
    older=(4, 5),
    columns=EVENT_COLUMNS,
)

_TIMES = ("decided_s", "start_s", "end_s")
_OF_REQUESTS = ("request_ids", "first_s", "finish_s")
_ARRIVED = ("arrived_ids", "arrived_models", "arrived_s")
_OF_MODELS = ("run", "load", "evict", "lose")


class EventLog:
    """Collects the rows of one run.

    Args:
        world: Names models and devices.
        run: Values of ``run_id``, ``policy``, ``seed`` and ``mode``, the same in every row.

    Attributes:
        rows: One per decision.
        failures: Failures of engines, in order.
    """

    def __init__(self, world: World, run: dict[str, Any]) -> None:
        self.world = world
        self.run = run
        self.rows: list[dict[str, Any]] = []
        self.failures: list[Failure] = []
        self._open: dict[int, dict[str, Any]] = {}
        self._arrived = 0
        self._decisions = 0

    def decide(
        self, state: State, device: int, mask: NDArray[np.bool_], choice: int, decision_s: float
    ) -> None:
        """Opens a row; call before the choice is applied."""
        model, level = divmod(choice, self.world.levels[2])
        is_here = model < self.world.models and state.place["resident"][device, model] == level
        self._open[device] = self._add(
            state,
            device,
            decision_s=decision_s,
            mask=mask.tolist(),
            choice=choice,
            choice_name=self.world.action_name(choice),
            operation="keep" if is_here else "make-room",
        )

    def explain(self, device: int, **values: Any) -> None:
        """Adds to a device's last row what else is known of its decision, by names of columns."""
        self._open[device].update(values)

    def add_server(self, device: int, what: str) -> None:
        """Adds to a device's last row what a server did in its operation, like ``wake small``."""
        if device in self._open:
            self._open[device]["servers"].append(what)

    def lose(self, state: State, device: int, model: int, level: int, reason: str) -> None:
        """Adds a row for a server that has ended by itself."""
        now_s, name = int(state.clock["now_ns"][0]) * 1e-9, self.world.scenario.models[model].name
        self._add(
            state,
            device,
            mask=[],
            operation="lose",
            model=name,
            gpu_layers=self.world.gpu_layers[model][level],
            start_s=now_s,
            end_s=now_s,
            fault="server_ended",
            fault_reason=reason,
            lost=[name],
        )

    def _add(self, state: State, device: int, **values: Any) -> dict[str, Any]:
        """Adds a row, and whoever has arrived since the one before."""
        empty: dict[str, list[Any]] = {
            name: [] for name, kind in EVENT_COLUMNS.items() if pa.types.is_list(kind)
        }
        row: dict[str, Any] = {
            **dict.fromkeys(EVENT_COLUMNS),
            **empty,
            **self.run,
            "decision_id": self._decisions,
            "features_version": FEATURES_VERSION,
            "device": self.world.scenario.devices[device].name,
            "decided_s": int(state.clock["now_ns"][0]) * 1e-9,
            "in_system": int(state.clock["in_system"][0]),
            "steps": 0,
            **self._arrivals(state),
            **values,
        }
        self._decisions += 1
        self.rows.append(row)
        return row

    def _arrivals(self, state: State) -> dict[str, list[Any]]:
        new = range(self._arrived, int(state.clock["arrived"][0]))
        self._arrived = new.stop
        requests = state.ring[np.asarray(new, np.int64) % len(state.ring)]
        return {
            "arrived_ids": list(new),
            "arrived_models": [self.world.scenario.models[m].name for m in requests["model"]],
            "arrived_s": [_seconds(ns) for ns in requests["arrival_ns"]],
        }

    def begin(self, state: State, device: int) -> None:
        """Adds what the device set out to do; call after the choice was applied and led to an operation."""
        row, operation = self._open[device], state.device[device]
        model = int(operation["op_model"])
        row["operation"] = KINDS[int(operation["op_kind"])]
        if model < 0:
            return
        names = [m.name for m in self.world.scenario.models]
        slots = state.entry["slot"][device, : operation["op_batch"]]
        row.update(
            model=names[model],
            gpu_layers=self.world.gpu_layers[model][operation["op_level"]],
            evicted=[names[m] for m in np.flatnonzero(state.place["evicting"][device] >= 0)],
            request_ids=state.slot["id"][slots].tolist(),
        )
        if self.world.scenario.limits.sleep:
            row["servers"] += self._sleepers(state, device)

    def _sleepers(self, state: State, device: int) -> list[str]:
        """Who falls asleep, is ended, or wakes in the operation that a device has begun."""
        place, operation = state.place[device], state.device[device]
        names = [m.name for m in self.world.scenario.models]
        goes = np.flatnonzero(place["evicting"] >= 0)
        words = [f"{'end' if place['asleep'][m] < 0 else 'sleep'} {names[m]}" for m in goes]
        wakes = operation["op_kind"] == LOAD and operation["op_wakes"] != 0
        return words + [f"wake {names[operation['op_model']]}"] * bool(wakes)

    def end(self, state: State, device: int, device_bytes: float, failure: Failure | None = None) -> None:
        """Adds what came of it; call when the operation's times and tokens are filled in."""
        operation = state.device[device]
        entries = state.entry[device, : operation["op_batch"]]
        self._open[device].update(
            tokens=entries["tokens"].tolist(),
            first_s=[_seconds(ns) for ns in entries["first_ns"]],
            finish_s=[_seconds(ns) for ns in entries["finish_ns"]],
            steps=int(operation["op_steps"]),
            start_s=int(operation["op_start_ns"]) * 1e-9,
            end_s=int(operation["op_end_ns"]) * 1e-9,
            device_bytes=device_bytes,
        )
        if failure is not None:
            self.failures.append(failure)
            self._open[device].update(
                fault=failure.fault.kind,
                fault_reason=failure.fault.reason,
                restart_s=failure.fault.restart_s,
                lost=list(failure.fault.lost),
                requeued_ids=list(failure.requeued),
                failed_ids=list(failure.failed),
            )

    def end_operation(self, state: State, device: int, device_bytes: float) -> None:
        """Adds what came of a device's last load or unload; call before the device decides again.

        Where servers drain, nobody knows before when they begin and end. May be called twice.
        """
        if device in self._open and self._open[device]["operation"] in ("load", "evict"):
            self.end(state, device, device_bytes)

    def fail_operation(self, device: int, kind: str, reason: str) -> None:
        """Notes that a device's last operation, whose end is yet to be added, has failed."""
        if device in self._open:
            self._open[device].update(fault=kind, fault_reason=reason)

    def cut(self) -> EventLog:
        """Gives the rows away that nothing is added to any more, as a log of their own."""
        done, still = EventLog(self.world, self.run), {id(row) for row in self._open.values()}
        done.rows = [row for row in self.rows if id(row) not in still]
        self.rows = [row for row in self.rows if id(row) in still]
        return done

    def mark(self, values: Mapping[str, Any]) -> None:
        """Sets what is the same in all rows, such as ``run_id``."""
        self.run = {**self.run, **values}
        for row in self.rows:
            row.update(values)

    def frame(self) -> pd.DataFrame:
        """All rows so far."""
        frame: pd.DataFrame = self.table().to_pandas()
        return frame

    def table(self) -> pa.Table:
        """All rows so far, typed."""
        return stamped(pa.Table.from_pylist(self.rows, pa.schema(list(EVENT_COLUMNS.items()))), _KIND)


_DECISION_S = 1.0
"""By which ends may come before starts: older gateways noted when a start was expected at its decision."""


def write_event_logs(logs: list[EventLog], path: str | os.PathLike[str]) -> None:
    """Writes the rows of several runs into one Parquet file, whole or not at all."""
    with replaced(path) as temporary:
        write_table(pa.concat_tables([log.table() for log in logs]), temporary, compression="zstd")


def read_event_log(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Reads an event log.

    Raises:
        InputError: There is no such file, or a time or number of a row cannot be.
        BrokenFileError: It is truncated, no event log, or was changed since it was written.
        VersionError: It was written in another version of the schema.
    """
    frame = with_mode(read_versioned_parquet(path, _KIND)[0])
    lacking = sorted({"run_id", "policy", "seed", "mode", "device", *_TIMES, *_OF_REQUESTS} - set(frame))
    if lacking:
        raise BrokenFileError(path, f"it lacks the columns {', '.join(lacking)}")
    for name, kind in EVENT_COLUMNS.items():
        if name not in frame:  # an older log
            frame[name] = [[] for _ in range(len(frame))] if pa.types.is_list(kind) else None
    check_given(path, frame, ["run_id", "policy", "seed", "mode", "device", "decided_s"])
    check_range(path, frame, [*_TIMES, "decision_s", "arrived_s", "first_s", "finish_s", "tokens", "steps"])
    check_range(path, frame, ["device_bytes", "restart_s", "arrived_ids", "request_ids", "gpu_layers"])
    ended = frame.dropna(subset=["start_s", "end_s"])
    check_order(path, ended, ["start_s", "end_s"], _DECISION_S)
    check_lengths(path, ended, _OF_REQUESTS)
    check_given(path, ended[ended["operation"].isin(_OF_MODELS)], ["model", "gpu_layers"])
    check_lengths(path, frame, _ARRIVED)
    return frame


def with_mode(frame: pd.DataFrame) -> pd.DataFrame:
    """A log or table of requests as this version has it: older ones call the column ``mode`` ``world``."""
    return frame.rename(columns={"world": "mode"})


def _seconds(ns: int) -> float | None:
    return int(ns) * 1e-9 if ns >= 0 else None
