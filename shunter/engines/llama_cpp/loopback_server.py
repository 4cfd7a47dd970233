"""The device process of a loopback device: ggml's RPC server on the CPU backend.

Usage: ``python -I loopback_server.py LIBGGML LIBGGML_RPC THREADS PARENT_PID [--cores=N,N]
[--share=PERCENT] [--parent-is-main-thread] [--serves-descendants]``.
It needs nothing but the two libraries. It writes the port it listens on to its standard output, then answers
each line of its standard input with one line once it has given freed memory back, and ends at once when that
input closes: its parent holds the other end, so it cannot outlive it.

ggml's server would serve whoever connects first, and its protocol is not made for strangers. So its calls of
``accept`` are answered here: a connection that is not one of the parent's sockets is closed before a byte of
it is read, and if the parent's does not come in time, this process ends. Where the parent starts a program to
use the device, sockets of the parent's descendants are taken too, whenever they come.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from functools import partial
from typing import Any, NoReturn, TextIO

_PR_SET_PDEATHSIG = 1
_CPU_DEVICE_TYPE = 0
_PERIOD_S = 0.004
_ACCEPT_S = 30.0
_ACCEPT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_LIBC = ctypes.CDLL(None, use_errno=True)
_RTLD_DI_LINKMAP = 2
_DT_PLTRELSZ, _DT_STRTAB, _DT_SYMTAB, _DT_RELA, _DT_RELASZ, _DT_JMPREL = 2, 5, 6, 7, 8, 23
_RELA_BYTES = _SYM_BYTES = 24


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
    _serve(libggml, libggml_rpc, int(threads), descendants="--serves-descendants" in argv)
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


def _serve(libggml: str, libggml_rpc: str, threads: int, *, descendants: bool) -> None:
    registry = ctypes.CDLL(libggml, mode=ctypes.RTLD_GLOBAL)
    rpc = ctypes.CDLL(libggml_rpc)
    registry.ggml_backend_dev_by_type.restype = ctypes.c_void_p
    devices = (ctypes.c_void_p * 1)(registry.ggml_backend_dev_by_type(_CPU_DEVICE_TYPE))
    accept = _ACCEPT(partial(_accept, descendants))
    _answer_calls(rpc, b"accept", accept)
    start = rpc.ggml_backend_rpc_start_server
    start.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p]
    # Port 0 lets the kernel pick a free one; a port chosen by the parent could be taken meanwhile.
    start(b"127.0.0.1:0", None, threads, 1, ctypes.cast(devices, ctypes.c_void_p))


def _accept(descendants: bool, listening: int, address: int | None, length: int | None) -> int:
    """In place of accept(2) for ggml's server: only connections of whoever is served are taken."""
    try:
        # The parent comes at once and stays; its descendants take their time, and may come and go.
        end_s = math.inf if descendants else time.monotonic() + _ACCEPT_S
        while _comes(listening, end_s):
            taken: int = _LIBC.accept(listening, ctypes.c_void_p(address), ctypes.c_void_p(length))
            if taken < 0 or _is_served(taken, descendants):
                return taken
            os.close(taken)
        print("whoever started the loopback device did not connect in time", file=sys.stderr)
    except BaseException as error:  # ctypes would go on with 0, a descriptor that is not ours
        print(f"the loopback device cannot tell who connects: {error}", file=sys.stderr)
    os._exit(1)


def _comes(listening: int, end_s: float) -> bool:
    left_s = None if end_s == math.inf else max(0.0, end_s - time.monotonic())
    return bool(select.select([listening], [], [], left_s)[0])


def _is_served(connection: int, descendants: bool) -> bool:
    """Whether the other end of a connection over 127.0.0.1 is a socket of the parent's, or a descendant's."""
    with socket.socket(fileno=os.dup(connection)) as end:
        ours, theirs = (_hex_of(name()) for name in (end.getsockname, end.getpeername))
    with open("/proc/net/tcp", encoding="ascii") as table:
        rows = [line.split() for line in table]
    inodes = {row[9] for row in rows if row[1:3] == [theirs, ours] and row[7] == str(os.getuid())}
    sockets = {f"socket:[{inode}]" for inode in inodes}
    parent = os.getppid()
    if _holds(parent, sockets):
        return True
    return descendants and any(_holds(pid, sockets) for pid in _descendants(parent))


def _holds(pid: int, sockets: set[str]) -> bool:
    """Whether a process has one of these open."""
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # ended meanwhile, or another user's
        return False
    for name in names:
        try:
            if os.readlink(f"{folder}/{name}") in sockets:
                return True
        except (FileNotFoundError, ProcessLookupError):  # closed meanwhile
            continue
    return False


def _descendants(ancestor: int) -> list[int]:
    """Ids of the processes that a process has started, and that these have."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError, PermissionError):  # ended meanwhile
            continue
        children.setdefault(parent, []).append(int(name))
    found, left = [], [ancestor]
    while left:
        new = children.get(left.pop(), [])
        found += new
        left += new
    return found


def _hex_of(address: tuple[str, int]) -> str:
    """An address and port as /proc/net/tcp has them."""
    (number,) = struct.unpack("=I", socket.inet_aton(address[0]))
    return f"{number:08X}:{address[1]:04X}"


def _answer_calls(library: ctypes.CDLL, name: bytes, function: Any) -> None:
    """Has a library's calls of a function of another library go to one of ours, by its relocation table.

    Source: System V ABI, "Dynamic Linking"; dlinfo(3); the entries are those of 64-bit ELF with addends.

    Raises:
        RuntimeError: It calls no such function.
    """
    pointer = ctypes.POINTER(ctypes.c_size_t)()  # to link_map: base address, name, dynamic section, ...
    _LIBC.dlinfo(ctypes.c_void_p(library._handle), _RTLD_DI_LINKMAP, ctypes.byref(pointer))
    base, dynamic, tags = pointer[0], ctypes.cast(pointer[2], ctypes.POINTER(ctypes.c_size_t)), {}
    for i in range(0, 1000, 2):
        if dynamic[i] == 0:
            break
        tags[dynamic[i]] = dynamic[i + 1]
    found = False
    for table, size in ((tags.get(_DT_JMPREL), _DT_PLTRELSZ), (tags.get(_DT_RELA), _DT_RELASZ)):
        for at in range(table or 0, (table or 0) + (tags.get(size, 0) if table else 0), _RELA_BYTES):
            offset, info, _ = struct.unpack("=QQq", ctypes.string_at(at, _RELA_BYTES))
            (where,) = struct.unpack("=I", ctypes.string_at(tags[_DT_SYMTAB] + (info >> 32) * _SYM_BYTES, 4))
            if info >> 32 and ctypes.string_at(tags[_DT_STRTAB] + where) == name:
                _overwrite(base + offset, ctypes.cast(function, ctypes.c_void_p).value or 0)
                found = True
    if not found:
        raise RuntimeError(f"this build of ggml's RPC server calls no {name.decode()}")


def _overwrite(address: int, value: int) -> None:
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    page = ctypes.c_void_p(address // page_bytes * page_bytes)
    if _LIBC.mprotect(page, ctypes.c_size_t(page_bytes), mmap.PROT_READ | mmap.PROT_WRITE):
        raise OSError(ctypes.get_errno(), "mprotect")
    ctypes.c_size_t.from_address(address).value = value


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
