"""Clocks: what it means for an operation to take time, on real engines and on a virtual clock."""

from __future__ import annotations

import heapq
import queue
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from shunter.eval.execution.operations import Outcome

Done = tuple[int, Outcome]


class Settable(Protocol):
    """A virtual engine's clock."""

    now_s: float


class Clock(ABC):
    """Time since the start of an episode, and operations that take some of it."""

    @abstractmethod
    def now_ns(self) -> int:
        """Nanoseconds since the episode began."""

    @abstractmethod
    def start(self, device: int, start_ns: int, call: Callable[[], Outcome]) -> None:
        """Begins an operation of a device, at the earliest at start_ns."""

    @abstractmethod
    def wait(self, until_ns: int) -> list[Done]:
        """Returns what is done once anything is, or at the latest at until_ns.

        Raises:
            EngineError: An operation failed.
        """

    @abstractmethod
    def to_ns(self, engine_s: float) -> int:
        """A time on an engine's clock, as nanoseconds since the episode began."""

    def restart(self) -> None:  # noqa: B027 - virtual time passes in operations only
        """The episode begins now."""

    def close(self) -> None:  # noqa: B027 - a virtual clock holds nothing
        """Frees threads; operations under way are waited for."""


class WallClock(Clock):
    """Real time; each device's operations run in a thread of their own, one at a time."""

    def __init__(self, devices: int) -> None:
        self._zero_s = time.monotonic()
        self._done: queue.SimpleQueue[tuple[int, Future[Outcome]]] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(devices, thread_name_prefix="device")

    def restart(self) -> None:
        """The episode begins now."""
        self._zero_s = time.monotonic()

    def now_ns(self) -> int:
        """Nanoseconds since the episode began."""
        return self.to_ns(time.monotonic())

    def to_ns(self, engine_s: float) -> int:
        """Engines' monotonic clocks are this process's, shifted."""
        return round((engine_s - self._zero_s) * 1e9)

    def start(self, device: int, start_ns: int, call: Callable[[], Outcome]) -> None:
        """Begins at once: the decision has really taken its time."""
        future = self._pool.submit(call)
        future.add_done_callback(lambda f: self._done.put((device, f)))

    def wait(self, until_ns: int) -> list[Done]:
        """Sleeps until something is done or until_ns is reached."""
        done: list[Done] = []
        timeout_s = max(0.0, (until_ns - self.now_ns()) * 1e-9)
        try:
            device, future = self._done.get(timeout=min(timeout_s, 3600.0))
            while True:
                done.append((device, future.result()))
                device, future = self._done.get_nowait()
        except queue.Empty:
            return done

    def close(self) -> None:
        """Waits for running operations and ends the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class VirtualClock(Clock):
    """Simulated time for engines with a settable clock: operations are carried out at once.

    Args:
        engine_clocks: One per device; set to an operation's start before it is carried out.
    """

    def __init__(self, engine_clocks: list[Settable]) -> None:
        self._now_ns = 0
        self._engine_clocks = engine_clocks
        self._heap: list[tuple[int, int, Outcome]] = []

    def now_ns(self) -> int:
        """Where time stands."""
        return self._now_ns

    def to_ns(self, engine_s: float) -> int:
        """Engine clocks start with the episode."""
        return round(engine_s * 1e9)

    def start(self, device: int, start_ns: int, call: Callable[[], Outcome]) -> None:
        """Carries the operation out in virtual time."""
        self._engine_clocks[device].now_s = start_ns * 1e-9
        outcome = call()
        heapq.heappush(self._heap, (self.to_ns(outcome.end_s), device, outcome))

    def wait(self, until_ns: int) -> list[Done]:
        """Jumps to the next completion, or to until_ns."""
        soonest = self._heap[0][0] if self._heap else until_ns
        self._now_ns = max(self._now_ns, min(soonest, until_ns))
        done: list[Done] = []
        while self._heap and self._heap[0][0] <= self._now_ns:
            _, device, outcome = heapq.heappop(self._heap)
            done.append((device, outcome))
        return done
