"""What is kept of an engine's failure: which kind it was, what it took, and what became of its requests."""

from __future__ import annotations

from dataclasses import dataclass

from shunter.engines.base import (
    DeviceMemoryError,
    EngineError,
    WorkerDiedError,
    WorkerTimeoutError,
)

KINDS = {
    "killed": "its process ended",
    "hung": "a call did not return in time, and its process was killed",
    "out of memory": "the device could not hold what was asked for",
    "error": "it reported an error of its own",
}
"""Kinds of failures."""


@dataclass(frozen=True)
class Fault:
    """How an operation failed.

    Attributes:
        kind: One of ``KINDS``.
        reason: The engine's own words.
        lost: Models whose engine was started again: what was resident of them is gone.
        restart_s: Seconds that the start took; part of the operation.
    """

    kind: str
    reason: str
    lost: tuple[str, ...]
    restart_s: float


@dataclass(frozen=True)
class Failure:
    """One entry of a run's failure log.

    Attributes:
        time_s: When it was dealt with, since the start of the run.
        device: Name of the device.
        operation: ``run``, ``load`` or ``evict``.
        model: Model that the operation was for.
        fault: How it failed.
        requeued: Requests that the operation was for, and that were put back into the queue.
        failed: Those that were given up: it was their last attempt.
    """

    time_s: float
    device: str
    operation: str
    model: str
    fault: Fault
    requeued: tuple[int, ...]
    failed: tuple[int, ...]


def fault_kind(error: EngineError) -> str:
    """The kind of an engine's error."""
    if isinstance(error, WorkerDiedError):
        return "killed"
    if isinstance(error, WorkerTimeoutError):
        return "hung"
    # Allocators deep in an engine raise errors of their own.
    if isinstance(error, DeviceMemoryError) or "out of memory" in str(error).lower():
        return "out of memory"
    return "error"


def is_survivable(error: EngineError) -> bool:
    """Whether the same call may work after a new start: not where it asked for what cannot be."""
    survivable = (DeviceMemoryError, WorkerDiedError, WorkerTimeoutError)
    return isinstance(error, survivable) or type(error) is EngineError
