"""Which process an id means: ids are given again, so a process is known by its id and when it started."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_STATE, _SESSION, _START_TICKS = 0, 3, 19
"""Places after the name in ``/proc/PID/stat``. Source: proc(5), fields 3, 6 and 22."""


def boot_id() -> str:
    """Tells the machine's present run from those before; start times count within one."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def start_ticks(pid: int) -> int | None:
    """When a process started, in ticks since the machine did; None if there is none, or it has ended."""
    fields = _fields(pid)
    return int(fields[_START_TICKS]) if fields and fields[_STATE] not in "ZX" else None


def session_pids(session: int) -> list[int]:
    """Live processes of a session: a server and all that it started, whatever their groups.

    It looks at every process of the machine, which may take some milliseconds.
    """
    found = []
    for name in os.listdir("/proc"):
        fields = _fields(int(name)) if name.isdigit() else None
        if fields and int(fields[_SESSION]) == session and fields[_STATE] not in "ZX":
            found.append(int(name))
    return found


def tree_pids(pid: int) -> list[int]:
    """A process and its descendants, found from parent to child."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, children.read_text(encoding="ascii").split())
    return found


def _fields(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()
