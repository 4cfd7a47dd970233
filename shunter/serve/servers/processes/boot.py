"""Becomes a server that the kernel ends with its gateway.

Usage: ``python -I boot.py PARENT_PID CORES COMMAND...``. PARENT_PID is 0 where the kernel is to end nothing,
CORES is like ``0,2``, or empty for any. What is set here stays through exec; to set it between fork and exec
is not safe in a process that has threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    """Sets the signal and the cores, then becomes the command."""
    parent_pid, cores, *command = argv
    if parent_pid != "0":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != int(parent_pid):
            os._exit(1)
    if cores:
        os.sched_setaffinity(0, map(int, cores.split(",")))
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]} cannot be started: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
