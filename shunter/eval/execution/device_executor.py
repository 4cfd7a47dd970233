"""A device_executor: the engines of one device, watched, and started again when they fail."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from shunter.engines.base import (
    DeviceMemoryError,
    Engine,
    EngineError,
    LoadResult,
    MemoryReport,
)
from shunter.engines.caller.client import WorkerEngine
from shunter.engines.sleeping import SleepingEngine
from shunter.eval.execution.faults.chaos import Chaos, Striker, strike_process, striking
from shunter.eval.execution.faults.failures import Fault, fault_kind, is_survivable
from shunter.eval.execution.operations import Operation, Outcome, execute

__all__ = ["Deadline", "DeviceExecutor"]

STARTS = 3
"""How often an engine is started before it is taken for broken."""

OVER_BUDGET = 1.05
"""Measured memory may exceed the budget by so much: allocators round up."""


@dataclass(frozen=True)
class Deadline:
    """When a call is taken for hung.

    Attributes:
        factor: Times what its whole operation was predicted to take. A cold load takes some ten times as
            long as a warm one, and a busy machine adds its own.
        least_s: And at least so long.
    """

    factor: float = 20.0
    least_s: float = 30.0

    def of(self, predicted_s: float) -> float:
        """Seconds that a call of such an operation may take."""
        return max(self.least_s, self.factor * predicted_s)


@dataclass
class DeviceExecutor:
    """The engines of one device: a worker for each, and which of them runs which model.

    Attributes:
        index: Index of the device.
        name: Name of the device.
        worker_of: The name of its worker for each model.
        start: Starts a worker by its name, ready to run.
        budget_bytes: What its residents may take of the device together; None: what each engine allows.
        deadline: When a call is taken for hung.
        chaos: What happens to its engines on purpose.
        striker: Carries the strikes of ``chaos`` out.
        now_s: The engines' monotonic clock.
        workers: Workers that run, by name.
        is_abandoned: Whether nothing is to be started again.
    """

    index: int
    name: str
    worker_of: Mapping[str, str]
    start: Callable[[str], Engine]
    budget_bytes: int | None = None
    deadline: Deadline = Deadline()
    chaos: Chaos | None = None
    striker: Striker = strike_process
    now_s: Callable[[], float] = time.monotonic
    workers: dict[str, Engine] = field(default_factory=dict)
    is_abandoned: bool = False
    _operations: int = 0
    _held_bytes: dict[str, int] = field(default_factory=dict)

    def open(self) -> None:
        """Starts all workers.

        Raises:
            EngineError: One cannot run its engine on this device.
        """
        for worker in dict.fromkeys(self.worker_of.values()):
            self.workers[worker] = self.start(worker)

    def close(self) -> None:
        """Ends all workers."""
        for engine in self.workers.values():
            engine.close()
        self.workers.clear()

    def abandon(self) -> None:
        """Kills all workers, so that whoever waits for one of their answers waits no longer."""
        self.is_abandoned = True
        for engine in self.workers.values():
            if isinstance(engine, WorkerEngine):
                for pid in engine.pids():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    def engine(self, model: str) -> Engine:
        """The engine that runs a model here."""
        return self.workers[self.worker_of[model]]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is resident, nor asleep."""
        return not self._held_bytes

    def load(
        self, model: str, checkpoint: str, gpu_layers: int | None, *, context_tokens: int, max_batch: int
    ) -> LoadResult:
        """Loads a model on its engine, and holds all residents to the device's budget by measurement.

        Raises:
            DeviceMemoryError: They take more, as measured by how much the device's memory grew with each.
            EngineError: Whatever the engine reports.
        """
        engine = self.engine(model)
        before = engine.memory()
        loaded = engine.load(
            model, checkpoint, gpu_layers, context_tokens=context_tokens, max_batch=max_batch
        )
        # Where the device is the engine's own process, its memory is not the residents' alone.
        is_apart = loaded.memory.device_bytes != loaded.memory.host_bytes
        grown_bytes = max(0, loaded.memory.device_bytes - before.device_bytes)
        kept_bytes = self._held_bytes.get(model, 0)  # of a sleeper
        self._held_bytes[model] = kept_bytes + (grown_bytes if is_apart else 0)
        used_bytes = sum(self._held_bytes.values())
        if self.budget_bytes is not None and used_bytes > OVER_BUDGET * self.budget_bytes:
            raise DeviceMemoryError(
                f"{self.name} has a budget of {self.budget_bytes / 1e6:.0f} MB; with {model!r} its "
                f"residents took {used_bytes / 1e6:.0f} MB, as measured"
            )
        return loaded

    def unload(self, model: str) -> tuple[float, float]:
        """Unloads a model, or ends it asleep; returns start and end in seconds."""
        unloaded = self.engine(model).unload(model)
        self._held_bytes.pop(model, None)
        return unloaded.start_s, unloaded.end_s

    def fall_asleep(self, model: str, level: int) -> tuple[float, float]:
        """Sends a model to sleep; returns start and end in seconds.

        Raises:
            EngineError: Its engine cannot sleep, or whatever it reports.
        """
        engine = self.engine(model)
        if not isinstance(engine, SleepingEngine):
            raise EngineError(f"the engine of model {model!r} cannot be told to sleep")
        before_bytes = engine.memory().device_bytes
        slept = engine.fall_asleep(model, level)
        freed_bytes = before_bytes - engine.memory().device_bytes
        self._held_bytes[model] = max(0, self._held_bytes.get(model, 0) - freed_bytes)
        return slept.start_s, slept.end_s

    def memory(self) -> MemoryReport:
        """What all engines hold together."""
        reports = [engine.memory() for engine in self.workers.values()]
        return MemoryReport(
            sum(r.device_bytes for r in reports),
            sum(r.host_bytes for r in reports),
            sum(r.kv_preemptions for r in reports),
        )

    def run(self, operation: Operation, predicted_s: float) -> Outcome:
        """Carries an operation out; if an engine fails in it, starts that again and says so.

        Args:
            operation: What to do.
            predicted_s: How long it should take.

        Raises:
            EngineError: It asked for what cannot be, or the engine cannot be started again.
        """
        self._set_deadline(self.deadline.of(predicted_s))
        strike = None if self.chaos is None else self.chaos.strike(self.index, self._operations)
        self._operations += 1
        begun_s = self.now_s()
        try:
            with striking(strike, self.engine(operation.model), predicted_s, self.striker):
                return execute(self, operation)
        except EngineError as error:
            if self.is_abandoned or not is_survivable(error):
                raise
            touched = {operation.model, *(eviction.model for eviction in operation.evictions)}
            return self._start_again(begun_s, error, touched)

    def clear(self, residents: Sequence[str], saved: Sequence[tuple[str, str]]) -> None:
        """Leaves the engines empty; one that fails in it is started again.

        Args:
            residents: Models to unload, sleepers among them.
            saved: Model and name of the requests to forget.
        """
        self._set_deadline(self.deadline.of(0.0))
        try:
            for model in residents:
                self.unload(model)
            for model, request in saved:
                self.engine(model).drop_kv(model, request)
        except EngineError as error:
            if not is_survivable(error):
                raise
            self._start_again(self.now_s(), error, {*residents, *(model for model, _ in saved)})

    def _set_deadline(self, seconds: float) -> None:
        for engine in self.workers.values():
            if isinstance(engine, WorkerEngine):
                engine.timeout_s = seconds

    def _start_again(self, begun_s: float, error: EngineError, touched: set[str]) -> Outcome:
        """Starts every engine that the operation may have left half done, the failed one among them."""
        failed_s = self.now_s()
        workers = {self.worker_of[model] for model in touched} | self._broken()
        lost = tuple(model for model, worker in self.worker_of.items() if worker in workers)
        for model in lost:
            self._held_bytes.pop(model, None)
        for worker in sorted(workers):
            self._restart(worker)
        end_s = self.now_s()
        fault = Fault(fault_kind(error), str(error), lost, end_s - failed_s)
        return Outcome(start_s=begun_s, end_s=end_s, memory=self.memory(), fault=fault)

    def _broken(self) -> set[str]:
        """Workers that do not answer."""
        broken = set()
        for worker, engine in self.workers.items():
            try:
                engine.memory()
            except EngineError:
                broken.add(worker)
        return broken

    def _restart(self, worker: str) -> None:
        self.workers[worker].close()
        for left in reversed(range(STARTS)):
            try:
                self.workers[worker] = self.start(worker)
                return
            except EngineError:
                if left == 0:
                    raise
