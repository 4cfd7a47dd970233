"""A Ray cluster: connect to it quietly, see its nodes, and drive workers on them that may die.

Nothing here knows what the workers do. Ray is imported only when a cluster is asked for: it is an extra.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import socket
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from shunter.errors import InputError, ShunterError

__all__ = [
    "LOCAL",
    "Node",
    "Task",
    "WorkerLostError",
    "connect",
    "drive",
    "end_actors",
    "live_nodes",
    "on_node",
]

LOCAL = "local"
"""The address that starts a cluster of one node on this machine."""

Task = Generator[Any, Any, None]
"""Yields a Ray reference, and is sent its value or thrown its error; or yields None to look again later."""

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Without it Ray warns about a change of its own that does not concern us.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray would kill its worker when a model nearly fills the memory: engines have budgets of their own.
    "RAY_memory_monitor_refresh_ms": "0",
    # Ray's workers give way to everything else by default: what is measured in them would be others' work.
    "RAY_worker_niceness": "0",
}
_CLOSE_S = 20.0
_CONNECT_S = 10.0
_LOOK_EVERY_S = 0.5


class WorkerLostError(ShunterError):
    """A worker or its node is gone."""


@dataclass(frozen=True)
class Node:
    """A live node.

    Attributes:
        node_id: Ray's name for it.
        name: For people: its host name and the beginning of its id, since several may be on one host.
        cpus: CPUs that Ray may use there.
        gpus: GPUs that Ray may use there.
    """

    node_id: str
    name: str
    cpus: int
    gpus: int


@contextmanager
def connect(address: str, *, field: str = "--ray") -> Iterator[Any]:
    """Connects to a cluster for the length of a with-block; one that this starts ends with it.

    Args:
        address: ``local`` (starts one here, listening on this machine only), ``auto``, ``host:port`` or
            ``ray://host:port``.
        field: Named in errors.

    Yields:
        The module ``ray``.

    Raises:
        InputError: Ray is not installed, or there is no such cluster.
    """
    if importlib.util.find_spec("ray") is None:
        raise InputError(field, "have Ray installed: pip install 'shunter[ray]'", address)
    quiet = dict(_QUIET)
    if address == LOCAL:
        quiet["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # what makes Ray use the loopback address
    with _environment(quiet):
        ray = importlib.import_module("ray")
        with _silence(importlib.import_module("ray._private.worker")):
            _init(ray, address, field)
            try:
                yield ray
            finally:
                ray.shutdown()


def _probe(address: str) -> None:
    """Raises an OSError if nobody listens: Ray itself would try for many minutes."""
    found = address.removeprefix("ray://")
    if found == address:
        found = importlib.import_module("ray._private.services").canonicalize_bootstrap_address(address)
    if found is not None:  # None: Ray starts one here
        host, _, port = found.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
        except OSError as error:
            raise OSError(f"{found} does not answer: {error}") from error


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _silence(worker: Any) -> Iterator[None]:
    # Ray prints the log of a node that died on the terminal, and has no switch against it.
    loud = worker.print_to_stdstream
    worker.print_to_stdstream = lambda *_, **__: None
    try:
        yield
    finally:
        worker.print_to_stdstream = loud


def _init(ray: Any, address: str, field: str) -> None:
    options: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
    try:
        _probe(address)
        ray.init(address=address, logging_level=logging.CRITICAL, log_to_driver=False, **options)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        why = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(field, f"name a Ray cluster that can be reached ({why})", address) from error


def live_nodes(ray: Any) -> list[Node]:
    """The nodes that are alive, in an order that does not change while they live."""
    found = [_node(entry) for entry in ray.nodes() if entry["Alive"]]
    return sorted(found, key=lambda node: node.node_id)


def _node(entry: dict[str, Any]) -> Node:
    resources = entry["Resources"]
    return Node(
        entry["NodeID"],
        f"{entry['NodeManagerHostname']} ({entry['NodeID'][:6]})",
        int(resources.get("CPU", 0)),
        int(resources.get("GPU", 0)),
    )


def on_node(node: Node) -> Any:
    """The scheduling strategy that keeps a worker on one node."""
    strategies = importlib.import_module("ray.util.scheduling_strategies")
    return strategies.NodeAffinitySchedulingStrategy(node.node_id, soft=False)


def drive(ray: Any, tasks: Iterable[Task], *, until: Callable[[], bool] = lambda: False) -> None:
    """Runs tasks side by side in this thread, each with at most one call under way.

    A call whose worker or node is gone throws ``WorkerLostError`` into its task, which may give its work
    back for others to take; a task that waits for such work yields None.

    Args:
        ray: The module, as from ``connect``.
        tasks: Started in this order.
        until: Ends all tasks, also those whose calls were never answered, when it becomes true.

    Raises:
        Exception: Whatever a task raised; the others are closed.
    """
    waiting: dict[Any, Task] = {}
    parked: list[Task] = []
    every = list(tasks)

    def advance(task: Task, step: Callable[[], Any]) -> None:
        try:
            reference = step()
        except StopIteration:
            return
        if reference is None:
            parked.append(task)
        else:
            waiting[reference] = task

    try:
        for task in every:
            advance(task, partial(next, task))
        while (waiting or parked) and not until():
            for reference in _ready(ray, waiting):
                task = waiting.pop(reference)
                advance(task, _step_of(ray, reference, task))
            again, parked[:] = list(parked), []
            for task in again:
                advance(task, partial(next, task))
    finally:
        for task in every:
            task.close()


def _ready(ray: Any, waiting: dict[Any, Task]) -> list[Any]:
    if not waiting:
        return []
    ready, _ = ray.wait(list(waiting), num_returns=1, timeout=_LOOK_EVERY_S)
    return list(ready)


def _step_of(ray: Any, reference: Any, task: Task) -> Callable[[], Any]:
    exceptions = ray.exceptions
    gone = (
        exceptions.RayActorError,
        exceptions.NodeDiedError,
        exceptions.ActorUnschedulableError,
        exceptions.ObjectLostError,
    )
    try:
        value = ray.get(reference)
    except gone as error:
        why = next((line for line in reversed(str(error).strip().splitlines()) if line.strip()), "no reason")
        lost = WorkerLostError(why.strip())
        return lambda: task.throw(lost)
    return lambda: task.send(value)


def end_actors(ray: Any, actors: Iterable[Any]) -> None:
    """Asks actors to ``close``, and kills them and all that did not answer in time."""
    every = list(actors)
    closing = [actor.close.remote() for actor in every]
    if closing:
        ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_S)
    for actor in every:
        ray.kill(actor)
