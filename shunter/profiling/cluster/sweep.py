"""A sweep over a Ray cluster: the groups of a plan shared among the devices of each type of hardware.

Hardware that differs is another thing to measure, so each type measures the whole plan. The driver alone
writes the journal: killing it, or Ctrl-C, leaves what was measured, as in a sweep on one machine. A unit's
rows arrive together; those of a unit that was under way on a node that died are measured again elsewhere.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shunter import __version__
from shunter.engines.base import DeviceMemoryError, EngineError
from shunter.errors import InputError, ShunterError
from shunter.profiling.cluster.kind import HardwareKind
from shunter.profiling.cluster.worker import DeviceWorker, GroupFailure, Hello, hardware_key
from shunter.profiling.dataset.journal import Journal
from shunter.profiling.sweep.measured import check_not_all_refused, earlier_rows
from shunter.profiling.sweep.plan import Group, SweepPlan
from shunter.profiling.sweep.run import ProgressCallback, SweepProgress
from shunter.profiling.sweep.sweep import check_output
from shunter.ray_cluster import (
    Node,
    Task,
    WorkerLostError,
    connect,
    drive,
    end_actors,
    live_nodes,
    on_node,
)

_PLACE_S = 120.0
"""How long a device that others use is waited for when everything else is measured."""


class DevicesLostError(EngineError):
    """No device is left that could measure what is missing."""


class NodeError(ShunterError):
    """A node cannot take part."""

    def __init__(self, node: str, failure: GroupFailure) -> None:
        super().__init__(f"node {node}: {failure.message}")
        self.exit_code = failure.exit_code


@dataclass(frozen=True)
class ClusterResult:
    """What a finished sweep over a cluster did.

    Attributes:
        dataset: Path of the Parquet file.
        session_ids: Session ids in the rows that it wrote: one for each type of hardware.
        rows: Rows written.
        units_measured: Units measured, by all devices.
        units_skipped: Units that were in the dataset already.
        refused: One line for each group that did not fit a device.
        duration_s: Seconds it took.
        rows_by_device: Rows that each device measured.
        lost: One line for each device that was lost on the way.
    """

    dataset: Path
    session_ids: tuple[str, ...]
    rows: int
    units_measured: int
    units_skipped: int
    refused: tuple[str, ...]
    duration_s: float
    rows_by_device: dict[str, int]
    lost: tuple[str, ...]

    def lines(self) -> list[str]:
        """What to tell people."""
        kinds = len(self.session_ids)
        summary = (
            f"{self.dataset}: {self.rows} rows from {self.units_measured} units in {self.duration_s:.0f} s, "
            f"on {kinds} {'type' if kinds == 1 else 'types'} of hardware; "
            f"{self.units_skipped} units were there already"
        )
        lost = [f"lost on the way, its work was done elsewhere: {line}" for line in self.lost]
        refused = [f"not measured: {line}" for line in self.refused]
        return [
            *refused,
            *lost,
            *(f"{name}: {rows} rows" for name, rows in self.rows_by_device.items()),
            summary,
        ]


@dataclass(frozen=True)
class _Slot:
    """One device of a node."""

    node: Node
    name: str
    num_cpus: int
    num_gpus: int


def run_cluster_sweep(
    plan: SweepPlan,
    address: str,
    dataset: str | os.PathLike[str],
    *,
    mode: str = "new",
    python: str | None = None,
    progress: ProgressCallback | None = None,
) -> ClusterResult:
    """Measures a plan on every type of device of a Ray cluster, each group on one free device of each type.

    Checkpoints must be readable at the same absolute path on every node, and every node needs this version of
    shunter. With a ``cuda`` device each GPU is one device; with any other, each node is one, with all its
    CPUs.

    Args:
        plan: What is measured, with ``cuda:0`` for "a GPU".
        address: Address of the cluster, as ``ray_cluster.connect`` takes it.
        dataset: The Parquet dataset, on the driver.
        mode: ``new``, ``resume`` or ``append``, as ``run_sweep`` takes it.
        python: Interpreter that has the engine, on every node; None: the one that runs Ray there.
        progress: Called after each unit.

    Raises:
        InputError: Ray is missing, the cluster cannot be reached or has no such device, no model fits the
            memory, the dataset is in the way or being written.
        NodeError: A node lacks a checkpoint, the engine, or this version of shunter.
        DevicesLostError: Devices were lost until none of their type was left; the rest is in the dataset.
        EngineError: An engine failed.
    """
    check_output(dataset, mode)
    if plan.device.kind == "cuda" and plan.device.index:
        raise InputError("--device", "be cuda:0 with --ray: Ray says which GPU is meant", plan.device.name)
    if plan.settings.budget_s is not None:
        raise InputError("--budget", "not be given with --ray", f"{plan.settings.budget_s:g} s")
    plan = _with_absolute_paths(plan)
    with connect(address) as ray:
        slots = _slots(ray, plan)
        with Journal(dataset, plan_id=plan.plan_id, session_id=plan.plan_id) as journal:
            written = _by_hardware(earlier_rows(dataset, journal) if mode == "resume" else [])
            try:
                return _ClusterSweep(ray, plan, python, journal, written, progress).run(slots)
            finally:
                journal.merge()


def _with_absolute_paths(plan: SweepPlan) -> SweepPlan:
    def absolute(group: Group) -> Group:
        return replace(group, checkpoint=replace(group.checkpoint, path=group.checkpoint.path.absolute()))

    return replace(plan, groups=tuple(map(absolute, plan.groups)))


def _slots(ray: Any, plan: SweepPlan) -> list[_Slot]:
    nodes = live_nodes(ray)
    if plan.device.kind == "cuda":
        slots = [_Slot(node, f"{node.name} GPU {i + 1}", 0, 1) for node in nodes for i in range(node.gpus)]
    else:
        slots = [_Slot(node, node.name, node.cpus, 0) for node in nodes if node.cpus]
    if not slots:
        what = "a GPU" if plan.device.kind == "cuda" else "a CPU"
        raise InputError("--ray", f"name a cluster with {what} for {plan.device.name}", f"{len(nodes)} nodes")
    return slots


class _ClusterSweep:
    def __init__(
        self,
        ray: Any,
        plan: SweepPlan,
        python: str | None,
        journal: Journal,
        written: Mapping[tuple[str, str], list[Mapping[str, Any]]],
        progress: ProgressCallback | None,
    ) -> None:
        self._ray, self._plan, self._python, self._journal = ray, plan, python, journal
        self._written, self._progress = written, progress
        self._kinds: dict[tuple[str, str], HardwareKind] = {}
        self._actors: dict[_Slot, Any] = {}
        self._unplaced: set[_Slot] = set()
        self._rows: Counter[str] = Counter()
        self._units_measured = 0
        self._refused: list[str] = []
        self._lost: list[str] = []
        self._start_s = time.monotonic()

    def run(self, slots: Sequence[_Slot]) -> ClusterResult:
        self._unplaced.update(slots)
        try:
            drive(self._ray, [self._serve(slot) for slot in slots], until=self._is_finished)
        finally:
            end_actors(self._ray, self._actors.values())
        self._check_complete()
        units_skipped = sum(kind.units_skipped for kind in self._kinds.values())
        check_not_all_refused(self._refused, self._units_measured + units_skipped)
        return ClusterResult(
            dataset=self._journal.dataset,
            session_ids=tuple(kind.session_id for kind in self._kinds.values()),
            rows=self._rows.total(),
            units_measured=self._units_measured,
            units_skipped=units_skipped,
            refused=tuple(self._refused),
            duration_s=time.monotonic() - self._start_s,
            rows_by_device=dict(self._rows),
            lost=tuple(self._lost),
        )

    def _is_finished(self) -> bool:
        # A device that somebody else uses may be of a type of its own, so it is waited for, but not for ever.
        waits = bool(self._unplaced) and time.monotonic() - self._start_s < _PLACE_S
        starting = len(self._actors) > len(self._unplaced) + sum(k.devices for k in self._kinds.values())
        left = [kind for kind in self._kinds.values() if kind.devices and not kind.is_finished]
        return not waits and not starting and not left

    def _serve(self, slot: _Slot) -> Task:
        options = {"num_cpus": slot.num_cpus, "num_gpus": slot.num_gpus, "max_restarts": 0}
        remote = self._ray.remote(DeviceWorker).options(scheduling_strategy=on_node(slot.node), **options)
        actor = self._actors[slot] = remote.remote(self._plan, self._python)
        kind = None
        try:
            yield actor.__ray_ready__.remote()
            self._unplaced.discard(slot)
            kind = self._kind_of(slot, (yield actor.start.remote()))
            kind.devices += 1
            while kind.has_work():
                if kind.todo:
                    yield from self._measure(slot, actor, kind)
                else:
                    yield None
        except WorkerLostError as error:
            self._lost.append(f"{slot.name}: {error}")
            self._unplaced.discard(slot)
            # It may only be out of reach: what it still does is not wanted any more.
            self._ray.kill(self._actors.pop(slot))
            if kind is not None:
                kind.devices -= 1

    def _kind_of(self, slot: _Slot, answer: Hello | GroupFailure) -> HardwareKind:
        hello = _checked(slot, answer)
        if hello.version != __version__:
            message = f"it has shunter {hello.version}, not {__version__} as here"
            raise NodeError(slot.name, GroupFailure("VersionError", message, 2))
        place = (hello.key, hello.can.engine_version)
        if place not in self._kinds:
            rows = self._written.get(place, [])
            self._kinds[place] = HardwareKind(self._plan, self._plan.new_session_id(), hello.can, rows)
        return self._kinds[place]

    def _measure(self, slot: _Slot, actor: Any, kind: HardwareKind) -> Task:
        work = kind.todo.popleft()
        left = deque(work.units)
        kind.under_way += 1
        try:
            begun_s = time.monotonic()
            _checked(slot, (yield actor.open.remote(work.group, kind.session_id)))
            if not work.tries:
                kind.pace.opened(work.group, time.monotonic() - begun_s)
            while left:
                start_s = time.monotonic()
                rows = _checked(slot, (yield actor.measure.remote(left[0])))
                self._keep(slot, kind, rows)
                kind.pace.measured(work.group, left.popleft(), time.monotonic() - start_s, rows)
                self._units_measured += 1
                self._report(slot, work.group)
            _checked(slot, (yield actor.leave.remote()))
        except DeviceMemoryError as error:
            self._refused.append(f"{work.group.label} on {error}")
            kind.refuse(work, left)
        except WorkerLostError:
            if left:
                kind.give_back(work, left)
            raise
        finally:
            kind.under_way -= 1

    def _keep(self, slot: _Slot, kind: HardwareKind, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows:
            if kind.keep(row):
                self._journal.append(row)
                self._rows[slot.name] += 1

    def _report(self, slot: _Slot, group: Group) -> None:
        if self._progress is None:
            return
        kinds = self._kinds.values()
        self._progress(
            SweepProgress(
                units_done=self._units_measured + sum(kind.units_skipped for kind in kinds),
                units=sum(kind.units for kind in kinds),
                rows=self._rows.total(),
                eta_s=max(kind.pace.eta_s() / max(1, kind.devices) for kind in kinds),
                text=f"{group.checkpoint.name}, {group.gpu_layers} layers on {slot.name}",
            )
        )

    def _check_complete(self) -> None:
        why = "; ".join(self._lost) or "none was free"
        if not self._kinds:
            raise DevicesLostError(f"no device could be used: {why}")
        missing = [work for kind in self._kinds.values() for work in (*kind.todo, *kind.given_up)]
        if missing:
            named = ", ".join(sorted({work.group.label for work in missing}))
            units = sum(len(work.units) for work in missing)
            raise DevicesLostError(
                f"{units} units are not measured, of {named}: no device of their type is left ({why}); "
                "--resume goes on when there is one"
            )


def _checked(slot: _Slot, answer: Any) -> Any:
    if not isinstance(answer, GroupFailure):
        return answer
    where = f"{slot.name}: {answer.message}"
    if answer.kind == DeviceMemoryError.__name__:
        raise DeviceMemoryError(where)
    if answer.kind in ("WorkerDiedError", "WorkerTimeoutError"):
        raise WorkerLostError(answer.message)
    raise NodeError(slot.name, answer)


def _by_hardware(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Rows by type of hardware and engine version."""
    types: dict[tuple[str, str], str] = {}
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        where = (row["device_kind"], row["hardware"])
        if where not in types:
            types[where] = hardware_key(row["device_kind"], json.loads(row["hardware"]))
        found[types[where], row["engine_version"]].append(row)
    return found
