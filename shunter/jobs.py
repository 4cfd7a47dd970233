"""Independent jobs: one after another here, or side by side over a Ray cluster, with the same results.

Whatever a job must remember is kept by the driver: a node that dies costs the jobs that were under way on it,
and these are done again elsewhere.
"""

from __future__ import annotations

import pickle
import time
import traceback
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any

from shunter import __version__
from shunter.errors import InputError, ShunterError
from shunter.ray_cluster import Task, WorkerLostError, connect, drive, live_nodes

__all__ = ["Job", "JobError", "Report", "Runner", "Work", "WorkersLostError", "open_runner"]

TRIES = 3
"""How often a job may lose its worker before it is to blame; and how often a worker may fail to start."""

_PLACE_S = 120.0
"""How long a CPU that others use is waited for."""

Report = Callable[[Any], Any]
"""What work tells the driver things with, on its way; gives the driver's answer."""

Work = Callable[[Any, Report, Any], Any]
"""A function of a module: what all jobs share, ``Report`` and the job's task in, its value out."""


class Job(ABC):
    """A job as the driver sees it; all but its name is called in the driver's process."""

    @property
    @abstractmethod
    def name(self) -> str:
        """For people."""

    @abstractmethod
    def task(self) -> Any:
        """What the work is given: plain data, asked for at each try."""

    def on_message(self, message: Any) -> Any:
        """Takes a message of the work and answers it."""
        raise NotImplementedError(f"{self.name} expects no messages")

    @abstractmethod
    def done(self, value: Any) -> None:
        """Keeps what came of it."""


