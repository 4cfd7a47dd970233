"""A known disturbance: other programs that use every core for a while, rest as long, and so on.

``python -m benchmarks.fidelity_hog PID`` is one of them; it ends when the process PID does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

__all__ = ["STRETCH_S", "disturbed", "is_working"]

STRETCH_S = 60.0
"""How long it works, and rests: longer than a run takes, shorter than all of them."""

_TURN_S = 0.05


def is_working(at_s: float) -> bool:
    """Whether the programs are at work at a monotonic time: all at once, without telling each other."""
    return int(at_s // STRETCH_S) % 2 == 1


@contextmanager
def disturbed(programs: int | None = None) -> Iterator[list[int]]:
    """Starts the programs, one for each core unless told how many, and gives their process ids.

    They are nobody's children, so that whoever looks at the machine counts them as other programs.
    """
    count = programs or psutil.cpu_count() or 1
    command = [sys.executable, "-m", "benchmarks.fidelity_hog", str(os.getpid())]
    pids = [_started(command) for _ in range(count)]
    try:
        yield pids
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _started(command: list[str]) -> int:
    """Starts a program by a shell that ends at once, so that it is an orphan; returns its process id."""
    text = '"$@" >/dev/null 2>&1 & echo $!'
    root = Path(__file__).parents[1]
    done = subprocess.run(["sh", "-c", text, "sh", *command], cwd=root, stdout=subprocess.PIPE, check=True)
    return int(done.stdout)


def _work(pid: int) -> None:
    while psutil.pid_exists(pid):
        until_s = time.monotonic() + _TURN_S
        if is_working(until_s):
            while time.monotonic() < until_s:
                pass
        else:
            time.sleep(_TURN_S)


if __name__ == "__main__":
    _work(int(sys.argv[1]))
