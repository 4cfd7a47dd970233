"""What was measured on: hardware and software versions, in a form that identifies a machine."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from shunter import __version__

__all__ = ["digest", "hardware", "hardware_id", "rows_digest", "software"]

_GIB = 2**30


def digest(value: object, length: int = 12) -> str:
    """Short hexadecimal SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def rows_digest(row_ids: Iterable[str]) -> str:
    """Names the rows of a dataset by their ids, in whatever order they are."""
    return digest(sorted(row_ids), 16)


@cache
def hardware() -> dict[str, Any]:
    """This machine: CPU model, logical cores, RAM (GiB), GPUs (name and MiB, by nvidia-smi) and kernel."""
    return {
        "cpu_model": _cpu_model(),
        "logical_cores": psutil.cpu_count() or 1,
        "ram_gib": round(psutil.virtual_memory().total / _GIB),
        "gpus": _gpus(),
        "system": platform.system(),
        "kernel": platform.release(),
    }


def hardware_id(facts: Mapping[str, Any] | None = None) -> str:
    """Short hash of the hardware; a kernel update keeps it.

    Args:
        facts: As from ``hardware``, which is used if left out.
    """
    facts = hardware() if facts is None else facts
    return digest({key: facts[key] for key in ("cpu_model", "logical_cores", "ram_gib", "gpus")})


def versions(engine: str, engine_version: str, extra: Mapping[str, str]) -> dict[str, str]:
    """Versions worth keeping with a measurement: Python, shunter, libraries, the engine and its own list."""
    return {**software(), engine: engine_version, **extra}


def software() -> dict[str, str]:
    """Versions of Python, shunter and the libraries that data goes through."""
    libraries = {name: metadata.version(name) for name in ("numpy", "pandas", "pyarrow")}
    return {**libraries, "python": platform.python_version(), "shunter": __version__}


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return ["unknown: nvidia-smi did not answer"]
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []
