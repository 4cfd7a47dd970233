"""The device process of a loopback device: ggml's RPC server on the CPU backend.

Usage: ``python -I loopback_server.py LIBGGML LIBGGML_RPC THREADS PARENT_PID [--cores=N,N]
[--share=PERCENT] [--parent-is-main-thread]``.
It needs nothing but the two libraries. It writes the port it listens on to its standard output, then answers
each line of its standard input with one line once it has given freed memory back, and ends at once when that
input closes: its parent holds the other end, so it cannot outlive it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from typing import NoReturn, TextIO

_PR_SET_PDEATHSIG = 1
_CPU_DEVICE_TYPE = 0
_PERIOD_S = 0.004


def main(argv: list[str]) -> int:
    """Serves until the parent is gone; returns only if the server cannot start."""
    libggml, libggml_rpc, threads, parent_pid = argv[:4]
    _end_with_parent(int(parent_pid), "--parent-is-main-thread" in argv)
    options = dict(option.partition("=")[::2] for option in argv[4:])
    if options.get("--cores"):
        os.sched_setaffinity(0, map(int, options["--cores"].split(",")))  # first of all: threads inherit it
    _slow_down(int(options.get("--share", 100)) / 100)
    report = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # ggml tells there of each connection; errors go to stderr
    threading.Thread(target=_attend, args=(report,), daemon=True).start()
    _serve(libggml, libggml_rpc, int(threads))
    return 1


def _slow_down(share: float) -> None:
    device_pid = os.getpid()
    if share < 1 and os.fork() == 0:  # before there are threads
        _govern(device_pid, share)


def _govern(device_pid: int, share: float) -> NoReturn:
    # A process of its own, since a stopped one cannot wake itself. The kernel ends it with the device.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    os.closerange(0, 2)
    next_s = time.monotonic()
    while os.getppid() == device_pid:
        _sleep_until(next_s + share * _PERIOD_S)
        os.kill(device_pid, signal.SIGSTOP)
        # A late start moves the end of the pause with it: the device never catches up on what it missed.
        next_s = max(next_s + _PERIOD_S, time.monotonic() + (1 - share) * _PERIOD_S)
        _sleep_until(next_s)
        os.kill(device_pid, signal.SIGCONT)
    os._exit(0)


def _sleep_until(end_s: float) -> None:
    time.sleep(max(0.0, end_s - time.monotonic()))


def _end_with_parent(parent_pid: int, parent_is_main_thread: bool) -> None:
    # The signal comes when the thread that started this process ends; the closing of standard input covers
    # parents that did it from another thread than their main one.
    if parent_is_main_thread:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def _serve(libggml: str, libggml_rpc: str, threads: int) -> None:
    registry = ctypes.CDLL(libggml, mode=ctypes.RTLD_GLOBAL)
    rpc = ctypes.CDLL(libggml_rpc)
    registry.ggml_backend_dev_by_type.restype = ctypes.c_void_p
    devices = (ctypes.c_void_p * 1)(registry.ggml_backend_dev_by_type(_CPU_DEVICE_TYPE))
    start = rpc.ggml_backend_rpc_start_server
    start.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p]
    # Port 0 lets the kernel pick a free one; a port chosen by the parent could be taken meanwhile.
    start(b"127.0.0.1:0", None, threads, 1, ctypes.cast(devices, ctypes.c_void_p))


def _attend(report: TextIO) -> None:
    libc = ctypes.CDLL(None)
    print(_listening_port(), file=report, flush=True)
    for _ in sys.stdin:
        libc.malloc_trim(0)
        print("trimmed", file=report, flush=True)
    os._exit(0)


def _listening_port() -> int:
    while True:
        for name in os.listdir("/proc/self/fd"):
            port = _prepared_port(int(name))
            if port is not None:
                return port
        time.sleep(0.002)


def _prepared_port(descriptor: int) -> int | None:
    try:
        server = socket.socket(fileno=os.dup(descriptor))
    except OSError:  # no socket, or closed meanwhile
        return None
    with server:
        if not server.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return None
        # Accepted connections inherit it; without it small replies wait 40 ms for delayed acknowledgements.
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        port: int = server.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
