"""The loopback device's process: its sockets, its memory and its end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from shunter.catalog.devices import parse_device
from shunter.catalog.models import get_model, scaled_model
from shunter.profiling.engines.base import WorkerDiedError
from shunter.profiling.synthetic import write_checkpoint
from shunter.profiling.worker import start_engine

pytest.importorskip("llama_cpp")

from shunter.profiling.engines.llama_cpp import LlamaCppEngine
from shunter.profiling.engines.loopback import LoopbackDevice

pytestmark = pytest.mark.engine

SPEC = scaled_model(get_model("Qwen3-8B"), 12e6)
PIDFD_GETFD = 438
OWNER = """
import sys
from shunter.profiling.engines.llama_cpp import LlamaCppEngine
device = dict(name="l", kind="loopback", index=0, threads=1, memory_bytes=None)
engine = LlamaCppEngine(device)
engine.load("m", sys.argv[1], None, context_tokens=4096, max_batch=1)
engine.prefill("m", "r", [1, 2, 3])
print(engine._device.pid, flush=True)
engine.decode("m", {"r": 4000}, max_steps=4000)
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("loopback") / "tiny.gguf"
    return str(write_checkpoint(SPEC, path, format="gguf", quantization="Q8_0").path)


@pytest.fixture
def device() -> Iterator[LoopbackDevice]:
    device = LoopbackDevice(1)
    yield device
    device.close()


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.01)


def connections(pid: int) -> list[socket.socket]:
    """Copies of the TCP sockets of a process."""
    libc, pidfd, found = ctypes.CDLL(None, use_errno=True), os.pidfd_open(pid), []
    for name in os.listdir(f"/proc/{pid}/fd"):
        if not os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
            continue
        copy = libc.syscall(PIDFD_GETFD, pidfd, int(name), 0)
        if copy < 0:
            pytest.skip(f"this system lets no process look into its child: {os.strerror(ctypes.get_errno())}")
        end = socket.socket(fileno=copy)
        if end.family == socket.AF_INET:
            found.append(end)
        else:
            end.close()
    os.close(pidfd)
    return found


def test_both_ends_send_small_messages_at_once(device: LoopbackDevice) -> None:
    with contextlib.ExitStack() as copies:
        ours = [copies.enter_context(end) for end in connections(os.getpid())]
        theirs = [copies.enter_context(end) for end in connections(device.pid)]
        ports = {end.getsockname()[1] for end in theirs}
        ours = [end for end in ours if not _listens(end) and end.getpeername()[1] in ports]
        assert ours
        assert len(theirs) >= 2
        for end in [*ours, *theirs]:
            assert end.getsockname()[0] == "127.0.0.1"
            assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def _listens(end: socket.socket) -> bool:
    return bool(end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def test_closing_ends_the_device_process() -> None:
    device = LoopbackDevice(1)
    assert runs(device.pid)
    device.close()
    assert not runs(device.pid)
    device.close()


def test_the_device_outlives_the_thread_that_started_it() -> None:
    started: list[LoopbackDevice] = []
    thread = threading.Thread(target=lambda: started.append(LoopbackDevice(1)))
    thread.start()
    thread.join()
    started[0].trim()
    assert runs(started[0].pid)
    started[0].close()


def test_the_device_dies_with_a_killed_owner(checkpoint: str) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER, checkpoint], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        device_pid = int(owner.stdout.readline())
        assert runs(device_pid)
        owner.send_signal(signal.SIGKILL)
    wait_for(lambda: not runs(device_pid), "the device process outlived its owner")


def test_a_dead_device_ends_the_worker_in_mid_call(checkpoint: str) -> None:
    with start_engine("llama-cpp", "loopback:1-threads") as engine:
        engine.load("m", checkpoint, None, context_tokens=4096, max_batch=1)
        engine.prefill("m", "r", [1, 2, 3])
        worker_pid, device_pid = engine.pids()
        threading.Timer(0.5, os.kill, (device_pid, signal.SIGKILL)).start()
        with pytest.raises(WorkerDiedError, match="RPC"):
            engine.decode("m", {"r": 4000}, max_steps=4000)
        assert not runs(worker_pid)


def test_two_devices_at_once_keep_apart(checkpoint: str) -> None:
    engines = [LlamaCppEngine(asdict(parse_device("loopback:1-threads"))) for _ in range(2)]
    first, second = engines
    before_bytes = [engine.memory().device_bytes for engine in engines]
    first.load("m", checkpoint, None, context_tokens=256, max_batch=1)
    grown_bytes = [e.memory().device_bytes - b for e, b in zip(engines, before_bytes, strict=True)]
    assert grown_bytes[0] > 1e7
    assert grown_bytes[1] < 1e6
    second.load("m", checkpoint, SPEC.layers // 2, context_tokens=256, max_batch=1)
    tokens = []
    for engine in engines:
        engine.prefill("m", "r", [7, 8, 9])
    for _ in range(3):
        tokens.append([engine.decode("m", {"r": 8}, max_steps=8).tokens["r"] for engine in engines])
    first.close()
    second.decode("m", {"r": 8}, max_steps=8)
    second.close()
    assert all(mine == theirs for mine, theirs in tokens)
