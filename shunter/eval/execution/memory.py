"""Memory of a process and all that it started, shared pages counted once."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

__all__ = ["tree_pss_bytes"]


def tree_pss_bytes(pid: int | None = None) -> int:
    """Proportional set size of a process and its descendants, from ``/proc/*/smaps_rollup``.

    Args:
        pid: Id of the process; None: this one.
    """
    root = psutil.Process(pid)
    total = 0
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(OSError):  # it ended meanwhile
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total
