"""The node's side of a sweep over a cluster: one engine on one device, measured where it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from shunter import __version__
from shunter.catalog.checkpoints import Checkpoint, read_checkpoint
from shunter.catalog.devices import DeviceSpec
from shunter.engines.base import Capabilities, DeviceMemoryError, EngineError
from shunter.engines.caller.client import WorkerEngine
from shunter.engines.caller.entries import start_engine
from shunter.errors import ShunterError
from shunter.profiling.dataset.fingerprint import digest, hardware, hardware_id
from shunter.profiling.meters.conditions import Sensors
from shunter.profiling.meters.metered import MeteredEngine
from shunter.profiling.sweep.footprint import shortage
from shunter.profiling.sweep.measure import GroupRun, sweep_facts
from shunter.profiling.sweep.plan import Group, SweepPlan, Unit, model_facts


@dataclass(frozen=True)
class GroupFailure:
    """What went wrong on the node; errors travel as data, since not every exception can be pickled.

    Attributes:
        kind: Name of the error's class.
        message: One line.
        exit_code: Exit code of the error.
    """

    kind: str
    message: str
    exit_code: int


@dataclass(frozen=True)
class Hello:
    """What a device's worker says of itself.

    Attributes:
        version: Version of shunter on the worker's node.
        can: The engine's capabilities.
        key: Equal for devices that need not be measured twice (``hardware_key``).
    """

    version: str
    can: Capabilities
    key: str


class DeviceWorker:
    """Measures groups on one device, one after another; an actor on the device's node.

    Every call returns ``GroupFailure`` instead of raising what a sweep expects to go wrong.

    Args:
        plan: The sweep.
        python: Interpreter that has the engine on the node; None: the one that runs this.
    """

    def __init__(self, plan: SweepPlan, python: str | None) -> None:
        self._plan = plan
        self._python = python
        self._stack = ExitStack()
        self._engine: WorkerEngine | None = None
        self._run: GroupRun | None = None
        self._resident = ExitStack()

    def start(self) -> Hello | GroupFailure:
        """Checks the checkpoints and starts the engine."""
        try:
            for checkpoint in dict.fromkeys(group.checkpoint for group in self._plan.groups):
                _check_same(checkpoint)
            self._engine = self._stack.enter_context(
                start_engine(self._plan.engine, self._plan.device.name, python=self._python)
            )
            can = self._engine.capabilities()
        except (ShunterError, EngineError) as error:
            return _failure(error)
        facts = _hardware(self._plan.device)
        return Hello(__version__, can, hardware_key(self._plan.device.kind, facts))

    def open(self, group: Group, session_id: str) -> GroupFailure | None:
        """Makes a group's model resident."""
        if self._engine is None:
            raise RuntimeError("open before start")
        facts = _hardware(self._plan.device)
        here = {"hardware": json.dumps(facts, sort_keys=True), "hardware_id": hardware_id(facts)}
        sensors = Sensors(replace(self._plan.device, index=_gpu_index()))
        try:
            row_facts = {**sweep_facts(self._plan, self._engine, session_id), **here}
            engine = MeteredEngine(self._engine, sensors)
            line = shortage(self._plan, group, engine)
            if line is not None:
                return GroupFailure(DeviceMemoryError.__name__, line, 1)
            self._run = GroupRun(engine, self._plan, group, row_facts, lambda row: None)
            self._resident.enter_context(self._run.resident())
        except (ShunterError, EngineError) as error:
            return self._failed(error)
        return None

    def measure(self, unit: Unit) -> list[dict[str, Any]] | GroupFailure:
        """Measures one unit of the group that is open."""
        if self._run is None:
            raise RuntimeError("measure before open")
        try:
            return self._run.measure(unit)
        except (ShunterError, EngineError) as error:
            return self._failed(error)

    def leave(self) -> GroupFailure | None:
        """Unloads the group's model."""
        try:
            self._resident.close()
        except (ShunterError, EngineError) as error:
            return _failure(error)
        return None

    def close(self) -> None:
        """Ends the engine's process."""
        self._stack.close()

    def _failed(self, error: ShunterError | EngineError) -> GroupFailure:
        self._resident.pop_all()
        if isinstance(error, DeviceMemoryError) and self._run is not None:
            self._run.unload()
        return _failure(error)


def hardware_key(device_kind: str, facts: dict[str, Any]) -> str:
    """Names a type of hardware: two devices of one key need not both be measured.

    For a GPU it is its name and memory and the CPU's model, which runs the layers that are offloaded; for a
    CPU the whole machine.

    Args:
        device_kind: As in ``DEVICE_KINDS``.
        facts: As the dataset's column ``hardware`` holds them.
    """
    if device_kind != "cuda":
        return hardware_id(facts)
    return digest([sorted(set(facts["gpus"])), facts["cpu_model"]])


def _hardware(device: DeviceSpec) -> dict[str, Any]:
    """This machine's facts with only the GPU that this worker was given."""
    facts = hardware()
    if device.kind != "cuda":
        return facts
    gpus = facts["gpus"]
    index = _gpu_index()
    return {**facts, "gpus": gpus[index : index + 1] or gpus}


def _gpu_index() -> int:
    """Position of this process's GPU among all of the machine, as nvidia-smi and NVML count."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if given.isdigit():
        return int(given)
    tool = shutil.which("nvidia-smi")
    if not given or tool is None:
        return 0
    query = [tool, "--query-gpu=uuid", "--format=csv,noheader"]
    listed = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False).stdout.split()
    return next((index for index, uuid in enumerate(listed) if uuid.startswith(given)), 0)


def _check_same(wanted: Checkpoint) -> None:
    found = read_checkpoint(wanted.path, field="--model").named(wanted.name)
    mine, theirs = digest(model_facts(found)), digest(model_facts(wanted))
    if mine != theirs:
        raise ShunterError(f"{wanted.path} is another model than on the driver: {mine}, not {theirs}")


def _failure(error: ShunterError | EngineError) -> GroupFailure:
    return GroupFailure(type(error).__name__, str(error), error.exit_code)
