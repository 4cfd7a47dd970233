"""Commands begun in a process that has all imported and compiled, so that their work is what is cut off.

Of a command of a second, most of the time goes into imports: kills at random moments would mostly meet those.
The processes are forked from one that has done nothing but import, and play an episode for compiled code.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import resource
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

__all__ = ["start"]


def start(
    words: Sequence[str], *, folder: Path, said: Path, environment: Mapping[str, str], most_bytes: int = 0
) -> BaseProcess:
    """Begins a command of shunter's in a process and session of its own.

    Args:
        words: Its command line, without the program.
        folder: Where it runs.
        said: File that gets what it prints.
        environment: Variables that it finds set, beside those of this process; those of MLflow are not.
        most_bytes: How large a file may grow; 0: as large as there is room for.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.robust_preloaded"])
    told = (list(words), folder, said, dict(environment), most_bytes)
    process: BaseProcess = context.Process(target=_command, args=told)
    process.start()
    return process


def _command(
    words: list[str], folder: Path, said: Path, environment: dict[str, str], most_bytes: int
) -> None:
    from shunter.cli.main import main

    os.setsid()
    os.chdir(folder)
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]
    os.environ.update(environment)
    tempfile.tempdir = None
    with said.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    if most_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    try:
        main(words)
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
