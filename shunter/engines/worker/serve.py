"""The worker's side of the wire: builds one engine, serves its calls, and ends with its caller."""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import os
import platform
import select
import signal
import socket
import sys
import threading
import traceback
from typing import Any

from ..affinity import checked_cores
from ..base import Capabilities, Engine, EngineError, EngineUnavailableError
from ..registry import ENGINES
from . import wire

CALLS = frozenset(
    name for name, member in vars(Engine).items() if callable(member) and not name.startswith("_")
)

_PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> int:
    """Serves until the caller closes its end; the exit status is 0 then and 1 if the engine cannot start."""
    arguments = _parse(argv)
    connection = socket.socket(fileno=arguments.fd)
    connection.set_inheritable(False)
    _end_with_caller(connection, arguments.caller_pid, arguments.caller_is_main_thread)
    with connection:
        try:
            engine = _create(arguments.engine, json.loads(arguments.device))
            capabilities = engine.capabilities()
        except Exception as error:
            traceback.print_exc()
            connection.sendall(wire.pack({"error": wire.encode_error(error)}))
            return 1
        connection.sendall(wire.pack({"hello": _hello(capabilities)}))
        _serve(connection, engine)
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="boot.py", description=__doc__)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--caller-pid", type=int, required=True)
    parser.add_argument("--caller-is-main-thread", action="store_true")
    return parser.parse_args(argv)


def _create(name: str, device: dict[str, Any]) -> Engine:
    entry = ENGINES[name]
    if device["mmap"] and not entry.chooses_mmap:
        raise EngineUnavailableError(
            f"engine {name!r} leaves no choice of mmap; use a device without it. Got {device['name']!r}"
        )
    if device["kind"] == "cpu" and device["cores"]:
        os.sched_setaffinity(0, checked_cores(device["cores"]))  # before the engine starts its threads
    try:
        module = importlib.import_module(".." + entry.module, __package__)
    except (ImportError, OSError, RuntimeError) as error:
        traceback.print_exc()
        needed = " ".join(entry.packages)
        raise EngineUnavailableError(
            f"{sys.executable} cannot run engine {name!r} ({error}); "
            f"install it there with: {sys.executable} -m pip install {needed}"
        ) from error
    engine: Engine = module.create(device)
    return engine


def _hello(capabilities: Capabilities) -> dict[str, Any]:
    return {
        "protocol": wire.PROTOCOL_VERSION,
        "engine": capabilities.engine,
        "engine_version": capabilities.engine_version,
        "python": platform.python_version(),
    }


def _serve(connection: socket.socket, engine: Engine) -> None:
    while (message := wire.receive(connection)) is not None:
        name = message.get("call")
        reply: dict[str, Any]
        try:
            if name not in CALLS:
                raise EngineError(f"an engine has no call {name!r}")
            reply = {"result": wire.encode_value(getattr(engine, name)(**message["args"]))}
        except Exception as error:
            if not isinstance(error, EngineError):
                traceback.print_exc()
            reply = {"error": wire.encode_error(error)}
        connection.sendall(wire.pack(reply))
        if name == "close":
            return


def _end_with_caller(connection: socket.socket, caller_pid: int, caller_is_main_thread: bool) -> None:
    # The kernel's signal is tied to the thread that started this process, not to its process: asked for
    # after a start from a helper thread, it would kill a healthy worker when that thread ends.
    if sys.platform == "linux" and caller_is_main_thread:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != caller_pid:
        os._exit(1)
    threading.Thread(target=_kill_group_on_hangup, args=(connection,), daemon=True).start()


def _kill_group_on_hangup(connection: socket.socket) -> None:
    # A caller that dies while the main thread is deep in a native call would go unnoticed there.
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLHUP)
    poll.poll()
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