class JobError(ShunterError):
    """A job failed on its worker."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class WorkersLostError(ShunterError):
    """No worker is left, or a job lost too many."""


class Runner:
    """Runs jobs one after another in this process.

    Attributes:
        lost: A line for each worker that was lost on the way; its job was done elsewhere.
    """

    def __init__(self) -> None:
        self.lost: list[str] = []

    def run(self, work: Work, shared: Any, jobs: Sequence[Job]) -> None:
        """Does all jobs.

        Raises:
            ShunterError: A job failed; those that were done before are kept.
        """
        for job in jobs:
            job.done(work(shared, job.on_message, job.task()))


@contextmanager
def open_runner(ray: str | None = None) -> Iterator[Runner]:
    """Opens what runs jobs.

    Args:
        ray: Address of a Ray cluster as ``shunter.ray_cluster.connect`` takes it; None: this process.

    Raises:
        InputError: Ray is not installed, or there is no such cluster, or it has no CPU.
    """
    if ray is None:
        yield Runner()
        return
    with connect(ray) as module:
        runner = _RayRunner(module, ray)
        try:
            yield runner
        finally:
            runner.close()


@dataclass(frozen=True)
class _Message:
    content: Any


@dataclass(frozen=True)
class _Done:
    value: Any


@dataclass(frozen=True)
class _Failed:
    """Errors have constructors of their own, so that not all of them can be pickled."""

    message: str
    exit_code: int | None


def _packed(content: Any) -> bytes:
    """What goes between driver and worker, as bytes: of what Ray packs itself, arrays arrive read-only.

    For numba these have types of their own, for which each process would compile everything once more.
    """
    from ray import cloudpickle

    packed: bytes = cloudpickle.dumps(content)  # type: ignore[no-untyped-call]
    return packed


class _Worker:
    """The node's side: one CPU, a job at a time, in a thread that waits for the driver's answers.

    Arguments and results are packed.
    """

    def version(self) -> str:
        """Version of shunter in this process."""
        return __version__

    def begin(self, shared: bytes, task: bytes) -> bytes:
        """Begins a job, of which the work is with what all share; returns its first message or its end."""
        self._answers: SimpleQueue[Any] = SimpleQueue()
        self._said: SimpleQueue[bytes] = SimpleQueue()
        Thread(target=self._do, args=(shared, task), daemon=True).start()
        return self._said.get()

    def go_on(self, answer: bytes) -> bytes:
        """Answers the message; returns the next one or the end."""
        self._answers.put(pickle.loads(answer))
        return self._said.get()

    def _report(self, message: Any) -> Any:
        self._said.put(_packed(_Message(message)))
        return self._answers.get()

    def _do(self, packed: bytes, task: bytes) -> None:
        try:
            work, shared = pickle.loads(packed)
            end = _packed(_Done(work(shared, self._report, pickle.loads(task))))
        except ShunterError as error:
            end = _packed(_Failed(str(error), error.exit_code))
        except BaseException:
            end = _packed(_Failed(traceback.format_exc(), None))
        self._said.put(end)


class _Round:
    """The jobs of one call of ``run``."""

    def __init__(self, shared: Any, jobs: Sequence[Job]) -> None:
        self.shared = shared
        self.todo = deque(jobs)
        self.left = len(jobs)
        self.losses: Counter[int] = Counter()

    def give_back(self, job: Job, error: WorkerLostError) -> None:
        """Puts a job whose worker is gone in front of the others."""
        self.losses[id(job)] += 1
        if self.losses[id(job)] == TRIES:
            raise WorkersLostError(f"{job.name} lost its worker {TRIES} times: {error}")
        self.todo.appendleft(job)


class _RayRunner(Runner):
    """Runs jobs on the CPUs of a cluster, one on each."""

    def __init__(self, ray: Any, address: str) -> None:
        super().__init__()
        self._ray = ray
        self._slots = sum(node.cpus for node in live_nodes(ray))
        if not self._slots:
            raise InputError("--ray", "name a cluster with a CPU", address)
        self._actors: dict[int, Any] = {}
        self._ready: set[int] = set()

    def run(self, work: Work, shared: Any, jobs: Sequence[Job]) -> None:
        """Does all jobs, in no order.

        Raises:
            ShunterError: A job failed, or no worker is left; those that were done before are kept.
        """
        current = _Round(self._ray.put(_packed((work, shared))), jobs)
        slots = range(min(self._slots, len(jobs)))
        self._waited_since_s = time.monotonic()
        drive(self._ray, [self._serve(slot, current) for slot in slots], until=lambda: self._is_over(current))
        if current.left:
            raise WorkersLostError(f"no worker is left: {'; '.join(self.lost)}")

    def close(self) -> None:
        """Ends all workers."""
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._actors.clear()

    def _is_over(self, current: _Round) -> bool:
        if self._ready or not current.left:
            self._waited_since_s = time.monotonic()
        elif time.monotonic() - self._waited_since_s > _PLACE_S:
            raise WorkersLostError(f"no CPU of the cluster became free in {_PLACE_S:.0f} s")
        return not current.left

    def _serve(self, slot: int, current: _Round) -> Task:
        failed_starts = 0
        while current.left and failed_starts < TRIES:
            try:
                yield from self._work_on(slot, current)
            except WorkerLostError as error:
                failed_starts = 0 if slot in self._ready else failed_starts + 1
                self._lose(slot, error)

    def _work_on(self, slot: int, current: _Round) -> Task:
        actor = yield from self._actor(slot)
        while current.left:
            if not current.todo:
                yield None  # a job that is under way elsewhere may come back
                continue
            job = current.todo.popleft()
            try:
                yield from self._do(actor, current, job)
            except WorkerLostError as error:
                current.give_back(job, error)
                raise

    def _actor(self, slot: int) -> Any:
        if slot in self._ready:
            return self._actors[slot]
        if slot not in self._actors:
            options = {"num_cpus": 1, "max_restarts": 0}
            self._actors[slot] = self._ray.remote(_Worker).options(**options).remote()
        version = yield self._actors[slot].version.remote()
        if version != __version__:
            raise JobError(f"a node has shunter {version}, not {__version__} as here", 2)
        self._ready.add(slot)
        return self._actors[slot]

    def _lose(self, slot: int, error: WorkerLostError) -> None:
        self.lost.append(f"worker {slot + 1}: {error}")
        self._ready.discard(slot)
        # It may only be out of reach: what it still does is not wanted any more.
        self._ray.kill(self._actors.pop(slot))

    def _do(self, actor: Any, current: _Round, job: Job) -> Task:
        said = pickle.loads((yield actor.begin.remote(current.shared, _packed(job.task()))))
        while isinstance(said, _Message):
            said = pickle.loads((yield actor.go_on.remote(_packed(job.on_message(said.content)))))
        if isinstance(said, _Failed):
            if said.exit_code is None:
                raise RuntimeError(f"{job.name} failed on its worker:\n{said.message}")
            raise JobError(said.message, said.exit_code)
        job.done(said.value)
        current.left -= 1
